"""psycopg 3, synchronous: it prepares what is run five times, and sends parameters in binary where it can."""

import datetime
import decimal
import threading
import uuid

import psycopg
import pytest
from conftest import server_that_runs, servers_rotate, wait_until
from psycopg import errors, sql
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

DRIVER = "psycopg"


@pytest.fixture
def connection():
    with psycopg.connect() as connection:
        yield connection


@pytest.fixture
def autocommit():
    with psycopg.connect(autocommit=True) as connection:
        yield connection


@pytest.mark.smoke
def test_transactions_of_one_client_run_on_several_servers(autocommit):
    if not servers_rotate():
        pytest.skip("there is one server only")
    pids = set()
    wait_until("the second server", lambda: pids.add(autocommit.execute("SELECT pg_backend_pid()").fetchone()[0]) or len(pids) == 2)


@pytest.mark.smoke
def test_rows_are_created_read_updated_and_deleted_in_transactions(connection, direct, table):
    with connection.transaction():
        inserted = connection.execute("INSERT INTO item VALUES (%s, %s, %s), (%s, %s, %s)", [1, "cup", "2.50", 2, "pot", 9])
        assert inserted.rowcount == 2 and inserted.statusmessage == "INSERT 0 2"
    with connection.transaction():
        assert connection.execute("UPDATE item SET price = price * 2 WHERE id = %s", [1]).rowcount == 1
        assert connection.execute("UPDATE item SET price = 0 WHERE id = %s", [99]).rowcount == 0
    with connection.transaction():
        deleted = connection.execute("DELETE FROM item WHERE id = %s RETURNING name, price", [2])
        assert deleted.fetchall() == [("pot", decimal.Decimal("9.00"))]
    assert direct.execute("SELECT * FROM item").fetchall() == [(1, "cup", decimal.Decimal("5.00"))]


def test_a_rollback_leaves_nothing(connection, direct, table):
    connection.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    connection.rollback()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    with pytest.raises(ZeroDivisionError), connection.transaction():
        connection.execute("INSERT INTO item VALUES (2, 'pot', 1)")
        1 / 0
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_savepoints_undo_only_what_is_inside(connection, direct, table):
    with connection.transaction():
        connection.execute("INSERT INTO item VALUES (1, 'kept', 1)")
        with pytest.raises(errors.UniqueViolation), connection.transaction("inner"):
            connection.execute("INSERT INTO item VALUES (2, 'undone', 1)")
            connection.execute("INSERT INTO item VALUES (1, 'twice', 1)")
        assert connection.info.transaction_status == TransactionStatus.INTRANS
        connection.execute("INSERT INTO item VALUES (3, 'kept', 1)")
    assert direct.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (3,)]


@pytest.mark.smoke
def test_statements_prepared_in_a_loop_run_on_every_server(connection, direct, table):
    for number in range(60):
        with connection.transaction():
            connection.execute("INSERT INTO item VALUES (%s, %s, %s)", [number, f"item {number}", number])
            found = connection.execute("SELECT name FROM item WHERE id = %s", [number]).fetchone()
        assert found == (f"item {number}",)
    assert len(connection._prepared._names) == 2
    assert direct.execute("SELECT count(*), sum(price) FROM item").fetchone() == (60, sum(range(60)))


def test_statements_are_prepared_at_once_if_asked_and_with_each_type_of_parameter(autocommit):
    for _ in range(20):
        assert autocommit.execute("SELECT %s + 1", [1], prepare=True).fetchone() == (2,)
        assert autocommit.execute("SELECT %s + 1", [2**40], prepare=True).fetchone() == (2**40 + 1,)
        assert autocommit.execute("SELECT %s + 1", [decimal.Decimal("1.5")], prepare=True).fetchone() == (decimal.Decimal("2.5"),)


def test_more_statements_than_the_driver_keeps_are_deallocated_in_turn(autocommit):
    for round_ in range(3):
        for number in range(130):
            query = sql.SQL("SELECT {}, %s::int").format(number)
            assert autocommit.execute(query, [round_], prepare=True).fetchone() == (number, round_)
    assert len(autocommit._prepared._names) == 100


def test_clients_with_the_same_statements_do_not_meet(table):
    with psycopg.connect(autocommit=True) as one, psycopg.connect(autocommit=True) as two:
        for number in range(30):
            assert one.execute("SELECT 'one', %s::int", [number], prepare=True).fetchone() == ("one", number)
            assert two.execute("SELECT 'two', %s::int", [number], prepare=True).fetchone() == ("two", number)
            # Both use the same name, _pg3_1, for another statement.
            assert one.execute("SELECT %s::text", ["x"], prepare=True).fetchone() == ("x",)


def test_a_changed_table_is_reported_as_postgresql_does_and_the_statement_works_again(autocommit, direct, table):
    direct.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    for _ in range(10):
        assert len(autocommit.execute("SELECT * FROM item", prepare=True).fetchone()) == 3
    direct.execute("ALTER TABLE item ADD COLUMN color text")
    with pytest.raises(errors.FeatureNotSupported, match="cached plan must not change result type"):
        for _ in range(10):
            autocommit.execute("SELECT * FROM item", prepare=True)
    autocommit.execute("DEALLOCATE ALL")
    assert len(autocommit.execute("SELECT * FROM item", prepare=True).fetchone()) == 4


def test_executemany_counts_and_returns_all(connection, direct, table):
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO item VALUES (%s, %s, 1) RETURNING id", [(n, str(n)) for n in range(250)], returning=True)
    returned = [cursor.fetchone()[0]]
    while cursor.nextset():
        returned.append(cursor.fetchone()[0])
    assert returned == list(range(250))
    connection.commit()
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (250,)


@pytest.mark.parametrize("binary", [False, True])
def test_values_of_many_types_come_back_as_they_went(autocommit, binary):
    values = [
        True, -(2**31), 2**62, 1.5, decimal.Decimal("12345678901234567890.123456789"), "žluťoučký \U0001f40e", b"\0\xff" * 100,
        datetime.date(2024, 2, 29), datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc), datetime.timedelta(days=3),
        uuid.UUID(int=7), [1, None, 3], [[1, 2], [3, None]], None,
    ]
    for value in values:
        cursor = autocommit.cursor(binary=binary)
        assert cursor.execute("SELECT %s", [value]).fetchone() == (value,)
    document = {"a": [1, {"b": None}], "č": "ř"}
    assert autocommit.execute("SELECT %s", [Jsonb(document)]).fetchone() == (document,)


def test_a_server_side_cursor_scrolls_through_its_rows(connection):
    with connection.cursor("numbers", scrollable=True) as cursor:
        cursor.execute("SELECT n FROM generate_series(1, %s) n", [1000])
        assert cursor.fetchone() == (1,)
        assert cursor.fetchmany(3) == [(2,), (3,), (4,)]
        cursor.scroll(500)
        assert cursor.fetchone() == (505,)
        cursor.scroll(0, mode="absolute")
        assert sum(row[0] for row in cursor) == 500500
    assert connection.info.transaction_status == TransactionStatus.INTRANS
    connection.commit()


def test_a_streamed_result_can_be_left_in_the_middle(autocommit):
    cursor = autocommit.cursor()
    for row in cursor.stream("SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n"):
        if row[0] == 10:
            break
    assert autocommit.execute("SELECT 'next'").fetchone() == ("next",)
    assert [row[0] for row in cursor.stream("SELECT n FROM generate_series(1, 5) n", size=2)] == [1, 2, 3, 4, 5]


def test_several_statements_in_one_query_give_several_results(autocommit, direct, table):
    cursor = autocommit.cursor()
    cursor.execute("SELECT 1 AS a; INSERT INTO item VALUES (1, 'cup', 1); SELECT 2 AS b, 3 AS c")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset() and cursor.statusmessage == "INSERT 0 1"
    assert cursor.nextset() and cursor.fetchall() == [(2, 3)]
    assert not cursor.nextset()
    with pytest.raises(errors.DivisionByZero):
        autocommit.execute("INSERT INTO item VALUES (2, 'pot', 1); SELECT 1 / 0")
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (1,)


@pytest.mark.smoke
def test_copy_in_and_out(connection, direct, table):
    with connection.cursor().copy("COPY item FROM STDIN") as copy:
        for number in range(20000):
            copy.write_row((number, f"tab\t and backslash \\ {number}", number))
    connection.commit()
    assert direct.execute("SELECT count(*), sum(price) FROM item").fetchone() == (20000, 199990000)
    with connection.cursor().copy("COPY (SELECT * FROM item ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4", "text", "numeric"])
        rows = list(copy.rows())
    assert len(rows) == 20000 and rows[777] == (777, "tab\t and backslash \\ 777", decimal.Decimal("777.00"))


def test_a_copy_given_up_by_the_client_leaves_nothing(autocommit, direct, table):
    with pytest.raises(ZeroDivisionError), autocommit.cursor().copy("COPY item FROM STDIN") as copy:
        copy.write_row((1, "cup", 1))
        1 / 0
    assert autocommit.info.transaction_status == TransactionStatus.IDLE
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_a_copy_refused_by_the_server_says_where(autocommit, direct, table):
    with pytest.raises(errors.InvalidTextRepresentation) as caught, autocommit.cursor().copy("COPY item FROM STDIN") as copy:
        copy.write("1\tcup\t1\nnot a number\tpot\t2\n")
        copy.write("3\tpan\t3\n" * 100000)
    assert "COPY item, line 2, column id" in caught.value.diag.context
    with pytest.raises(errors.UndefinedTable), autocommit.cursor().copy("COPY nowhere FROM STDIN") as copy:
        copy.write("1\n")
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)


@pytest.mark.parametrize("prepare", [False, True])
def test_errors_carry_their_fields_and_fail_the_transaction(connection, direct, table, prepare):
    connection.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    connection.commit()
    with pytest.raises(errors.UniqueViolation) as caught:
        connection.execute("INSERT INTO item VALUES (%s, 'pot', 1)", [1], prepare=prepare)
    assert caught.value.sqlstate == "23505"
    assert (caught.value.diag.constraint_name, caught.value.diag.table_name) == ("item_pkey", "item")
    assert caught.value.diag.message_detail == "Key (id)=(1) already exists."
    assert connection.info.transaction_status == TransactionStatus.INERROR
    with pytest.raises(errors.InFailedSqlTransaction):
        connection.execute("SELECT 1", prepare=prepare)
    connection.rollback()
    with pytest.raises(errors.SyntaxError) as caught:
        connection.execute("SELEC 1", prepare=prepare)
    assert caught.value.diag.statement_position == "1"
    connection.rollback()
    with pytest.raises(errors.CheckViolation):
        connection.execute("INSERT INTO item VALUES (2, 'pot', %s)", [-1], prepare=prepare)
    connection.rollback()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert direct.execute("SELECT id FROM item").fetchall() == [(1,)]


def test_a_prepared_statement_survives_its_errors(autocommit):
    for number in [1, 0, 2, 0, 0, 4] * 5:
        if number:
            assert autocommit.execute("SELECT 8 / %s::int", [number], prepare=True).fetchone() == (8 // number,)
        else:
            with pytest.raises(errors.DivisionByZero):
                autocommit.execute("SELECT 8 / %s::int", [number], prepare=True)


def test_notices_arrive_with_their_statement(autocommit):
    notices = []
    autocommit.add_notice_handler(lambda diag: notices.append((diag.severity, diag.message_primary)))
    autocommit.execute("DO $$ BEGIN RAISE NOTICE 'first'; RAISE WARNING 'second'; END $$")
    assert notices == [("NOTICE", "first"), ("WARNING", "second")]
    autocommit.execute("DROP TABLE IF EXISTS never_there")
    assert notices[2:] == [("NOTICE", 'table "never_there" does not exist, skipping')]


@pytest.mark.smoke
def test_a_running_query_is_canceled_and_nothing_else(autocommit, admin):
    with psycopg.connect(autocommit=True) as other:
        seen = []

        def cancel():
            server_that_runs(admin, "pg_sleep(61)")
            autocommit.cancel_safe()
            seen.append(other.execute("SELECT 'other client'").fetchone())

        canceler = threading.Thread(target=cancel)
        canceler.start()
        with pytest.raises(errors.QueryCanceled):
            autocommit.execute("SELECT pg_sleep(61)")
        canceler.join()
        assert seen == [("other client",)]
        # A cancel request that finds nothing to cancel does nothing.
        autocommit.cancel_safe()
        for _ in range(20):
            assert autocommit.execute("SELECT 1").fetchone() == (1,)
            assert other.execute("SELECT 2").fetchone() == (2,)


def test_a_lost_server_is_reported_and_the_application_goes_on(autocommit, admin):
    def terminate():
        admin.execute("SELECT pg_terminate_backend(%s)", [server_that_runs(admin, "pg_sleep(62)")])

    killer = threading.Thread(target=terminate)
    killer.start()
    with pytest.raises(errors.AdminShutdown):
        autocommit.execute("SELECT pg_sleep(62)")
    killer.join()
    with psycopg.connect() as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_connecting_again_and_again():
    for number in range(40):
        with psycopg.connect() as connection:
            assert connection.execute("SELECT %s::int", [number]).fetchone() == (number,)
    with pytest.raises(psycopg.OperationalError, match="password|authentication"):
        psycopg.connect(password="wrong")


def test_two_phase_commit_may_be_finished_by_another_connection(direct, table):
    one = psycopg.connect()
    xid = one.xid(1, "sale", "item")
    one.tpc_begin(xid)
    one.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    one.tpc_prepare()
    assert one.info.transaction_status == TransactionStatus.IDLE
    one.close()
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)
    with psycopg.connect() as two:
        assert [xid.gtrid for xid in two.tpc_recover()] == ["sale"]
        two.rollback()
        two.tpc_commit(xid)
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (1,)


def test_isolation_levels_and_serialization_failures(direct, table):
    direct.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    with psycopg.connect() as one, psycopg.connect() as two:
        one.isolation_level = two.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert one.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)
        one.execute("SELECT * FROM item").fetchall()
        two.execute("UPDATE item SET price = 2")
        two.commit()
        with pytest.raises(errors.SerializationFailure):
            one.execute("UPDATE item SET price = 3")
        one.rollback()
        one.read_only = True
        with pytest.raises(errors.ReadOnlySqlTransaction):
            one.execute("UPDATE item SET price = 4")
    assert direct.execute("SELECT price FROM item").fetchone() == (2,)


def test_what_a_connection_asks_for_at_its_start_holds_in_every_transaction(direct):
    direct.execute("CREATE SCHEMA IF NOT EXISTS branch")
    direct.execute("CREATE TABLE IF NOT EXISTS branch.place AS SELECT 'branch'::text AS name")
    asked = {"application_name": "till 1", "options": "-c search_path=branch -c DateStyle=German -c TimeZone=Asia/Tokyo",
             "client_encoding": "latin1"}
    with psycopg.connect(autocommit=True, **asked) as one, psycopg.connect(autocommit=True) as other:
        for _ in range(15):
            assert one.execute("SELECT name FROM place").fetchone() == ("branch",)
            assert one.execute("SELECT now()::date::text ~ '\\d\\d\\.\\d\\d\\.\\d{4}', 'é'").fetchone() == (True, "é")
            assert one.execute("SELECT current_setting('application_name'), current_setting('timezone')").fetchone() == ("till 1", "Asia/Tokyo")
            assert other.execute("SELECT current_setting('search_path')").fetchone() == ('"$user", public',)
            assert other.execute("SELECT current_setting('client_encoding'), 'é'").fetchone() == ("UTF8", "é")
    direct.execute("DROP SCHEMA branch CASCADE")


def test_large_values_pass_both_ways(autocommit):
    big = "0123456789abcdef" * (1 << 20)
    assert autocommit.execute("SELECT length(%s), %s", [big, big]).fetchone() == (len(big), big)
    assert autocommit.execute("SELECT length(%b)", [b"\0" * (20 << 20)]).fetchone() == (20 << 20,)


def test_a_function_with_cursors_and_portals_of_the_simple_protocol(connection):
    connection.execute("DECLARE c SCROLL CURSOR FOR SELECT generate_series(1, 10)")
    assert connection.execute("FETCH 3 FROM c").fetchall() == [(1,), (2,), (3,)]
    assert connection.execute("MOVE LAST FROM c").statusmessage == "MOVE 1"
    assert connection.execute("FETCH BACKWARD 2 FROM c").fetchall() == [(9,), (8,)]
    connection.commit()
    with pytest.raises(errors.InvalidCursorName):
        connection.execute("FETCH 1 FROM c")


@pytest.mark.smoke
def test_notifications_reach_whoever_listens_without_a_server_of_its_own(autocommit, direct):
    autocommit.execute("LISTEN psycopg_news")
    direct.execute("NOTIFY psycopg_news, 'from another'")
    (first,) = autocommit.notifies(timeout=10, stop_after=1)
    assert (first.channel, first.payload) == ("psycopg_news", "from another")
    assert first.pid == direct.info.backend_pid
    # Its own it knows by its process id, and has them with the answer.
    autocommit.execute("NOTIFY psycopg_news, 'own'")
    (own,) = autocommit.notifies(timeout=10, stop_after=1)
    assert (own.payload, own.pid) == ("own", autocommit.info.backend_pid)
    for number in range(50):
        direct.execute("SELECT pg_notify('psycopg_news', %s)", [str(number)])
    assert [each.payload for each in autocommit.notifies(timeout=10, stop_after=50)] == [str(n) for n in range(50)]
    autocommit.execute("UNLISTEN psycopg_news")
    direct.execute("NOTIFY psycopg_news, 'nobody hears'")
    assert list(autocommit.notifies(timeout=0.2)) == []
