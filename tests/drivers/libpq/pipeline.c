/* libpq as a C program uses it: pipeline mode with errors in the middle, single row mode, COPY, cancel, prepared
 * statements, cursors. Environment: PG* is what to test, DIRECT_HOST and DIRECT_PORT are PostgreSQL itself. */
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;
static bool current_failed;
static bool direct_run;
static int rounds = 300;

/* Says what is wrong in the current test; the test goes on. */
__attribute__((format(printf, 2, 3))) static void complain(int line, const char *format, ...) {
    va_list arguments;
    printf("line %d: ", line);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    current_failed = true;
}

static void same_text(int line, const char *expected, const char *actual) {
    if (strcmp(expected, actual) != 0) complain(line, "expected \"%s\", got \"%s\"", expected, actual);
}
static void same_number(int line, long expected, long actual) {
    if (expected != actual) complain(line, "expected %ld, got %ld", expected, actual);
}
#define SAME(expected, actual) same_text(__LINE__, expected, actual)
#define EQUAL(expected, actual) same_number(__LINE__, expected, actual)

static PGconn *connect_to(const char *host, const char *port) {
    const char *keywords[] = {"host", "port", NULL};
    const char *values[] = {host, port, NULL};
    PGconn *conn = PQconnectdbParams(keywords, values, 0);
    if (PQstatus(conn) != CONNECTION_OK) {
        fprintf(stderr, "%s", PQerrorMessage(conn));
        exit(1);
    }
    return conn;
}

static PGconn *connect_here(void) { return connect_to(NULL, NULL); }
static PGconn *connect_direct(void) { return connect_to(getenv("DIRECT_HOST"), getenv("DIRECT_PORT")); }

/* The first value of a query, or its SQLSTATE, or the tag of a command without rows. */
static const char *value_of(PGconn *conn, const char *sql) {
    static char value[4][256];
    static int next;
    char *text = value[next++ % 4];
    PGresult *result = PQexec(conn, sql);
    switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK: snprintf(text, 256, "%s", PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "(no row)"); break;
    case PGRES_COMMAND_OK: snprintf(text, 256, "%s", PQcmdStatus(result)); break;
    case PGRES_FATAL_ERROR: snprintf(text, 256, "%s", PQresultErrorField(result, PG_DIAG_SQLSTATE)); break;
    default: snprintf(text, 256, "%s", PQresStatus(PQresultStatus(result)));
    }
    PQclear(result);
    return text;
}

static const char *direct_value(const char *sql) {
    PGconn *conn = connect_direct();
    const char *value = value_of(conn, sql);
    PQfinish(conn);
    return value;
}

/* One result of the pipeline as text: a value, "ERROR code", "tag", "aborted", "sync", and the NULL between queries is "-". */
static const char *next_of(PGconn *conn) {
    static char text[256];
    PGresult *result = PQgetResult(conn);
    if (result == NULL) return "-";
    switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK:
    case PGRES_SINGLE_TUPLE: snprintf(text, sizeof text, "%s", PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "(no row)"); break;
    case PGRES_COMMAND_OK: snprintf(text, sizeof text, "%s", PQcmdStatus(result)); break;
    case PGRES_FATAL_ERROR: {
        const char *code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        snprintf(text, sizeof text, "ERROR %s", code ? code : PQresultErrorMessage(result));
        break;
    }
    case PGRES_PIPELINE_ABORTED: snprintf(text, sizeof text, "aborted"); break;
    case PGRES_PIPELINE_SYNC: snprintf(text, sizeof text, "sync"); break;
    default: snprintf(text, sizeof text, "%s", PQresStatus(PQresultStatus(result)));
    }
    PQclear(result);
    return text;
}

/* One query's outcome, with the NULL that ends it. */
#define OUTCOME(expected, conn) \
    do { SAME(expected, next_of(conn)); SAME("-", next_of(conn)); } while (0)

static void ask(PGconn *conn, const char *sql, const char *parameter) {
    const char *values[] = {parameter};
    EQUAL(1, PQsendQueryParams(conn, sql, parameter ? 1 : 0, NULL, values, NULL, NULL, 0));
}
static void ask_prepared(PGconn *conn, const char *name, const char *parameter) {
    const char *values[] = {parameter};
    EQUAL(1, PQsendQueryPrepared(conn, name, 1, values, NULL, NULL, 0));
}

static void a_pipeline_answers_in_order(void) {
    PGconn *conn = connect_here();
    char number[16];
    EQUAL(1, PQenterPipelineMode(conn));
    EQUAL(1, PQsendPrepare(conn, "twice", "SELECT 2 * $1::int", 0, NULL));
    for (int i = 0; i < rounds; i++) {
        snprintf(number, sizeof number, "%d", i);
        ask_prepared(conn, "twice", number);
        if (i % 10 == 9) EQUAL(1, PQpipelineSync(conn));
    }
    OUTCOME("", conn);
    for (int i = 0; i < rounds; i++) {
        snprintf(number, sizeof number, "%d", 2 * i);
        OUTCOME(number, conn);
        if (i % 10 == 9) SAME("sync", next_of(conn));
    }
    EQUAL(1, PQexitPipelineMode(conn));
    SAME("1", value_of(conn, "SELECT 1"));
    PQfinish(conn);
}

static void an_error_aborts_up_to_the_next_sync(void) {
    PGconn *conn = connect_here();
    PQenterPipelineMode(conn);
    for (int i = 0; i < 20; i++) {
        ask(conn, "INSERT INTO libpq_item VALUES ($1)", "before");
        ask(conn, "SELECT 1 / $1::int", "0");
        ask(conn, "INSERT INTO libpq_item VALUES ($1)", "after");
        PQpipelineSync(conn);
        ask(conn, "SELECT 'next ' || $1", "one");
        PQpipelineSync(conn);
    }
    for (int i = 0; i < 20; i++) {
        OUTCOME("INSERT 0 1", conn);
        OUTCOME("ERROR 22012", conn);
        EQUAL(PQ_PIPELINE_ABORTED, PQpipelineStatus(conn));
        OUTCOME("aborted", conn);
        SAME("sync", next_of(conn));
        EQUAL(PQ_PIPELINE_ON, PQpipelineStatus(conn));
        OUTCOME("next one", conn);
        SAME("sync", next_of(conn));
    }
    SAME("0", direct_value("SELECT count(*) FROM libpq_item"));
    PQfinish(conn);
}

static void flush_requests_answer_before_the_sync(void) {
    PGconn *conn = connect_here();
    PQenterPipelineMode(conn);
    for (int i = 0; i < 20; i++) {
        ask(conn, "SELECT $1::text", "flushed");
        EQUAL(1, PQsendFlushRequest(conn));
        EQUAL(0, PQflush(conn));
        OUTCOME("flushed", conn);
        ask(conn, "SELECT pg_backend_pid() > $1::int", "0");
        PQpipelineSync(conn);
        OUTCOME("t", conn);
        SAME("sync", next_of(conn));
    }
    ask(conn, "SELECT 1 / $1::int", "0");
    PQsendFlushRequest(conn);
    PQflush(conn);
    OUTCOME("ERROR 22012", conn);
    ask(conn, "SELECT $1::text", "skipped");
    PQsendFlushRequest(conn);
    PQpipelineSync(conn);
    OUTCOME("aborted", conn);
    SAME("sync", next_of(conn));
    PQexitPipelineMode(conn);
    SAME("1", value_of(conn, "SELECT 1"));
    PQfinish(conn);
}

static void transactions_within_a_pipeline(void) {
    PGconn *conn = connect_here();
    PQenterPipelineMode(conn);
    for (int i = 0; i < 10; i++) {
        ask(conn, "BEGIN", NULL);
        ask(conn, "INSERT INTO libpq_item VALUES ($1)", "kept");
        PQpipelineSync(conn);
        ask(conn, "SAVEPOINT s", NULL);
        ask(conn, "SELECT $1::int", "not a number");
        PQpipelineSync(conn);
        ask(conn, "SELECT 'refused'", NULL);
        PQpipelineSync(conn);
        ask(conn, "ROLLBACK TO s", NULL);
        ask(conn, "COMMIT", NULL);
        PQpipelineSync(conn);
        OUTCOME("BEGIN", conn);
        OUTCOME("INSERT 0 1", conn);
        SAME("sync", next_of(conn));
        EQUAL(PQTRANS_INTRANS, PQtransactionStatus(conn) == PQTRANS_ACTIVE ? PQTRANS_INTRANS : PQtransactionStatus(conn));
        OUTCOME("SAVEPOINT", conn);
        OUTCOME("ERROR 22P02", conn);
        SAME("sync", next_of(conn));
        OUTCOME("ERROR 25P02", conn);
        SAME("sync", next_of(conn));
        OUTCOME("ROLLBACK", conn);
        OUTCOME("COMMIT", conn);
        SAME("sync", next_of(conn));
    }
    PQexitPipelineMode(conn);
    EQUAL(PQTRANS_IDLE, PQtransactionStatus(conn));
    SAME("10", direct_value("SELECT count(*) FROM libpq_item WHERE name = 'kept'"));
    SAME("DELETE 10", value_of(conn, "DELETE FROM libpq_item"));
    PQfinish(conn);
}

static void prepare_and_describe_in_a_pipeline(void) {
    PGconn *conn = connect_here();
    PQenterPipelineMode(conn);
    PQsendPrepare(conn, "typed", "SELECT $1::int AS a, $2::text AS b", 0, NULL);
    PQsendDescribePrepared(conn, "typed");
    PQsendPrepare(conn, "typed", "SELECT 1", 0, NULL);
    PQsendDescribePrepared(conn, "unknown");
    PQpipelineSync(conn);
    PQsendDescribePrepared(conn, "unknown");
    PQpipelineSync(conn);
    PQsendDescribePrepared(conn, "typed");
    PQpipelineSync(conn);
    OUTCOME("", conn);
    for (int i = 0; i < 2; i++) {
        PGresult *description = PQgetResult(conn);
        EQUAL(2, PQnparams(description));
        EQUAL(23, (long)PQparamtype(description, 0));
        EQUAL(25, (long)PQparamtype(description, 1));
        EQUAL(2, PQnfields(description));
        if (PQnfields(description) == 2) SAME("b", PQfname(description, 1));
        PQclear(description);
        SAME("-", next_of(conn));
        if (i == 0) {
            OUTCOME("ERROR 42P05", conn);
            OUTCOME("aborted", conn);
            SAME("sync", next_of(conn));
            OUTCOME("ERROR 26000", conn);
            SAME("sync", next_of(conn));
        }
    }
    SAME("sync", next_of(conn));
    PQfinish(conn);
}

static void a_deep_pipeline_is_sent_and_read_at_once(void) {
    PGconn *conn = connect_here();
    char big[2001];
    long asked = 0, answered = 0, wanted = rounds * 20;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    PQenterPipelineMode(conn);
    PQsetnonblocking(conn, 1);
    while (answered < wanted && !current_failed) {
        if (asked < wanted) {
            ask(conn, "SELECT length($1), $1", big);
            asked++;
            if (asked == wanted) PQpipelineSync(conn);
            else if (asked % 100 == 0) PQsendFlushRequest(conn);
        }
        if (PQflush(conn) < 0) complain(__LINE__, "%s", PQerrorMessage(conn));
        if (!PQconsumeInput(conn)) complain(__LINE__, "%s", PQerrorMessage(conn));
        while (answered < wanted && !PQisBusy(conn)) {
            PGresult *result = PQgetResult(conn);
            if (result == NULL) {
                if (asked == answered) break;
                continue;
            }
            SAME("2000", PQgetvalue(result, 0, 0));
            PQclear(result);
            answered++;
            SAME("-", next_of(conn));
        }
    }
    SAME("sync", next_of(conn));
    PQfinish(conn);
}

static void single_rows_arrive_one_by_one_up_to_the_error(void) {
    PGconn *conn = connect_here();
    for (int mode = 0; mode < 2; mode++) {
        int rows = 0;
        PGresult *result;
        if (mode == 1) PQenterPipelineMode(conn);
        ask(conn, "SELECT 100 / (50 - i) FROM generate_series(1, $1::int) i", "100");
        if (mode == 1) PQpipelineSync(conn);
        EQUAL(1, PQsetSingleRowMode(conn));
        while ((result = PQgetResult(conn)) != NULL && PQresultStatus(result) == PGRES_SINGLE_TUPLE) {
            rows++;
            PQclear(result);
        }
        EQUAL(49, rows);
        SAME("22012", PQresultErrorField(result, PG_DIAG_SQLSTATE));
        PQclear(result);
        SAME("-", next_of(conn));
        if (mode == 1) SAME("sync", next_of(conn));
    }
    PQexitPipelineMode(conn);
    SAME("1", value_of(conn, "SELECT 1"));
    PQfinish(conn);
}

static void prepared_statements_follow_to_the_other_server(void) {
    PGconn *conn = connect_here();
    PGresult *result = PQprepare(conn, "where", "SELECT pg_backend_pid(), $1::int + 1", 0, NULL);
    char pid[2][16] = {"", ""};
    PQclear(result);
    for (int i = 0; i < 2; i++) {
        const char *values[] = {"41"};
        PGconn *holders[2] = {NULL, NULL};
        /* The second time another client holds the server of the first. */
        for (int h = 0; i == 1 && h < 2 && !direct_run; h++) {
            holders[h] = connect_here();
            SAME("BEGIN", value_of(holders[h], "BEGIN"));
            if (strcmp(pid[0], value_of(holders[h], "SELECT pg_backend_pid()")) == 0) {
                if (h == 1) SAME("ROLLBACK", value_of(holders[0], "ROLLBACK"));
                break;
            }
        }
        result = PQexecPrepared(conn, "where", 1, values, NULL, NULL, 0);
        EQUAL(PGRES_TUPLES_OK, PQresultStatus(result));
        SAME("42", PQgetvalue(result, 0, 1));
        snprintf(pid[i], sizeof pid[i], "%s", PQgetvalue(result, 0, 0));
        PQclear(result);
        for (int h = 0; h < 2; h++) PQfinish(holders[h]);
    }
    if (!direct_run && strcmp(pid[0], pid[1]) == 0) complain(__LINE__, "the same server both times");
    SAME("26000", value_of(conn, "EXECUTE nothing"));
    PQfinish(conn);
}

static void copy_in_and_out(void) {
    PGconn *conn = connect_here();
    char line[64], *row;
    long lines = 0;
    SAME("PGRES_COPY_IN", value_of(conn, "COPY libpq_item FROM STDIN"));
    for (int i = 0; i < 5000; i++) {
        int length = snprintf(line, sizeof line, "copied %d\n", i);
        EQUAL(1, PQputCopyData(conn, line, length));
    }
    EQUAL(1, PQputCopyEnd(conn, NULL));
    SAME("COPY 5000", next_of(conn));
    SAME("-", next_of(conn));
    SAME("5000", direct_value("SELECT count(*) FROM libpq_item"));
    SAME("PGRES_COPY_OUT", value_of(conn, "COPY libpq_item TO STDOUT"));
    while (PQgetCopyData(conn, &row, 0) > 0) {
        snprintf(line, sizeof line, "copied %ld\n", lines++);
        SAME(line, row);
        PQfreemem(row);
    }
    EQUAL(5000, lines);
    SAME("COPY 5000", next_of(conn));
    SAME("-", next_of(conn));
    SAME("DELETE 5000", value_of(conn, "DELETE FROM libpq_item"));
    PQfinish(conn);
}

static void copy_fails_by_the_client_and_by_the_server(void) {
    PGconn *conn = connect_here();
    SAME("PGRES_COPY_IN", value_of(conn, "COPY libpq_item FROM STDIN"));
    EQUAL(1, PQputCopyData(conn, "half\n", 5));
    EQUAL(1, PQputCopyEnd(conn, "changed my mind"));
    SAME("ERROR 57014", next_of(conn));
    SAME("-", next_of(conn));
    SAME("PGRES_COPY_IN", value_of(conn, "COPY libpq_item FROM STDIN"));
    for (int i = 0; i < 5000; i++) PQputCopyData(conn, "two\tcolumns\n", 12);
    PQputCopyEnd(conn, NULL);
    SAME("ERROR 22P04", next_of(conn));
    SAME("-", next_of(conn));
    EQUAL(PQTRANS_IDLE, PQtransactionStatus(conn));
    /* COPY through the extended protocol. */
    ask(conn, "COPY libpq_item FROM STDIN", NULL);
    SAME("PGRES_COPY_IN", next_of(conn));
    EQUAL(1, PQputCopyData(conn, "extended\n", 9));
    EQUAL(1, PQputCopyEnd(conn, NULL));
    SAME("COPY 1", next_of(conn));
    SAME("-", next_of(conn));
    SAME("extended", value_of(conn, "DELETE FROM libpq_item RETURNING name"));
    PQfinish(conn);
}

static void cancel_ends_the_query_and_only_the_query(void) {
    PGconn *conn = connect_here(), *watcher = connect_direct();
    PGcancel *cancel = PQgetCancel(conn);
    char error[256];
    for (int i = 0; i < 5; i++) {
        EQUAL(1, PQsendQuery(conn, "SELECT pg_sleep(60) /* libpq cancel */"));
        while (strcmp("1", value_of(watcher, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                                             "AND query LIKE 'SELECT pg_sleep(60) /* libpq%'")) != 0) continue;
        EQUAL(1, PQcancel(cancel, error, sizeof error));
        SAME("ERROR 57014", next_of(conn));
        SAME("-", next_of(conn));
        SAME("1", value_of(conn, "SELECT 1"));
        /* A cancel of an idle client hits nobody. */
        EQUAL(1, PQcancel(cancel, error, sizeof error));
    }
    PQfreeCancel(cancel);
    PQfinish(watcher);
    PQfinish(conn);
}

static void cancel_in_a_pipeline_aborts_it(void) {
    PGconn *conn = connect_here(), *watcher = connect_direct();
    PGcancel *cancel = PQgetCancel(conn);
    char error[256];
    PQenterPipelineMode(conn);
    ask(conn, "SELECT 1", NULL);
    ask(conn, "SELECT pg_sleep(60) /* libpq pipeline */", NULL);
    ask(conn, "SELECT 2", NULL);
    PQpipelineSync(conn);
    ask(conn, "SELECT 3", NULL);
    PQpipelineSync(conn);
    PQflush(conn);
    while (strcmp("1", value_of(watcher, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                                         "AND query LIKE 'SELECT pg_sleep(60) /* libpq%'")) != 0) continue;
    EQUAL(1, PQcancel(cancel, error, sizeof error));
    OUTCOME("1", conn);
    OUTCOME("ERROR 57014", conn);
    OUTCOME("aborted", conn);
    SAME("sync", next_of(conn));
    OUTCOME("3", conn);
    SAME("sync", next_of(conn));
    PQfreeCancel(cancel);
    PQfinish(watcher);
    PQfinish(conn);
}

static void several_statements_in_a_query_give_several_results(void) {
    PGconn *conn = connect_here();
    PQsendQuery(conn, "SELECT 1; INSERT INTO libpq_item VALUES ('x'); SELECT 1 / 0; SELECT 3");
    SAME("1", next_of(conn));
    SAME("INSERT 0 1", next_of(conn));
    SAME("ERROR 22012", next_of(conn));
    SAME("-", next_of(conn));
    SAME("0", direct_value("SELECT count(*) FROM libpq_item"));
    SAME("PGRES_EMPTY_QUERY", value_of(conn, ""));
    PQfinish(conn);
}

static void sql_cursors_within_a_transaction(void) {
    PGconn *conn = connect_here();
    SAME("BEGIN", value_of(conn, "BEGIN"));
    SAME("DECLARE CURSOR", value_of(conn, "DECLARE c CURSOR FOR SELECT i FROM generate_series(1, 100) i"));
    SAME("1", value_of(conn, "FETCH 10 FROM c"));
    SAME("11", value_of(conn, "FETCH 10 FROM c"));
    SAME("MOVE 50", value_of(conn, "MOVE 50 IN c"));
    SAME("71", value_of(conn, "FETCH c"));
    SAME("COMMIT", value_of(conn, "COMMIT"));
    SAME("34000", value_of(conn, "FETCH c"));
    PQfinish(conn);
}

static int notices;
static void count_notice(void *argument, const PGresult *result) {
    (void)argument;
    if (strcmp("careful", PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY)) == 0) notices++;
}

static void what_the_connection_tells(void) {
    PGconn *conn = connect_here();
    SAME("UTF8", PQparameterStatus(conn, "client_encoding"));
    if (PQserverVersion(conn) < 140000) complain(__LINE__, "server_version %d", PQserverVersion(conn));
    SAME("SET", value_of(conn, "SET TimeZone = 'Asia/Tokyo'"));
    SAME("Asia/Tokyo", PQparameterStatus(conn, "TimeZone"));
    for (int i = 0; i < 20; i++) SAME("Asia/Tokyo", value_of(conn, "SHOW TimeZone"));
    EQUAL(0, PQsetClientEncoding(conn, "LATIN1"));
    SAME("LATIN1", PQparameterStatus(conn, "client_encoding"));
    for (int i = 0; i < 20; i++) SAME("\xe9", value_of(conn, "SELECT chr(233)"));
    PQsetNoticeReceiver(conn, count_notice, NULL);
    SAME("DO", value_of(conn, "DO $$ BEGIN RAISE NOTICE 'careful'; RAISE NOTICE 'other'; END $$"));
    EQUAL(1, notices);
    PQreset(conn);
    EQUAL(CONNECTION_OK, PQstatus(conn));
    SAME("UTF8", PQparameterStatus(conn, "client_encoding"));
    SAME("UTF8", value_of(conn, "SHOW client_encoding"));
    PQfinish(conn);
}

static void binary_results_and_parameters(void) {
    PGconn *conn = connect_here();
    const char number[4] = {0, 0, 1, 2};
    const char *values[] = {number, "\0\xff", NULL};
    const int lengths[] = {4, 2, 0}, formats[] = {1, 1, 1};
    const Oid types[] = {23, 17, 25};
    for (int i = 0; i < 10; i++) {
        PGresult *result = PQexecParams(conn, "SELECT $1 + 1, $2, $3", 3, types, values, lengths, formats, 1);
        EQUAL(PGRES_TUPLES_OK, PQresultStatus(result));
        EQUAL(0, memcmp(PQgetvalue(result, 0, 0), "\0\0\1\3", 4));
        EQUAL(2, PQgetlength(result, 0, 1));
        EQUAL(1, PQgetisnull(result, 0, 2));
        PQclear(result);
    }
    PQfinish(conn);
}

static void test(const char *name, void (*body)(void)) {
    current_failed = false;
    body();
    if (current_failed) printf("not ok: %s\n", name);
    *(current_failed ? &failed : &passed) += 1;
    fflush(stdout);
}
#define TEST(name) test(#name, name)

int main(void) {
    direct_run = getenv("DRIVERS_DIRECT") != NULL;
    if (getenv("SMOKE")) rounds = 30;
    direct_value("CREATE TABLE IF NOT EXISTS libpq_item (name text NOT NULL)");
    TEST(a_pipeline_answers_in_order);
    TEST(an_error_aborts_up_to_the_next_sync);
    TEST(flush_requests_answer_before_the_sync);
    TEST(transactions_within_a_pipeline);
    TEST(prepare_and_describe_in_a_pipeline);
    TEST(a_deep_pipeline_is_sent_and_read_at_once);
    TEST(single_rows_arrive_one_by_one_up_to_the_error);
    TEST(prepared_statements_follow_to_the_other_server);
    TEST(copy_in_and_out);
    TEST(copy_fails_by_the_client_and_by_the_server);
    TEST(cancel_ends_the_query_and_only_the_query);
    TEST(cancel_in_a_pipeline_aborts_it);
    TEST(several_statements_in_a_query_give_several_results);
    TEST(sql_cursors_within_a_transaction);
    TEST(what_the_connection_tells);
    TEST(binary_results_and_parameters);
    direct_value("DROP TABLE libpq_item");
    printf("result %d.%d %d %d\n", PQlibVersion() / 10000, PQlibVersion() % 10000, passed, failed);
    return failed > 0;
}
