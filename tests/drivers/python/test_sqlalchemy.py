"""SQLAlchemy's ORM and its pools, on psycopg 3 and asyncpg."""

import asyncio
import os
import urllib.parse

import pytest
import sqlalchemy
from conftest import server_that_runs
from sqlalchemy import ForeignKey, String, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

DRIVER = "SQLAlchemy"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def url(driver):
    user, password = (urllib.parse.quote(os.environ[name]) for name in ("PGUSER", "PGPASSWORD"))
    return f"postgresql+{driver}://{user}:{password}@{os.environ['PGHOST']}:{os.environ['PGPORT']}/{os.environ['PGDATABASE']}"


@pytest.fixture(params=["psycopg", "psycopg2", "pg8000"])
def engine(request):
    engine = sqlalchemy.create_engine(url(request.param))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def add_authors(session):
    session.add_all([Author(name=f"author {n}", books=[Book(title=f"book {n}.{m}") for m in range(3)]) for n in range(50)])


@pytest.mark.smoke
def test_objects_with_relations_are_stored_and_loaded(engine, direct):
    with Session(engine) as session, session.begin():
        add_authors(session)
    assert direct.execute("SELECT count(*), count(DISTINCT author_id) FROM book").fetchone() == (150, 50)
    with Session(engine) as session, session.begin():
        author = session.scalars(select(Author).options(selectinload(Author.books)).where(Author.name == "author 7")).one()
        assert sorted(book.title for book in author.books) == ["book 7.0", "book 7.1", "book 7.2"]
        author.name = "renamed"
        author.books.pop()
        session.delete(session.scalars(select(Author).filter_by(name="author 8")).one())
    assert direct.execute("SELECT count(*) FROM book").fetchone() == (146,)
    assert direct.execute("SELECT name FROM author WHERE name NOT LIKE 'author %'").fetchall() == [("renamed",)]


def test_the_same_queries_in_many_sessions(engine):
    with Session(engine) as session, session.begin():
        add_authors(session)
    for number in range(50):
        with Session(engine) as session:
            counted = select(func.count()).select_from(Book).join(Author).where(Author.name == f"author {number}")
            assert session.scalar(counted) == 3


def test_a_savepoint_undoes_only_what_is_inside(engine, direct):
    with Session(engine) as session, session.begin():
        session.add(Author(name="kept"))
        session.flush()
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(Author(name="kept"))
            session.flush()
        session.add(Author(name="kept too"))
    assert direct.execute("SELECT name FROM author ORDER BY name").fetchall() == [("kept",), ("kept too",)]


def test_rows_are_inserted_in_bulk_and_merged(engine, direct):
    with engine.begin() as connection:
        connection.execute(insert(Author), [{"name": f"author {n}"} for n in range(3000)])
        merge = insert(Author).values([{"name": "author 5"}, {"name": "new"}]).on_conflict_do_nothing().returning(Author.name)
        assert connection.execute(merge).fetchall() == [("new",)]
    assert direct.execute("SELECT count(*) FROM author").fetchone() == (3001,)


def test_large_results_are_streamed(engine):
    with engine.connect().execution_options(yield_per=500) as connection:
        rows = connection.execute(text("SELECT n FROM generate_series(1, 5000) n"))
        assert sum(len(part) for part in rows.partitions()) == 5000


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"])
def test_isolation_levels_hold_in_their_transactions(engine, level):
    expected = "read committed" if level == "AUTOCOMMIT" else level.lower()
    for _ in range(10):
        with engine.connect().execution_options(isolation_level=level) as connection:
            assert connection.scalar(text("SELECT current_setting('transaction_isolation')")) == expected
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT current_setting('transaction_isolation')")) == "read committed"


def test_the_schema_is_reflected(engine):
    inspector = sqlalchemy.inspect(engine)
    assert {"author", "book"} <= set(inspector.get_table_names())
    assert inspector.get_foreign_keys("book")[0]["referred_table"] == "author"
    assert inspector.get_unique_constraints("author")[0]["column_names"] == ["name"]


def test_a_pool_that_pings_replaces_what_was_lost(engine, admin):
    pinging = sqlalchemy.create_engine(engine.url, pool_pre_ping=True)
    with pinging.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1"))
            connection.commit()
    for _ in range(5):
        with pinging.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
    pinging.dispose()


@pytest.mark.smoke
def test_asynchronous_sessions_share_the_servers(direct):
    async def scenario():
        engine = create_async_engine(url("asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)

        async def work(number):
            async with AsyncSession(engine) as session, session.begin():
                session.add(Author(name=f"author {number}", books=[Book(title="first"), Book(title="second")]))
            async with AsyncSession(engine) as session:
                return await session.scalar(select(func.count()).select_from(Book).join(Author).where(Author.name == f"author {number}"))

        assert await asyncio.gather(*[work(number) for number in range(60)]) == [2] * 60
        await engine.dispose()

    asyncio.run(scenario())
    assert direct.execute("SELECT count(*) FROM book").fetchone() == (120,)


def test_asynchronous_streams_savepoints_and_cancels(admin):
    async def scenario():
        engine = create_async_engine(url("asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
            with pytest.raises(IntegrityError):
                async with connection.begin_nested():
                    await connection.execute(insert(Author), [{"name": "same"}, {"name": "same"}])
            rows = await connection.stream(text("SELECT n FROM generate_series(1, 3000) n"))
            assert len([row async for row in rows]) == 3000
        async with engine.connect() as connection:
            task = asyncio.create_task(connection.execute(text("SELECT pg_sleep(67)")))
            await asyncio.to_thread(server_that_runs, admin, "pg_sleep(67)")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM author")) == 0
        await engine.dispose()

    asyncio.run(scenario())
