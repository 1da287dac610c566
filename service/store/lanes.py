"""One user's writes wait for each other in Postgres anyway; here they wait without a connection, so
that a user who writes a lot does not take the pool from all others, and no two of one user meet in
a statement that several share.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID


class Lanes:
    """A lane for each user who is writing now; gone when the last write has ended."""

    def __init__(self) -> None:
        self._lanes: dict[UUID, tuple[asyncio.Lock, list[int]]] = {}

    @asynccontextmanager
    async def enter(self, user_id: UUID) -> AsyncIterator[None]:
        """Wait for the user's lane to be free, no longer than the call's own deadline."""
        lane, users = self._lanes.setdefault(user_id, (asyncio.Lock(), [0]))
        users[0] += 1
        try:
            async with lane:
                yield
        finally:
            users[0] -= 1
            if not users[0]:
                self._lanes.pop(user_id, None)
