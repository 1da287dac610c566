"""How many calls grpc.aio has in hand: no more than may be, and none left at the end."""

import asyncio
from typing import Any


class CallsInFlight:
    """`most` is how many there may be on all servers. grpc.aio's own limit is one server's; it is
    what bounds those that still wait for their message.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle: asyncio.Event | None = None

    def begin(self, context: Any) -> bool:
        """Take a place until grpc is done with the call: who does not read the answer has it, too.
        False if there is none.
        """
        if self._count >= self._most:
            return False
        self._count += 1
        context.add_done_callback(self._end)
        return True

    def _end(self, _: Any) -> None:
        self._count -= 1
        if not self._count and self._idle:
            self._idle.set()

    async def ended(self) -> None:
        """Wait until the last has ended."""
        self._idle = asyncio.Event()
        if self._count:
            await self._idle.wait()
