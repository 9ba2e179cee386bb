"""pg8000: pure Python, unnamed and named statements of the extended protocol."""

import datetime
import decimal
import io
import os

import pg8000.dbapi
import pg8000.native
import pytest

DRIVER = "pg8000"


def settings():
    environment = os.environ
    return {"user": environment["PGUSER"], "password": environment["PGPASSWORD"], "host": environment["PGHOST"],
            "port": int(environment["PGPORT"]), "database": environment["PGDATABASE"]}


@pytest.fixture
def connection():
    connection = pg8000.dbapi.connect(**settings())
    yield connection
    connection.close()


@pytest.fixture
def native():
    with pg8000.native.Connection(**settings()) as connection:
        yield connection


@pytest.mark.smoke
def test_rows_are_created_read_updated_and_deleted_in_transactions(connection, direct, table):
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO item VALUES (%s, %s, %s)", [(n, f"item {n}", n) for n in range(100)])
    connection.commit()
    cursor.execute("UPDATE item SET name = %s WHERE id < %s", ("cheap", 10))
    assert cursor.rowcount == 10
    connection.commit()
    cursor.execute("DELETE FROM item WHERE price > %s RETURNING id", (90,))
    assert len(cursor.fetchall()) == 9
    connection.rollback()
    assert direct.execute("SELECT count(*), count(*) FILTER (WHERE name = 'cheap') FROM item").fetchone() == (100, 10)


@pytest.mark.smoke
def test_prepared_statements_run_on_every_server(native):
    double = native.prepare("SELECT CAST(:n AS int) * 2")
    greet = native.prepare("SELECT 'hello ' || CAST(:name AS text)")
    for number in range(50):
        assert double.run(n=number) == [[number * 2]]
        assert greet.run(name=str(number)) == [[f"hello {number}"]]
    double.close()
    assert greet.run(name="you") == [["hello you"]]
    greet.close()


def test_statements_outside_transactions_commit_at_once(native, direct, table):
    for number in range(30):
        native.run("INSERT INTO item VALUES (:id, :name, :price)", id=number, name="x", price=decimal.Decimal("1.25"))
        assert native.row_count == 1
    assert direct.execute("SELECT sum(price) FROM item").fetchone() == (decimal.Decimal("37.50"),)


def test_errors_carry_their_fields_and_fail_the_transaction(connection, direct, table):
    cursor = connection.cursor()
    cursor.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    connection.commit()
    with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
        cursor.execute("INSERT INTO item VALUES (%s, 'pot', 1)", (1,))
    assert (caught.value.args[0]["C"], caught.value.args[0]["n"]) == ("23505", "item_pkey")
    with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
        cursor.execute("SELECT 1")
    assert caught.value.args[0]["C"] == "25P02"
    connection.rollback()
    cursor.execute("SELECT count(*) FROM item")
    assert cursor.fetchone() == [1]


def test_a_wrong_statement_can_be_corrected(native):
    for _ in range(5):
        with pytest.raises(pg8000.native.DatabaseError) as caught:
            native.run("SELECT * FROM nowhere WHERE id = :id", id=1)
        assert caught.value.args[0]["C"] == "42P01"
        assert native.run("SELECT CAST(:n AS int)", n=7) == [[7]]


def test_values_of_many_types_come_back_as_they_went(native):
    values = {"bool": True, "bigint": 2**62, "float8": 1.5, "numeric": decimal.Decimal("1.230"), "text": "žluť \U0001f40e", "bytea": b"\0\xff",
              "date": datetime.date(2024, 2, 29), "int[]": [[1, 2], [3, None]], "json": {"a": [1, None]}, "text[]": ["a,", '"b"', "NULL"]}
    for name, value in values.items():
        assert native.run(f"SELECT CAST(:value AS {name})", value=value) == [[value]]
    assert native.run("SELECT CAST(:value AS text)", value=None) == [[None]]


@pytest.mark.smoke
def test_copy_in_and_out(connection, direct, table):
    cursor = connection.cursor()
    source = io.BytesIO(b"".join(b"%d\titem\t%d\n" % (n, n) for n in range(20000)))
    cursor.execute("COPY item FROM STDIN", stream=source)
    assert cursor.rowcount == 20000
    connection.commit()
    assert direct.execute("SELECT sum(price) FROM item").fetchone() == (199990000,)
    target = io.BytesIO()
    cursor.execute("COPY (SELECT id FROM item ORDER BY id) TO STDOUT", stream=target)
    assert target.getvalue().split() == [b"%d" % n for n in range(20000)]
    with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
        cursor.execute("COPY item FROM STDIN", stream=io.BytesIO(b"1\tcup\t1\n"))
    assert caught.value.args[0]["C"] == "23505"
    connection.rollback()
    cursor.execute("SELECT count(*) FROM item")
    assert cursor.fetchone() == [20000]


def test_a_savepoint_undoes_only_what_is_inside(connection, direct, table):
    cursor = connection.cursor()
    cursor.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    cursor.execute("SAVEPOINT a")
    cursor.execute("DELETE FROM item")
    cursor.execute("ROLLBACK TO SAVEPOINT a")
    cursor.execute("INSERT INTO item VALUES (2, 'pot', 1)")
    connection.commit()
    assert direct.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (2,)]


def test_notices_are_kept_for_the_application(native):
    native.run("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
    assert native.notices[-1][b"M"] == b"heard"


def test_several_statements_in_one_query(native):
    assert native.run("SELECT 1; SELECT 2") == [[1], [2]]


def test_connecting_again_and_again():
    for number in range(30):
        with pg8000.native.Connection(**settings()) as connection:
            assert connection.run("SELECT CAST(:n AS int)", n=number) == [[number]]
    with pytest.raises(pg8000.exceptions.DatabaseError) as caught:
        pg8000.native.Connection(**{**settings(), "password": "wrong"})
    assert caught.value.args[0]["C"] == "28P01"
