"""The current signing keys in memory. Losing it costs one read: Postgres has them all."""

import asyncio
import logging
import random
import time
from typing import Final

from service.domain.errors import DomainError
from service.domain.keys import KeySet, MasterKeyMismatch
from service.store import signing_keys
from service.store.db import Database

log = logging.getLogger("sixfold.keys")

# A token with an unknown kid may be signed by a key younger than our copy. Looking costs a query,
# so strangers' tokens can cause one a second and not one each (PyJWT GHSA-2gx3-rcp4-g85q).
REFETCH_SECONDS: Final = 1.0

# The database is away or slow, a key is sealed with another master key, two have one kid.
UNREADABLE: Final = (DomainError, TimeoutError, MasterKeyMismatch, ValueError)


class Keyring:
    """`current` is the newest set that could be read; a failed read keeps the last one."""

    def __init__(self, db: Database, kek: bytes) -> None:
        self._db = db
        self._kek = kek
        self._refetched = -REFETCH_SECONDS
        self._reading: asyncio.Lock = asyncio.Lock()
        self.current = KeySet(())

    async def refresh(self) -> None:
        """Read the keys. Raises DatabaseUnavailable, MasterKeyMismatch."""
        loaded = await signing_keys.load(self._db, self._kek)
        # The same object while nothing has changed: what is derived from it stays good.
        if _dates(loaded) != _dates(self.current):
            self.current = loaded

    async def refetch(self) -> None:
        """Read the keys because a token names one we do not know; at most once a second, and for no
        longer than that: the call's own deadline is not running yet.
        """
        async with self._reading:
            if time.monotonic() - self._refetched < REFETCH_SECONDS:
                return
            try:
                async with asyncio.timeout(REFETCH_SECONDS):
                    await self.refresh()
            except UNREADABLE as error:
                log.warning("keys not refetched; the last good set stays: %s", type(error).__name__)
            finally:
                # Now, not before: else all that waited for a slow read would read again in turn.
                self._refetched = time.monotonic()

    async def run(self, interval: float) -> None:
        """Refresh every `interval` seconds for as long as the process lives."""
        while True:
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))  # noqa: S311  (jitter)
            try:
                await self.refresh()
            except UNREADABLE as error:
                log.warning("keys not refreshed; the last good set stays: %s", type(error).__name__)


def _dates(keys: KeySet) -> list[tuple[object, ...]]:
    return [(key.kid, key.sign_after, key.expire_time) for key in keys.keys]
