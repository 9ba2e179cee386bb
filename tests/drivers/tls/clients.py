"""The clients, each with the one thing that is asked of it: to connect, and to ask for a value.

`connect` takes libpq's names of parameters. A client that has another name for something translates; what it cannot do at
all it says in `lacks`; `is_direct`: it knows sslnegotiation=direct.
"""

import asyncio
import os
import ssl
import subprocess
import urllib.parse

import asyncpg
import psycopg


class Refused(Exception):
    """The client did not get in, for these reasons."""


class Psql:
    """psql, with the libpq of this system."""

    name = "psql"
    lacks = {}
    is_direct = False

    def __init__(self):
        said = subprocess.run(["psql", "--version"], capture_output=True, text=True, check=True).stdout
        self.version = said.split()[2]

    def connect(self, **parameters):
        command = ["psql", "-X", "-A", "-t", "-c", "SELECT 40 + 2", conninfo(parameters)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=25)
        if said.returncode:
            raise Refused(said.stderr)
        return int(said.stdout)

    def close(self):
        pass


class Psycopg:
    """psycopg, whose wheel brings the newest libpq."""

    name = "psycopg"
    version = psycopg.__version__
    lacks = {}
    is_direct = True

    def connect(self, **parameters):
        try:
            with psycopg.connect(conninfo(parameters)) as connection:
                return connection.execute("SELECT %s + 2", [40]).fetchone()[0]
        except psycopg.Error as error:
            raise Refused(str(error)) from error

    def close(self):
        pass


class Asyncpg:
    """asyncpg, which has libpq's modes from Python's ssl."""

    name = "asyncpg"
    version = asyncpg.__version__
    lacks = {}
    is_direct = False

    def connect(self, **parameters):
        return asyncio.run(self._connect(parameters))

    async def _connect(self, parameters):
        user = urllib.parse.quote(parameters.pop("user", os.environ["PGUSER"]))
        place = f"{parameters.pop('host')}:{parameters.pop('port')}/{parameters.pop('dbname')}"
        url = f"postgresql://{user}@{place}?{urllib.parse.urlencode(parameters)}"
        try:
            connection = await asyncpg.connect(url, timeout=20)
        # It passes on what the system and Python's ssl raise, and ends with its own where it gives up.
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            raise Refused(f"{type(error).__name__} {error}") from error
        try:
            return await connection.fetchval("SELECT $1::int + 2", 40)
        finally:
            await connection.close()

    def close(self):
        pass


class ByUrl:
    """A program that connects to each URL that it is given on a line, and answers with a line."""

    def __init__(self, command):
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.DEVNULL)
        self.version = self.program.stdout.readline().strip()

    def connect(self, **parameters):
        self.program.stdin.write(self.url(parameters) + "\n")
        self.program.stdin.flush()
        outcome, _, what = self.program.stdout.readline().strip().partition(" ")
        if outcome == "value":
            return int(what)
        raise Refused(what or "the program ended")

    def close(self):
        self.program.stdin.close()
        self.program.wait(timeout=20)


class Pgjdbc(ByUrl):
    """pgjdbc."""

    name = "pgjdbc"
    lacks = {}
    is_direct = False

    def __init__(self):
        super().__init__(["java", "-XX:TieredStopAtLevel=1", "-cp", os.environ["CONNECTS_CLASSPATH"], "Connects"])

    def url(self, parameters):
        parameters = {"user": os.environ["PGUSER"], "password": os.environ["PGPASSWORD"], **parameters}
        place = f"{parameters.pop('host')}:{parameters.pop('port')}/{parameters.pop('dbname')}"
        if "sslkey" in parameters:
            # It wants PKCS #8 in DER.
            parameters["sslkey"] = parameters["sslkey"].removesuffix(".key") + ".pk8"
        return f"jdbc:postgresql://{place}?{urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote)}"


class NodePostgres(ByUrl):
    """node-postgres, as its documentation has it speak libpq's modes."""

    name = "node-postgres"
    lacks = {
        "allow": "has no such mode",
        "fallback": "prefer is TLS or nothing",
    }
    is_direct = True

    def __init__(self):
        super().__init__(["node", "connects.js"])

    def url(self, parameters):
        user = urllib.parse.quote(parameters.pop("user", os.environ["PGUSER"]))
        password = urllib.parse.quote(os.environ["PGPASSWORD"])
        place = f"{parameters.pop('host')}:{parameters.pop('port')}/{parameters.pop('dbname')}"
        options = {"uselibpqcompat": "true", **parameters}
        return f"postgresql://{user}:{password}@{place}?{urllib.parse.urlencode(options)}"


ALL = [Psql, Psycopg, Asyncpg, Pgjdbc, NodePostgres]


def conninfo(parameters):
    return psycopg.conninfo.make_conninfo("gssencmode=disable connect_timeout=20", **parameters)


async def asyncpg_directly(host, port, database, alpn):
    """asyncpg's direct TLS, with the protocol named or not."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(["postgresql"])
    connection = await asyncpg.connect(host=host, port=port, database=database, ssl=context, direct_tls=True, timeout=20)
    try:
        return await connection.fetchval("SELECT 42")
    finally:
        await connection.close()
