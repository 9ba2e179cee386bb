//! What belongs to a session: settings, notifications, its end; and function calls.

use super::support::differential::Script;
use super::support::frontend::{extended, frame, function_call, query, sync, terminate};
use super::{check, check_in_sessions};

/// Object ids of functions, the same in every PostgreSQL.
const INT4_DIVIDE: u32 = 154;
const INT4_PLUS: u32 = 177;

#[test]
fn function_calls() {
    check(
        &Script::new("function calls")
            .errors(&["22012", "42883", "22012", "25P02"])
            .send(function_call(INT4_PLUS, &[Some("40"), Some("2")]))
            .ready()
            .send(function_call(INT4_PLUS, &[Some("1"), None]))
            .ready()
            .send(function_call(INT4_DIVIDE, &[Some("1"), Some("0")]))
            .ready()
            .send(function_call(4_000_000, &[]))
            .ready()
            .query("BEGIN")
            .send(function_call(INT4_PLUS, &[Some("1"), Some("1")]))
            .ready()
            .send(function_call(INT4_DIVIDE, &[Some("1"), Some("0")]))
            .ready()
            .send(function_call(INT4_PLUS, &[Some("1"), Some("1")]))
            .ready()
            .query("ROLLBACK")
            .pipeline(&[function_call(INT4_PLUS, &[Some("2"), Some("2")]), query("SELECT 5"), sync()])
            .ready()
            .ready()
            .ready(),
    );
}

#[test]
fn settings_that_postgresql_reports_follow_the_client() {
    check(
        &Script::new("settings")
            .errors(&["22023"])
            .parameter("application_name", "differential")
            .parameter("DateStyle", "German")
            .parameter("options", "-c statement_timeout=54321 -c search_path=pg_catalog")
            .query("SHOW application_name; SHOW DateStyle; SHOW statement_timeout; SHOW search_path")
            .query("SET DateStyle = 'SQL, DMY'")
            .query("SELECT date '2024-02-29'")
            .query("SET TimeZone = 'Europe/Berlin'; SET application_name = 'changed'")
            .query("SHOW application_name; SELECT timestamptz '2024-07-01 00:00Z'")
            .query("BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'")
            .query("SHOW TimeZone")
            .query("ROLLBACK")
            .query("SHOW TimeZone")
            .query("BEGIN; SET work_mem = '8MB'")
            .query("SHOW work_mem")
            .query("ROLLBACK")
            .query("SHOW work_mem; SHOW TimeZone")
            .query("SET work_mem = 'nonsense'")
            .query("SHOW statement_timeout"),
    );
}

/// Transaction pooling does not carry these from server to server yet; it resets them.
#[test]
fn other_settings_stay_for_the_session_under_session_pooling() {
    check_in_sessions(
        &Script::new("settings of a session")
            .query("SET work_mem = '7MB'")
            .query("SHOW work_mem")
            .query("BEGIN; SET work_mem = '8MB'")
            .query("ROLLBACK")
            .query("SHOW work_mem")
            .query("SELECT set_config('work_mem', '9MB', false)")
            .query("SHOW work_mem")
            .query("RESET work_mem")
            .query("SHOW work_mem"),
    );
}

#[test]
fn another_client_encoding() {
    check(
        &Script::new("encoding")
            .errors(&["22P05"])
            .parameter("client_encoding", "LATIN1")
            .query("SELECT 'plain'")
            .send(frame(b'Q', b"SELECT '\xfcml\xe4ut', length('\xfc')\0"))
            .ready()
            .query("SELECT U&'\\4E2D'")
            .query("SET client_encoding = 'UTF8'")
            .query("SELECT U&'\\4E2D'"),
    );
}

#[test]
fn what_is_owed_is_delivered_before_the_end() {
    check(
        &Script::new("endings")
            .client("terminates")
            .pipeline(&[query("SELECT 1"), extended("SELECT 2", &[]), terminate()])
            .end()
            .client("half-closes")
            .send(query("SELECT g FROM generate_series(1, 3) AS g"))
            .half_close()
            .end()
            .client("terminates in a transaction")
            .query("BEGIN")
            .send(terminate())
            .end()
            .client("says nothing")
            .send(terminate())
            .end(),
    );
}

#[test]
fn notifications_reach_the_session_that_listens() {
    check_in_sessions(
        &Script::new("notifications")
            .query("LISTEN differential_a")
            .query("NOTIFY differential_a, 'one'")
            .query("BEGIN; NOTIFY differential_a, 'two'; NOTIFY differential_a, 'two'")
            .query("COMMIT")
            .query("UNLISTEN *")
            .query("NOTIFY differential_a, 'nobody hears'"),
    );
}
