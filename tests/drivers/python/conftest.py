"""What the suites share: a look behind the scenes, limits of time, and the result of each driver.

Every test module names its driver, as PyPI does, in DRIVER. The tests use the connection settings of the environment,
PGHOST and so on, which is pgvalet, or PostgreSQL itself with DRIVERS_DIRECT=1.
"""

import collections
import contextlib
import importlib.metadata
import os
import signal
import sys
import time

import psycopg
import pytest

sys.dont_write_bytecode = True

SECONDS_PER_TEST = 120
results = collections.defaultdict(collections.Counter)


@pytest.fixture
def direct():
    """A session of PostgreSQL itself, to see what is really there."""
    with psycopg.connect(host=os.environ["DIRECT_HOST"], port=os.environ["DIRECT_PORT"], autocommit=True) as connection:
        yield connection


@pytest.fixture
def admin():
    """The same as superuser."""
    with psycopg.connect(host=os.environ["DIRECT_HOST"], port=os.environ["DIRECT_PORT"], autocommit=True,
                         user=os.environ["ADMIN_USER"]) as connection:
        yield connection


@pytest.fixture
def table(direct):
    """The name of an empty table `(id, name, price)`."""
    for (name,) in direct.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
        direct.execute(f"ROLLBACK PREPARED '{name}'")
    direct.execute("DROP TABLE IF EXISTS item CASCADE")
    direct.execute("CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, price numeric(10, 2) CHECK (price >= 0))")
    return "item"


def wait_until(what, condition, seconds=20):
    """The first true value of condition()."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
    raise AssertionError(f"gave up waiting for {what}")


def server_that_runs(admin, query):
    """The process id of the server that runs this query now, once one does."""
    sql = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND position(%s in query) > 0 AND pid <> pg_backend_pid()"
    return wait_until(f"{query} to run", lambda: admin.execute(sql, [query]).fetchone())[0]


def servers_rotate():
    return "DRIVERS_DIRECT" not in os.environ


@pytest.fixture(autouse=True)
def limit_of_time():
    def too_long(_signal, _frame):
        raise TimeoutError(f"not done after {SECONDS_PER_TEST} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS_PER_TEST)
    yield
    signal.alarm(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    driver = item.module.DRIVER
    if report.failed:
        results[driver]["failed"] += 1
    elif report.when == "call" and report.passed:
        results[driver]["passed"] += 1
    return report


def pytest_unconfigure():
    for driver, counts in results.items():
        failed = f"{counts['failed']} failed, " if counts["failed"] else ""
        print(f"{driver} {importlib.metadata.version(driver)}: {failed}{counts['passed']} passed")
