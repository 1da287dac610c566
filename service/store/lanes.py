"""One user's writes wait for each other in Postgres anyway; here they wait without a connection, so
that a user who writes a lot does not take the pool from all others, and no two of one user meet in
a statement that several share.
"""

import asyncio
from uuid import UUID


class Lanes:
    """A lane for each user who is writing now; gone when the last write has ended."""

    def __init__(self) -> None:
        self._lanes: dict[UUID, Lane] = {}

    def of(self, user_id: UUID) -> "Lane":
        """A user's, for `async with` at once. Waits for it to be free, no longer than the call's
        own deadline.
        """
        lane = self._lanes.get(user_id)
        if lane is None:
            lane = self._lanes[user_id] = Lane(self._lanes, user_id)
        return lane


class Lane:
    """For one write at a time. A class: a generator would cost a write more than the lock does."""

    __slots__ = ("_lanes", "_lock", "_user_id", "_users")

    def __init__(self, lanes: "dict[UUID, Lane]", user_id: UUID) -> None:
        self._lanes = lanes
        self._user_id = user_id
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            del self._lanes[self._user_id]
