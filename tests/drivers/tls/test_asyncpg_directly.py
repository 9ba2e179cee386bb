"""asyncpg's `direct_tls`, which names no protocol by itself."""

import asyncio

import asyncpg
import clients
import pytest

DRIVER = "asyncpg"


def test_direct_tls_has_to_name_the_protocol(offering):
    place = ("localhost", offering.port, "over_tls")
    assert asyncio.run(clients.asyncpg_directly(*place, alpn=True)) == 42
    with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
        asyncio.run(clients.asyncpg_directly(*place, alpn=False))
