"""asyncpg: everything by the extended protocol with a cache of named statements, binary values, introspected types.

Its own test suite is in ../asyncpg-suite; here is what applications do.
"""

import asyncio
import decimal
import functools
import inspect

import asyncpg
import pytest
from conftest import server_that_runs

DRIVER = "asyncpg"


def asynchronous(test):
    """Runs a test in an event loop, with a connection as its first argument."""
    @functools.wraps(test)
    def run(**fixtures):
        async def scenario():
            connection = await asyncpg.connect()
            try:
                await test(connection, **fixtures)
            finally:
                await connection.close(timeout=5)

        asyncio.run(scenario())

    # The connection is no fixture.
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    return run


@pytest.mark.smoke
@asynchronous
async def test_rows_are_created_read_updated_and_deleted_in_transactions(connection, direct, table):
    async with connection.transaction():
        assert await connection.execute("INSERT INTO item VALUES ($1, $2, $3)", 1, "cup", decimal.Decimal("2.50")) == "INSERT 0 1"
        await connection.executemany("INSERT INTO item VALUES ($1, $2, 1)", [(n, "pot") for n in range(2, 300)])
    async with connection.transaction():
        assert await connection.execute("UPDATE item SET price = 7 WHERE id > $1", 200) == "UPDATE 99"
        assert await connection.fetchval("SELECT sum(price) FROM item WHERE id > 200") == 99 * 7
    assert await connection.fetch("DELETE FROM item WHERE id < $1 RETURNING id, name", 3) == [(1, "cup"), (2, "pot")]
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (297,)


@asynchronous
async def test_nested_transactions_and_errors(connection, direct, table):
    async with connection.transaction():
        await connection.execute("INSERT INTO item VALUES (1, 'cup', 1)")
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            async with connection.transaction():
                await connection.execute("INSERT INTO item VALUES (2, 'pot', 1)")
                await connection.execute("INSERT INTO item VALUES ($1, 'pot', 1)", 1)
        assert (caught.value.sqlstate, caught.value.constraint_name) == ("23505", "item_pkey")
        await connection.execute("INSERT INTO item VALUES (3, 'pan', 1)")
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connection.transaction(isolation="serializable"):
            await connection.execute("DELETE FROM item")
            await connection.fetchval("SELECT 1 / $1::int", 0)
    assert not connection.is_in_transaction()
    assert direct.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (3,)]


@pytest.mark.smoke
@asynchronous
async def test_statements_from_the_cache_run_on_every_server(connection, direct, table):
    for number in range(100):
        await connection.execute("INSERT INTO item VALUES ($1, $2, $3)", number, f"item {number}", number)
        assert await connection.fetchval("SELECT name FROM item WHERE id = $1", number) == f"item {number}"
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (100,)


@asynchronous
async def test_more_statements_than_the_cache_and_the_servers_keep(connection):
    for round_ in range(2):
        for number in range(260):
            assert await connection.fetchrow(f"SELECT {number} AS n, $1::int AS round", round_) == (number, round_)


@asynchronous
async def test_prepared_statements_tell_their_types_and_keep_working(connection):
    statement = await connection.prepare("SELECT $1::int AS n, $2::text[] AS words")
    assert [parameter.name for parameter in statement.get_parameters()] == ["int4", "text[]"]
    assert [attribute.name for attribute in statement.get_attributes()] == ["n", "words"]
    for number in range(30):
        assert await statement.fetchrow(number, ["a", None]) == (number, ["a", None])
        async with connection.transaction():
            assert await statement.fetchval(number, [], column=1) == []


@asynchronous
async def test_types_of_the_application_are_introspected(connection, direct):
    direct.execute("DROP TYPE IF EXISTS mood, spot CASCADE")
    direct.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    direct.execute("CREATE TYPE spot AS (x int, y int, moods mood[])")
    for _ in range(5):
        value = await connection.fetchval("SELECT ARRAY[ROW(1, 2, '{happy,sad}')::spot]")
        assert value == [(1, 2, ["happy", "sad"])]
        assert await connection.fetchval("SELECT $1::mood", "happy") == "happy"
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await connection.fetchval("SELECT $1::mood", "angry")
    direct.execute("DROP TYPE mood, spot CASCADE")


@asynchronous
async def test_a_changed_table_is_noticed_and_the_query_repeated(connection, direct, table):
    direct.execute("INSERT INTO item VALUES (1, 'cup', 1)")
    for _ in range(5):
        assert await connection.fetch("SELECT * FROM item") == [(1, "cup", 1)]
    direct.execute("ALTER TABLE item ADD COLUMN color text DEFAULT 'red'")
    for _ in range(10):
        assert await connection.fetch("SELECT * FROM item") == [(1, "cup", 1, "red")]
    direct.execute("ALTER TABLE item ALTER COLUMN color DROP DEFAULT, ALTER COLUMN color TYPE int USING 5")
    for _ in range(10):
        assert await connection.fetchval("SELECT color FROM item") == 5


@asynchronous
async def test_a_cursor_fetches_in_steps(connection):
    async with connection.transaction():
        cursor = await connection.cursor("SELECT n FROM generate_series(1, 1000) n WHERE n > $1", 10)
        assert await cursor.fetchrow() == (11,)
        assert await cursor.forward(5) == 5
        assert await cursor.fetch(2) == [(17,), (18,)]
        total = 0
        async for row in connection.cursor("SELECT n FROM generate_series(1, 1000) n", prefetch=40):
            total += row["n"]
        assert total == 500500


@pytest.mark.smoke
@asynchronous
async def test_copy_in_and_out(connection, direct, table):
    records = [(n, f"item {n}", decimal.Decimal(n)) for n in range(20000)]
    assert await connection.copy_records_to_table("item", records=records) == "COPY 20000"
    assert direct.execute("SELECT sum(price) FROM item").fetchone() == (199990000,)
    chunks = []

    async def keep(data):
        chunks.append(data)

    assert await connection.copy_from_query("SELECT id, name FROM item WHERE id < $1 ORDER BY id", 10000, output=keep, format="csv") == "COPY 10000"
    assert b"".join(chunks).splitlines()[9999] == b"9999,item 9999"
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.copy_records_to_table("item", records=[(20001, "x", 1), (1, "x", 1)])

    def failing():
        yield (30000, "x", 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await connection.copy_records_to_table("item", records=failing())
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (20000,)


@pytest.mark.smoke
@asynchronous
async def test_a_timeout_cancels_the_query_on_the_server(connection, admin):
    for _ in range(5):
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch("SELECT pg_sleep(65)", timeout=0.3)
        assert await connection.fetchval("SELECT 'alive'") == "alive"
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND position('pg_sleep(65)' in query) > 0 AND pid <> pg_backend_pid()"
    assert admin.execute(running).fetchone() == (0,)


@asynchronous
async def test_a_cancelled_task_cancels_its_query(connection, admin):
    task = asyncio.create_task(connection.fetch("SELECT pg_sleep(66)"))
    await asyncio.to_thread(server_that_runs, admin, "pg_sleep(66)")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await connection.fetchval("SELECT 1") == 1


@asynchronous
async def test_notices_reach_their_listener(connection):
    messages = []
    connection.add_log_listener(lambda _, message: messages.append(message.message))
    await connection.execute("DO $$ BEGIN RAISE WARNING 'careful'; END $$")
    await asyncio.sleep(0)
    assert messages == ["careful"]


@asynchronous
async def test_several_statements_in_one_query(connection, direct, table):
    assert await connection.execute("INSERT INTO item VALUES (1, 'a', 1); INSERT INTO item VALUES (2, 'b', 1)") == "INSERT 0 1"
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.execute("INSERT INTO item VALUES (3, 'c', 1); SELECT * FROM nowhere")
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (2,)


@pytest.mark.smoke
def test_tasks_share_a_pool_of_connections(direct, table):
    async def scenario():
        async with asyncpg.create_pool(min_size=2, max_size=8) as pool:
            async def work(number):
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("INSERT INTO item VALUES ($1, 'x', 1)", number)
                    return await connection.fetchval("SELECT id FROM item WHERE id = $1", number)

            assert await asyncio.gather(*[work(number) for number in range(200)]) == list(range(200))

    asyncio.run(scenario())
    assert direct.execute("SELECT count(*) FROM item").fetchone() == (200,)


def test_what_a_connection_asks_for_at_its_start_holds_in_every_transaction():
    async def scenario():
        asked = {"application_name": "till 2", "timezone": "Asia/Tokyo", "search_path": "pg_catalog"}
        one, other = await asyncpg.connect(server_settings=asked), await asyncpg.connect()
        query = "SELECT current_setting('application_name'), current_setting('timezone'), current_setting('search_path')"
        for _ in range(15):
            assert await one.fetchrow(query) == ("till 2", "Asia/Tokyo", "pg_catalog")
            assert await other.fetchrow(query) == ("", "UTC", '"$user", public')
        await one.close()
        await other.close()

    asyncio.run(scenario())


@pytest.mark.smoke
@asynchronous
async def test_listeners_are_called_with_what_is_notified(connection, direct):
    heard = asyncio.Queue()
    await connection.add_listener("asyncpg_news", lambda *notified: heard.put_nowait(notified[1:]))
    pid = direct.info.backend_pid
    for number in range(20):
        direct.execute("SELECT pg_notify('asyncpg_news', %s)", [str(number)])
    for number in range(20):
        assert await asyncio.wait_for(heard.get(), 10) == (pid, "asyncpg_news", str(number))
    async with connection.transaction():
        await connection.execute("NOTIFY asyncpg_news, 'own'")
        assert heard.empty()
    assert await asyncio.wait_for(heard.get(), 10) == (connection.get_server_pid(), "asyncpg_news", "own")
    await connection.reset()
    direct.execute("NOTIFY asyncpg_news, 'nobody hears'")
    assert await connection.fetchval("SELECT 1") == 1
    assert heard.empty()
