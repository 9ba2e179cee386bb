"""What `openssl s_client` is offered: versions of TLS, cipher suites, the protocol's name."""

import subprocess

import pytest

DRIVER = "openssl"
VERSIONS = ["tls1", "tls1_1", "tls1_2", "tls1_3"]
NAMES = {"tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}


def s_client(valet, *options, direct=False):
    """The version and the cipher suite that were agreed on, and all that it said; `None` where nothing was."""
    # Old versions are tried for real, whatever the system's own policy is.
    command = ["openssl", "s_client", "-connect", f"localhost:{valet.port}", "-cipher", "DEFAULT:@SECLEVEL=0", *options]
    if not direct:
        command += ["-starttls", "postgres"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=25)
    if "no peer certificate available" in said.stdout:
        return None
    for line in said.stdout.splitlines():
        # "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384"
        words = line.replace(",", "").split()
        if words[:1] == ["New"] and words[-1] != "(NONE)":
            return words[1], words[-1], said.stdout
    return None


@pytest.mark.parametrize("direct", [False, True], ids=["after a request", "directly"])
@pytest.mark.parametrize("version", VERSIONS)
def test_old_versions_do_not_exist(offering, version, direct):
    agreed = s_client(offering, f"-{version}", *(["-alpn", "postgresql"] if direct else []), direct=direct)
    assert (agreed and agreed[0]) == NAMES.get(version)


@pytest.mark.parametrize("only", NAMES)
def test_versions_are_those_of_the_configuration(start, good, only):
    valet = start("prefer", *good, f'client_tls_protocols = "{NAMES[only].lower()}"')
    assert {version: bool(s_client(valet, f"-{version}")) for version in VERSIONS} == {
        version: version == only for version in VERSIONS
    }


def test_cipher_suites_are_those_of_the_configuration(start, good):
    valet = start("prefer", *good, 'client_tls_ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384"',
                  'client_tls13_ciphers = "TLS_CHACHA20_POLY1305_SHA256"')
    assert s_client(valet, "-tls1_2")[1] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    assert s_client(valet, "-tls1_3")[1] == "TLS_CHACHA20_POLY1305_SHA256"
    assert s_client(valet, "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256") is None


def test_nothing_weak_is_agreed_on(offering):
    for suites in ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "NULL", "aNULL", "3DES", "RC4"]:
        assert s_client(offering, "-tls1_2", "-cipher", f"{suites}:@SECLEVEL=0") is None, suites


def test_the_protocol_is_named(offering):
    assert "ALPN protocol: postgresql" in s_client(offering, "-alpn", "postgresql", direct=True)[2]
    assert "ALPN protocol: postgresql" in s_client(offering, "-alpn", "h2,postgresql")[2]
    # A name that is not ours is fatal; none at all is allowed after a request.
    assert s_client(offering, "-alpn", "h2") is None
    assert s_client(offering) is not None


def test_no_renegotiation_no_compression(offering):
    said = s_client(offering, "-tls1_2")[2]
    assert "Secure Renegotiation IS supported" in said
    assert "Compression: NONE" in said
