"""The keys in memory: read anew when a token names one that nobody here knows, but not for each."""

import asyncio
from datetime import timedelta

from service import policies
from service.store import connecting, signing_keys
from service.store.keyring import Keyring
from tests.conftest import make_settings


async def test_tokens_with_unknown_keys_cost_one_look_a_second(database_url: str) -> None:
    sent: list[str] = []
    async with connecting.pooled(
        database_url,
        size=2,
        acquire_seconds=2,
        statement_timeout=timedelta(seconds=5),
        on_query=lambda query: sent.append(query.query),
    ) as db:
        keyring = Keyring(db, policies.key_encryption_key(make_settings(database_url)))

        await asyncio.gather(*(keyring.refetch() for _ in range(50)))
        await asyncio.sleep(0)  # asyncpg tells of a statement a turn after it

        assert sent.count(signing_keys.LIST) == 1
        assert keyring.current.keys

        await asyncio.sleep(1.1)
        await asyncio.gather(*(keyring.refetch() for _ in range(50)))
        await asyncio.sleep(0)

        assert sent.count(signing_keys.LIST) == 2
