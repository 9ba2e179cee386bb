"""What only libpq has: direct TLS, channel binding, revoked certificates, protocol 3.2, and cancel requests over TLS."""

import clients
import psycopg
import pytest
from certificates import HERE

DRIVER = "libpq"


def connect(valet, database="over_tls", **parameters):
    return psycopg.connect(clients.conninfo({**valet.place(database), **parameters}), autocommit=True)


def refused(valet, why, **parameters):
    with pytest.raises(psycopg.OperationalError, match=why):
        connect(valet, **parameters)


@pytest.fixture
def verified(authority):
    return {"sslmode": "verify-full", "sslrootcert": authority.file}


def test_direct_tls(offering, verified):
    with connect(offering, sslnegotiation="direct", **verified) as connection:
        assert connection.execute("SELECT repeat('x', 1000000)").fetchone()[0] == "x" * 1000000
    # It cannot give way to anything.
    refused(offering, "weak sslmode", sslmode="prefer", sslnegotiation="direct")


def test_direct_tls_where_there_is_none(start):
    refused(start("disable"), "(?i)closed|eof", database="either", sslmode="require", sslnegotiation="direct")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_channel_binding(offering, verified, version, negotiation):
    bound = {"channel_binding": "require", "require_auth": "scram-sha-256", "sslnegotiation": negotiation}
    with connect(offering, ssl_min_protocol_version=version, ssl_max_protocol_version=version, **bound, **verified) as c:
        assert c.execute("SELECT 42").fetchone() == (42,)


def test_without_tls_there_is_nothing_to_bind_to(offering):
    refused(offering, "channel binding", database="in_the_clear", sslmode="disable", channel_binding="require")


@pytest.mark.parametrize("method", ["password", "md5", "gss", "none", "!scram-sha-256"])
def test_the_client_insists_on_another_method(offering, method):
    refused(offering, "authentication method requirement|authentication failed", sslmode="require", require_auth=method)


def test_a_certificate_of_the_client_can_be_insisted_on(start, good, authority, verified):
    certificate, key, _ = authority.issue("client", "driver")
    own = {"sslcert": certificate, "sslkey": key}
    asking = start("prefer", *good, f'client_tls_ca_file = "{authority.file}"')
    with connect(asking, sslcertmode="require", **own, **verified) as connection:
        assert connection.execute("SELECT 42").fetchone() == (42,)
    with connect(asking, "by_cert", require_auth="none", **own, **verified) as connection:
        assert connection.info.user == "driver"
    refused(asking, "server did not request|did not accept a valid|without", sslcertmode="require", **verified)
    silent = start("prefer", *good)
    refused(silent, "server did not request", sslcertmode="require", **own, **verified)


@pytest.mark.parametrize("versions", [("3.0", "3.0"), ("3.0", "latest"), ("3.2", "latest"), ("3.2", "3.2")])
def test_versions_of_the_protocol(offering, verified, versions):
    least, most = versions
    with connect(offering, min_protocol_version=least, max_protocol_version=most, **verified) as connection:
        assert connection.pgconn.full_protocol_version == (30000 if most == "3.0" else 30002)
        assert connection.execute("SELECT 42").fetchone() == (42,)


def test_cancel_requests_are_encrypted_and_find_their_query(offering, verified):
    with connect(offering, min_protocol_version="3.2", max_protocol_version="latest", **verified) as connection:
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        # libpq sends it over TLS, verified as its connection was.
        connection.cancel_safe(timeout=20)
        while (result := connection.pgconn.get_result()) is not None:
            outcome = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        assert outcome == b"57014"


def test_a_revoked_certificate_is_refused_until_it_is_replaced(start, authority, verified):
    certificate, key, number = authority.issue("revocable", "localhost", HERE)
    valet = start("prefer", certificate, key)
    with connect(valet, **verified) as before:
        verified["sslcrl"] = authority.revoke(number)
        refused(valet, "certificate revoked|certificate verify failed", **verified)
        authority.issue("revocable", "localhost", HERE)
        valet.reload()
        with connect(valet, **verified) as after:
            assert after.execute("SELECT 42").fetchone() == (42,)
        # Who was connected stays so.
        assert before.execute("SELECT 42").fetchone() == (42,)
