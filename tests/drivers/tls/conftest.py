"""pgvalets of the suite's own, the clients, and the result of each."""

import collections
import os
import re
import signal
import subprocess
import sys
import time

import psycopg
import pytest

sys.dont_write_bytecode = True

import clients  # noqa: E402
from certificates import HERE, Authority, write  # noqa: E402

SECONDS_PER_TEST = 30
results = collections.defaultdict(collections.Counter)
started = {}

RULES = """
hostssl    over_tls      all  all  scram-sha-256
hostnossl  in_the_clear  all  all  scram-sha-256
host       either        all  all  scram-sha-256
"""

BY_CERTIFICATE = "hostssl by_cert all all cert\n"


class Valet:
    """A pgvalet that offers TLS as `settings` say. Its rules let clients into `over_tls` and `in_the_clear` as these say."""

    def __init__(self, home, settings, rules=RULES):
        # Without authorities it refuses to ask for certificates.
        rules += BY_CERTIFICATE if "client_tls_ca_file" in settings else ""
        write(home / "hba.conf", rules.encode())
        databases = "".join(
            f'[databases.{name}]\ndbname = "{os.environ["PGDATABASE"]}"\nhost = "{os.environ["DIRECT_HOST"]}"\n'
            f'port = {os.environ["DIRECT_PORT"]}\n'
            for name in ["over_tls", "in_the_clear", "by_cert", "either"]
        )
        text = (
            f'listen_addr = "127.0.0.1"\nlisten_port = 0\nworkers = 1\nauth_type = "hba"\nauth_hba_file = "hba.conf"\n'
            f'{settings}\n{databases}[users.{os.environ["PGUSER"]}]\npassword = "{os.environ["PGPASSWORD"]}"\n'
        )
        config = write(home / "pgvalet.toml", text.encode())
        self.log = home / "log"
        # It ends with us, however we end.
        command = ["setpriv", "--pdeathsig", "KILL", os.environ["PGVALET_BIN"], config]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, "NO_COLOR": "1"})
        wait_until(f"pgvalet to be ready: {self.log.read_text()}",
                   lambda: " ready" in self.log.read_text() or self.process.poll() is not None)
        listening = re.search(r' listening address="?127\.0\.0\.1:(\d+)', self.log.read_text())
        assert listening, self.log.read_text()
        self.port = int(listening[1])

    def place(self, database="either", host="localhost"):
        return {"host": host, "port": self.port, "dbname": database}

    def reload(self):
        """Has the files read again."""
        reloads = self.log.read_text().count("configuration reloaded")
        self.process.send_signal(signal.SIGHUP)
        wait_until("the reload", lambda: self.log.read_text().count("configuration reloaded") > reloads)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        assert "panicked" not in self.log.read_text(), self.log.read_text()


def wait_until(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="session")
def authority(directory):
    return Authority(directory, "ours")


@pytest.fixture(scope="session")
def stranger(directory):
    """An authority that nobody was told to trust."""
    return Authority(directory, "strangers")


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts a pgvalet with this `client_tls_sslmode`, certificate and key; they are stopped at the end."""
    valets = []

    def begin(mode, certificate=None, key=None, *more):
        settings = [f'client_tls_sslmode = "{mode}"', *more]
        if certificate:
            settings += [f'client_tls_cert_file = "{certificate}"', f'client_tls_key_file = "{key}"']
        valets.append(Valet(tmp_path_factory.mktemp("pgvalet"), "\n".join(settings)))
        return valets[-1]

    yield begin
    for valet in valets:
        valet.stop()


@pytest.fixture(scope="session")
def good(authority):
    """Certificate and key of a server on this machine."""
    return authority.issue("server", "localhost", HERE)[:2]


@pytest.fixture(scope="session")
def offering(start, good):
    return start("prefer", *good)


@pytest.fixture(scope="session", params=clients.ALL, ids=lambda client: client.name)
def client(request):
    client = request.param()
    started[client.name] = client.version
    yield client
    client.close()


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
    parameters = getattr(item, "callspec", None)
    client = parameters and parameters.params.get("client")
    name = client.name if client else item.module.DRIVER
    if report.failed:
        results[name]["failed"] += 1
    elif report.when == "call" and report.passed:
        results[name]["passed"] += 1
    return report


def pytest_unconfigure():
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    versions = {"openssl": openssl, "libpq": str(psycopg.pq.version()), **started}
    for name, counts in results.items():
        failed = f"{counts['failed']} failed, " if counts["failed"] else ""
        print(f"{name} {versions.get(name, '-')}: {failed}{counts['passed']} passed")
