"""psycopg 2: simple queries only, cursors and prepared statements by SQL."""

import io
import select
import threading

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool
import pytest
from conftest import server_that_runs
from psycopg2 import errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

DRIVER = "psycopg2-binary"


@pytest.fixture
def connection():
    connection = psycopg2.connect("")
    yield connection
    connection.close()


@pytest.fixture
def cursor(connection):
    return connection.cursor()


@pytest.mark.smoke
def test_rows_are_created_read_updated_and_deleted_in_transactions(connection, cursor, direct, table):
    with connection:
        psycopg2.extras.execute_values(cursor, "INSERT INTO item VALUES %s", [(n, f"item {n}", n) for n in range(500)])
    with connection:
        cursor.execute("UPDATE item SET name = %(name)s WHERE id < %(limit)s", {"name": "it's cheap", "limit": 10})
        assert cursor.rowcount == 10
    with connection:
        cursor.execute("DELETE FROM item WHERE price > %s RETURNING id", [400])
        assert cursor.rowcount == len(cursor.fetchall()) == 99
    assert direct.execute("SELECT count(*), count(*) FILTER (WHERE name = 'it''s cheap') FROM item").fetchone() == (401, 10)


def test_a_rollback_leaves_nothing(connection, cursor, direct, table):
    cursor.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    assert connection.get_transaction_status() == TRANSACTION_STATUS_INTRANS
    connection.rollback()
    with pytest.raises(ZeroDivisionError), connection:
        cursor.execute("INSERT INTO item VALUES (2, 'cup', 1)")
        1 / 0
    assert connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)


@pytest.mark.smoke
def test_statements_prepared_by_sql_run_on_every_server(connection, cursor):
    connection.autocommit = True
    cursor.execute("PREPARE double (int) AS SELECT $1 * 2")
    for number in range(40):
        cursor.execute("EXECUTE double (%s)", [number])
        assert cursor.fetchone() == (number * 2,)
    with pytest.raises(errors.DuplicatePreparedStatement, match='prepared statement "double" already exists'):
        cursor.execute("PREPARE double AS SELECT 1")
    cursor.execute("DEALLOCATE double")
    for _ in range(10):
        with pytest.raises(errors.InvalidSqlStatementName, match='prepared statement "double" does not exist'):
            cursor.execute("EXECUTE double (1)")


def test_execute_batch_sends_many_statements_in_one_query(connection, cursor, direct, table):
    with connection:
        psycopg2.extras.execute_batch(cursor, "INSERT INTO item VALUES (%s, %s, 1)", [(n, "x") for n in range(1000)], page_size=250)
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (1000,)
    with pytest.raises(errors.UniqueViolation), connection:
        psycopg2.extras.execute_batch(cursor, "INSERT INTO item VALUES (%s, %s, 1)", [(2000, "x"), (1, "x"), (2001, "x")])
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (1000,)


@pytest.mark.parametrize("scrollable", [False, True])
def test_a_named_cursor_fetches_in_steps(connection, scrollable):
    with connection, connection.cursor("numbers", scrollable=scrollable) as numbers:
        numbers.itersize = 70
        numbers.execute("SELECT n FROM generate_series(1, 1000) n")
        assert numbers.fetchmany(2) == [(1,), (2,)]
        if scrollable:
            numbers.scroll(-2)
        assert sum(row[0] for row in numbers) == 500500 - (0 if scrollable else 3)
    assert connection.get_transaction_status() == TRANSACTION_STATUS_IDLE


@pytest.mark.smoke
def test_copy_in_and_out(connection, cursor, direct, table):
    source = io.StringIO("".join(f"{n}\titem {n}\t{n}\n" for n in range(30000)))
    cursor.copy_from(source, "item")
    assert cursor.rowcount == 30000
    connection.commit()
    assert direct.execute("SELECT sum(price) FROM item").fetchone() == (449985000,)
    target = io.StringIO()
    cursor.copy_expert("COPY (SELECT id, name FROM item ORDER BY id) TO STDOUT WITH (FORMAT csv)", target)
    lines = target.getvalue().splitlines()
    assert (len(lines), lines[12345]) == (30000, "12345,item 12345")


def test_a_copy_whose_source_fails_leaves_nothing(connection, cursor, direct, table):
    class Source:
        def __init__(self):
            self.reads = 0

        def read(self, size):
            self.reads += 1
            if self.reads > 3:
                raise OSError("the source failed")
            return "1\tcup\t1\n" if self.reads == 1 else f"{self.reads}\tpot\t1\n"

    with pytest.raises(errors.QueryCanceled, match="the source failed"):
        cursor.copy_expert("COPY item FROM STDIN", Source())
    assert connection.get_transaction_status() == TRANSACTION_STATUS_INERROR
    connection.rollback()
    with pytest.raises(errors.BadCopyFileFormat, match="missing data for column"):
        cursor.copy_from(io.StringIO("1\tcup\t1\n2\n"), "item")
    connection.rollback()
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_large_objects_are_written_and_read_by_function_calls(connection):
    content = bytes(range(256)) * 4000
    with connection:
        large = connection.lobject(0, "wb")
        large.write(content)
        number = large.oid
        large.close()
    with connection:
        large = connection.lobject(number, "rb")
        large.seek(1000 * 256)
        assert large.read(256) == bytes(range(256))
        assert large.tell() == 1001 * 256
        large.seek(0)
        assert large.read() == content
        large.unlink()
    with pytest.raises(psycopg2.OperationalError, match="does not exist"), connection:
        connection.lobject(number, "rb")


def test_errors_carry_their_fields_and_fail_the_transaction(connection, cursor, direct, table):
    cursor.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    connection.commit()
    with pytest.raises(errors.UniqueViolation) as caught:
        cursor.execute("INSERT INTO item VALUES (1, 'pot', 1)")
    assert (caught.value.pgcode, caught.value.diag.constraint_name) == ("23505", "item_pkey")
    with pytest.raises(errors.InFailedSqlTransaction):
        cursor.execute("SELECT 1")
    assert connection.get_transaction_status() == TRANSACTION_STATUS_INERROR
    connection.rollback()
    cursor.execute("SAVEPOINT a")
    with pytest.raises(errors.NotNullViolation):
        cursor.execute("INSERT INTO item VALUES (2, NULL, 1)")
    cursor.execute("ROLLBACK TO a")
    cursor.execute("INSERT INTO item VALUES (3, 'pan', 1)")
    connection.commit()
    assert direct.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (3,)]


def test_notices_are_kept_for_the_application(connection, cursor):
    cursor.execute("DO $$ BEGIN FOR n IN 1..60 LOOP RAISE NOTICE 'notice %', n; END LOOP; END $$")
    assert connection.notices[-1] == "NOTICE:  notice 60\n"
    assert len(connection.notices) == 50


@pytest.mark.smoke
def test_a_running_query_is_canceled(connection, cursor, admin):
    def cancel():
        server_that_runs(admin, "pg_sleep(64)")
        connection.cancel()

    canceler = threading.Thread(target=cancel)
    canceler.start()
    with pytest.raises(errors.QueryCanceled):
        cursor.execute("SELECT pg_sleep(64)")
    canceler.join()
    connection.rollback()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_a_lost_server_in_a_transaction_is_reported(connection, cursor, direct, table, admin):
    cursor.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    cursor.execute("SELECT pg_backend_pid()")
    admin.execute("SELECT pg_terminate_backend(%s, 10000)", cursor.fetchone())
    with pytest.raises((psycopg2.OperationalError, psycopg2.InterfaceError)):
        cursor.execute("INSERT INTO item VALUES (2, 'pot', 1)")
        connection.commit()
    connection.close()
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (0,)


def test_two_phase_commit(connection, direct, table):
    xid = connection.xid(42, "order", "stock")
    connection.tpc_begin(xid)
    connection.cursor().execute("INSERT INTO item VALUES (1, 'cup', 1)")
    connection.tpc_prepare()
    connection.reset()
    assert len(connection.tpc_recover()) == 1
    connection.rollback()
    connection.tpc_commit(xid)
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (1,)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_isolation_levels_hold_in_their_transactions(connection, cursor, level):
    connection.set_session(isolation_level=level, readonly=True)
    names = {1: "read committed", 2: "repeatable read", 3: "serializable"}
    for _ in range(10):
        cursor.execute("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
        assert cursor.fetchone() == (names[level], "on")
        connection.commit()


def test_the_client_encoding_follows_its_connection(connection, cursor):
    other = psycopg2.connect("", client_encoding="LATIN1")
    for _ in range(10):
        with other, other.cursor() as latin:
            latin.execute("SELECT 'é', length(%s), current_setting('client_encoding')", ["éé"])
            assert latin.fetchone() == ("é", 2, "LATIN1")
        with connection:
            cursor.execute("SELECT 'ž', current_setting('client_encoding')")
            assert cursor.fetchone() == ("ž", "UTF8")
    other.close()


def test_an_asynchronous_connection_is_polled():
    def wait(connection):
        while True:
            state = connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            reads = [connection.fileno()] if state == psycopg2.extensions.POLL_READ else []
            writes = [connection.fileno()] if state == psycopg2.extensions.POLL_WRITE else []
            assert any(select.select(reads, writes, [], 10))

    connection = psycopg2.connect("", async_=True)
    wait(connection)
    cursor = connection.cursor()
    for number in range(10):
        cursor.execute("SELECT %s, repeat('x', 100000)", [number])
        wait(connection)
        assert cursor.fetchone() == (number, "x" * 100000)
    connection.close()


def test_threads_share_a_pool_of_connections(direct, table):
    pool = psycopg2.pool.ThreadedConnectionPool(1, 6, "")

    def work(number):
        for step in range(10):
            connection = pool.getconn()
            with connection, connection.cursor() as cursor:
                cursor.execute("INSERT INTO item VALUES (%s, 'x', 1)", [number * 10 + step])
            pool.putconn(connection)

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.closeall()
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (60,)


def test_connecting_again_and_again():
    for number in range(40):
        connection = psycopg2.connect("")
        cursor = connection.cursor()
        cursor.execute("SELECT %s", [number])
        assert cursor.fetchone() == (number,)
        connection.close()
    with pytest.raises(psycopg2.OperationalError, match="password|authentication"):
        psycopg2.connect("", password="wrong")
