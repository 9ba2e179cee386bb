"""Bearer tokens with libpq 18. Its own way to get one is a library of its own, which psycopg's wheel lacks; a program may get
one in another way and hand it over (PQsetAuthDataHook), which is what is done here."""

import base64
import ctypes
import json
import pathlib
import time

import psycopg
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from conftest import Valet

DRIVER = "libpq"
ISSUER = "https://issuer.test"
BEARER_TOKEN = 1


class Request(ctypes.Structure):
    """PGoauthBearerRequest of libpq-fe.h."""

    _fields_ = [
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("begin", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    ]


HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Request))


@pytest.fixture(scope="module")
def libpq():
    """The very library that psycopg's wheel has loaded."""
    wheel = pathlib.Path(psycopg.__file__).parents[1] / "psycopg_binary.libs"
    return ctypes.CDLL(str(next(wheel.glob("libpq-*.so*"))))


@pytest.fixture
def token_is(libpq):
    """Says which token libpq gets when it wants one, and what it asked with."""
    asked = []
    kept = []

    def hand_over(token):
        def hook(kind, _connection, request):
            if kind != BEARER_TOKEN:
                return 0
            asked.append((request.contents.openid_configuration, request.contents.scope))
            request.contents.token = token
            return 1

        kept.append(HOOK(hook))
        libpq.PQsetAuthDataHook(kept[-1])
        return asked

    yield hand_over
    libpq.PQsetAuthDataHook(None)


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(key, **claims):
    header = {"alg": "RS256", "kid": "k"}
    claims = {"iss": ISSUER, "aud": "pg", "sub": "driver", "scope": "db", "exp": int(time.time()) + 300, **claims}
    message = ".".join(text(json.dumps(part).encode()) for part in [header, claims])
    return f"{message}.{text(key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256()))}".encode()


@pytest.fixture(scope="module")
def asking(tmp_path_factory, good, key):
    home = tmp_path_factory.mktemp("oauth")
    numbers = key.public_key().public_numbers()
    public = {"kty": "RSA", "kid": "k", "n": text(numbers.n.to_bytes(256, "big")), "e": text(b"\1\0\1")}
    (home / "keys.json").write_text(json.dumps({"keys": [public]}))
    certificate, private = good
    settings = [
        'client_tls_sslmode = "require"', f'client_tls_cert_file = "{certificate}"', f'client_tls_key_file = "{private}"'
    ]
    rules = f"hostssl all all all oauth issuer={ISSUER} scope=db validator.audience=pg validator.jwks=keys.json\n"
    valet = Valet(home, "\n".join(settings), rules)
    yield valet
    valet.stop()


def connect(valet, authority, **more):
    verified = {"sslmode": "verify-full", "sslrootcert": authority.file, "require_auth": "oauth"}
    known = {"oauth_issuer": ISSUER, "oauth_client_id": "test", **verified, **more}
    return psycopg.connect(psycopg.conninfo.make_conninfo("gssencmode=disable", **valet.place(), **known))


def test_libpq_logs_in_with_a_token(asking, authority, token_is, key):
    asked = token_is(signed(key))
    with connect(asking, authority) as connection:
        assert connection.execute("SELECT %s + 2", [40]).fetchone() == (42,)
    # It had asked us first where tokens are to be had, and for what.
    assert asked == [(f"{ISSUER}/.well-known/openid-configuration".encode(), b"db")]


@pytest.mark.parametrize("claims", [{"sub": "somebody"}, {"exp": 1}, {"aud": "other"}, {"scope": "other"}, {"iss": "x"}])
def test_libpq_is_told_that_a_token_does_not_count(asking, authority, token_is, key, claims):
    token_is(signed(key, **claims))
    with pytest.raises(psycopg.OperationalError, match='OAuth bearer authentication failed for user "driver"'):
        connect(asking, authority)


def test_libpq_asks_nobody_but_the_issuer_that_it_knows(asking, authority, token_is, key):
    asked = token_is(signed(key))
    with pytest.raises(psycopg.OperationalError, match="incompatible with oauth_issuer"):
        connect(asking, authority, oauth_issuer="https://elsewhere.test")
    assert asked == []
