"""The context of a stream at the grpc.aio door, whose messages and status take turns."""

import asyncio
from typing import Any, Final

# For what is being sent when the server stops, before the status is.
LAST_SECONDS: Final = 1.0


class StreamContext:
    """grpc.aio's, but that it waits where that one fails: core takes a message, or the status, when
    it has sent the one before, and does not send to a caller who does not read.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._turn = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: bytes) -> None:
        async with self._turn:
            await self._context.write(message)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        async with self._turn:
            await self._context.abort(code, details, trailing_metadata)

    async def last(self) -> bool:
        """Have what is under way end, and nothing begin; False if it takes too long."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                return await self._turn.acquire()
        except TimeoutError:
            return False
