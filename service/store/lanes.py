"""One user's writes wait for each other in Postgres anyway; here they wait without a connection, so
that a user who writes a lot does not take the pool from all others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

# Writes of one user at work in one process: one in Postgres, and one to follow it at once.
WIDTH: Final = 2


class Lanes:
    """A lane for each user who is writing now; gone when the last write has ended."""

    def __init__(self) -> None:
        self._lanes: dict[UUID, tuple[asyncio.Semaphore, list[int]]] = {}

    @asynccontextmanager
    async def enter(self, user_id: UUID) -> AsyncIterator[None]:
        """Wait for a place in the user's lane, no longer than the call's own deadline."""
        lane, users = self._lanes.setdefault(user_id, (asyncio.Semaphore(WIDTH), [0]))
        users[0] += 1
        try:
            async with lane:
                yield
        finally:
            users[0] -= 1
            if not users[0]:
                self._lanes.pop(user_id, None)
