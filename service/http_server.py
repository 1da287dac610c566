"""HTTP/1.1 for a few fixed paths, with a limit for everything.

Ours, because uvicorn lets whoever sends nothing keep a connection for ever, wants a process'
signals for itself, and with what it brings along costs each process 4 MiB.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from service import sockets
from service.http_connection import HEAD_BYTES, Connection, Routes

# Of one process. For one more, whoever has kept us waiting longest makes room: a probe must always
# get in.
MAX_CONNECTIONS: Final = 64
STOP_SECONDS: Final = 1.0  # for what is on its way when the server stops

log = logging.getLogger("sixfold")


@asynccontextmanager
async def serving(
    routes: Routes, host: str, port: int, *, shared: socket.socket | None = None
) -> AsyncIterator[int]:
    """Serve inside the running loop while the block runs; gives the port, of use where `port` is 0.
    `shared` listens already, for several processes.

    Raises OSError with a line for whoever chose the port. Stops within about a second, whatever its
    clients do.
    """
    connections = _Connections(routes)
    with shared or sockets.listening(host, port) as bound:
        server = await asyncio.start_server(connections.take, sock=bound, limit=HEAD_BYTES)
        try:
            yield bound.getsockname()[1]
        finally:
            server.close()
            await connections.close()


class _Connections:
    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._closing = False

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes on a new connection, until it ends."""
        if self._closing:
            writer.transport.abort()
            return
        if len(self._open) >= MAX_CONNECTIONS:
            self._end(min(self._open, key=self._rank))
        connection = Connection(self._routes, reader, writer)
        task = asyncio.ensure_future(connection.run())
        self._open[task] = connection
        task.add_done_callback(self._ended)

    def _rank(self, task: asyncio.Task[None]) -> tuple[bool, float]:
        """Who makes room first: those who keep us waiting, and of them who has done so longest."""
        each = self._open[task]
        return not each.waiting, each.since

    def _end(self, task: asyncio.Task[None]) -> None:
        # Not left to the task, in which nothing runs if it had not begun.
        self._open.pop(task).abort()
        task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if connection := self._open.pop(task, None):
            connection.abort()
        if not task.cancelled() and (error := task.exception()):
            log.error("a connection to the HTTP port failed", exc_info=error)

    async def close(self) -> None:
        """End those that have had their answers, at once, and the others when they have theirs."""
        self._closing = True
        for task, each in [*self._open.items()]:
            each.last = True
            if each.idle:
                self._end(task)
        if self._open:
            await asyncio.wait([*self._open], timeout=STOP_SECONDS)
        late = [*self._open]
        for task in late:
            self._end(task)
        await asyncio.gather(*late, return_exceptions=True)
