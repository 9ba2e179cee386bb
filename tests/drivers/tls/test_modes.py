"""libpq's modes with each client. Which connections are encrypted is not asked of the client: the rules of pgvalet let only
encrypted ones into `over_tls`, only others into `in_the_clear`."""

import re

import clients
import pytest
from certificates import ELSEWHERE, HERE

MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
VERIFYING = ["verify-ca", "verify-full"]
# What each client, or the library below, says of a certificate that it does not trust.
UNTRUSTED = "certificate verify failed|PKIX path|validity check failed|timestamp check failed|unable to verify|self.signed|" \
    "UNABLE_TO_VERIFY|CERT_HAS_EXPIRED|certificate has expired"
MISNAMED = "does not match|not match certificate|is not valid for|could not be verified|ERR_TLS_CERT_ALTNAME_INVALID"


def connect(client, valet, mode, database="either", root=None, host="localhost", **more):
    """What came of it: what was asked for, or why it was not to be had."""
    if mode == "allow" and "allow" in client.lacks:
        pytest.skip(client.lacks["allow"])
    if root and mode in VERIFYING:
        more["sslrootcert"] = root
    try:
        return client.connect(**valet.place(database, host), sslmode=mode, **more)
    except clients.Refused as refused:
        return refused


def refused(outcome, why=""):
    assert isinstance(outcome, clients.Refused), outcome
    assert re.search(why, str(outcome)), outcome


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_tls_or_not_as_libpq_has_it(client, offering, authority, mode):
    over_tls = connect(client, offering, mode, "over_tls", authority.file)
    in_the_clear = connect(client, offering, mode, "in_the_clear", authority.file)
    either = connect(client, offering, mode, "either", authority.file)
    assert either == 42
    if mode == "disable":
        refused(over_tls, "no pg_hba.conf entry")
        assert in_the_clear == 42
    elif mode == "allow" or mode == "prefer" and "fallback" not in client.lacks:
        # Who is refused one way tries the other.
        assert (over_tls, in_the_clear) == (42, 42)
    else:
        assert over_tls == 42
        refused(in_the_clear, "no pg_hba.conf entry")


def test_direct_tls(client, offering, authority):
    if not client.is_direct:
        pytest.skip("begins TLS by a request only, or where its own test is")
    direct = {"sslnegotiation": "direct"}
    assert connect(client, offering, "verify-full", "over_tls", authority.file, **direct) == 42


@pytest.fixture(scope="module")
def without(start):
    return start("disable")


@pytest.mark.parametrize("mode", MODES)
def test_where_there_is_no_tls_none_is_had(client, without, authority, mode):
    outcome = connect(client, without, mode, "either", authority.file)
    if mode in ["disable", "allow"] or mode == "prefer" and "fallback" not in client.lacks:
        assert outcome == 42
    else:
        refused(outcome, "(?i)not support SSL|rejected SSL")


@pytest.fixture(scope="module")
def requiring(start, good):
    return start("require", *good)


@pytest.mark.parametrize("mode", MODES)
def test_where_tls_is_required_nothing_else_is_had(client, requiring, authority, mode):
    outcome = connect(client, requiring, mode, "either", authority.file)
    if mode == "disable":
        refused(outcome, "connections without TLS are refused")
    else:
        assert outcome == 42


@pytest.fixture(scope="module")
def unfit(start, authority, stranger):
    """Servers whose certificates do not fit."""
    return {
        "of a stranger": start("prefer", *stranger.issue("strange", "localhost", HERE)[:2]),
        "expired": start("prefer", *authority.issue("expired", "localhost", HERE, expired=True)[:2]),
        "of another host": start("prefer", *authority.issue("elsewhere", "elsewhere.test", ELSEWHERE)[:2]),
    }


@pytest.mark.parametrize("what", ["of a stranger", "expired", "of another host"])
def test_a_certificate_that_does_not_fit_is_found_out(client, unfit, authority, what):
    valet = unfit[what]
    assert connect(client, valet, "require", "over_tls") == 42
    verified = connect(client, valet, "verify-ca", "over_tls", authority.file)
    verified_fully = connect(client, valet, "verify-full", "over_tls", authority.file)
    if what == "of another host":
        assert verified == 42
        refused(verified_fully, MISNAMED)
    else:
        refused(verified, UNTRUSTED)
        refused(verified_fully, UNTRUSTED)


@pytest.fixture(scope="module")
def asking(start, good, authority):
    return start("verify-full", *good, f'client_tls_ca_file = "{authority.file}"')


def test_certificates_of_clients_are_looked_at(client, asking, authority, stranger):
    def with_one(by, database="either", common_name="driver", **how):
        certificate, key, _ = by.issue("client", common_name, **how)
        return connect(client, asking, "verify-full", database, authority.file, sslcert=certificate, sslkey=key)

    assert with_one(authority) == 42
    assert with_one(authority, "by_cert") == 42
    refused(with_one(authority, "by_cert", "somebody"), "certificate authentication failed")
    refused(with_one(stranger))
    refused(with_one(authority, expired=True))
    refused(connect(client, asking, "verify-full", "either", authority.file))
    # Nobody else was disturbed.
    assert with_one(authority) == 42


def test_a_replaced_certificate_counts_for_who_connects_then(client, start, authority, stranger):
    valet = start("prefer", *stranger.issue("replaced", "localhost", HERE)[:2])
    assert connect(client, valet, "verify-full", "over_tls", stranger.file) == 42
    authority.issue("replaced", "localhost", HERE)
    valet.reload()
    refused(connect(client, valet, "verify-full", "over_tls", stranger.file), UNTRUSTED)
    assert connect(client, valet, "verify-full", "over_tls", authority.file) == 42
