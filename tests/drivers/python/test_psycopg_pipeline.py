"""psycopg 3 in libpq's pipeline mode, and its asynchronous connections."""

import asyncio

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

DRIVER = "psycopg"


@pytest.fixture
def autocommit():
    with psycopg.connect(autocommit=True) as connection:
        yield connection


@pytest.mark.smoke
def test_results_of_a_pipeline_come_in_order(autocommit):
    with autocommit.pipeline():
        cursors = [autocommit.execute("SELECT %s::int", [number]) for number in range(500)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(500))
    assert autocommit.info.transaction_status == TransactionStatus.IDLE


def test_a_pipeline_with_a_sync_after_each_query_is_many_transactions(autocommit, direct, table):
    with autocommit.pipeline() as pipeline:
        for number in range(100):
            autocommit.execute("INSERT INTO item VALUES (%s, 'x', 1)", [number])
            pipeline.sync()
    assert direct.execute("SELECT count(*), count(DISTINCT xmin::text) FROM item").fetchone() == (100, 100)


def test_an_error_skips_the_rest_of_its_segment_only(autocommit, direct, table):
    with autocommit.pipeline() as pipeline:
        autocommit.execute("INSERT INTO item VALUES (1, 'a', 1)")
        pipeline.sync()
        # The end of the inner pipeline is a Sync, too.
        with pytest.raises(errors.UniqueViolation), autocommit.pipeline():
            autocommit.execute("INSERT INTO item VALUES (2, 'undone with its segment', 1)")
            autocommit.execute("INSERT INTO item VALUES (1, 'twice', 1)")
            autocommit.execute("INSERT INTO item VALUES (3, 'skipped', 1)")
        autocommit.execute("INSERT INTO item VALUES (4, 'd', 1)")
    assert direct.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (4,)]


def test_queries_after_an_error_are_aborted(autocommit):
    with pytest.raises(errors.PipelineAborted), autocommit.pipeline():
        autocommit.execute("SELECT 1 / 0")
        with pytest.raises(errors.DivisionByZero):
            autocommit.execute("SELECT 1").fetchone()
        autocommit.execute("SELECT 2").fetchone()
    assert autocommit.execute("SELECT 3").fetchone() == (3,)


def test_a_transaction_in_a_pipeline(autocommit, direct, table):
    with autocommit.pipeline(), autocommit.transaction():
        for number in range(50):
            autocommit.execute("INSERT INTO item VALUES (%s, 'x', 1)", [number], prepare=True)
        with pytest.raises(ZeroDivisionError), autocommit.transaction():
            autocommit.execute("DELETE FROM item")
            1 / 0
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (50,)


def test_prepared_statements_in_pipelines_over_many_servers(autocommit):
    for round_ in range(30):
        with autocommit.pipeline():
            doubled = autocommit.execute("SELECT %s::int * 2", [round_], prepare=True)
            named = autocommit.execute("SELECT 'round ' || %s::text", [str(round_)], prepare=True)
            assert (doubled.fetchone(), named.fetchone()) == ((round_ * 2,), (f"round {round_}",))


def test_executemany_in_a_pipeline_of_thousands(autocommit, direct, table):
    with autocommit.pipeline():
        autocommit.cursor().executemany("INSERT INTO item VALUES (%s, %s, 1)", [(n, "y" * 200) for n in range(5000)])
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (5000,)


def test_large_results_while_the_pipeline_is_still_sent(autocommit):
    with autocommit.pipeline():
        cursors = [autocommit.execute("SELECT %s, repeat('z', 300000)", ["p" * 100000]) for _ in range(60)]
        assert all(len(a) == 100000 and len(b) == 300000 for a, b in (cursor.fetchone() for cursor in cursors))


def test_many_asynchronous_clients_share_the_servers(direct, table):
    async def client(number):
        async with await psycopg.AsyncConnection.connect() as connection:
            for step in range(10):
                async with connection.transaction():
                    await connection.execute("INSERT INTO item VALUES (%s, 'x', %s)", [number * 10 + step, number])
                    cursor = await connection.execute("SELECT count(*) FROM item WHERE price = %s", [number])
                    assert await cursor.fetchone() == (step + 1,)

    async def all_clients():
        await asyncio.gather(*[client(number) for number in range(12)])

    asyncio.run(all_clients())
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (120,)


def test_an_asynchronous_task_that_is_cancelled_cancels_its_query():
    async def scenario():
        async with await psycopg.AsyncConnection.connect(autocommit=True) as connection:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.execute("SELECT pg_sleep(63)"), 0.5)
            cursor = await connection.execute("SELECT 'alive'")
            assert await cursor.fetchone() == ("alive",)

    asyncio.run(scenario())


def test_an_asynchronous_pipeline_with_an_error_in_its_middle():
    async def scenario():
        async with await psycopg.AsyncConnection.connect(autocommit=True) as connection:
            with pytest.raises(errors.UndefinedTable):
                async with connection.pipeline():
                    first = await connection.execute("SELECT 1")
                    await connection.execute("SELECT * FROM nowhere")
                    await connection.execute("SELECT 2")
            assert await first.fetchone() == (1,)
            cursor = await connection.execute("SELECT 3")
            assert await cursor.fetchone() == (3,)

    asyncio.run(scenario())
