"""HTTP/1.1 for a few fixed paths: h11 knows the protocol, and here everything has its limit.

Ours, because uvicorn lets whoever sends nothing keep a connection for ever, wants a process'
signals for itself, and with what it brings along costs each process 4 MiB.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

import h11

from service import sockets

# Of one process. Beyond it whoever has waited longest makes room: a probe must always get in.
MAX_CONNECTIONS: Final = 64
# For a request to come, on a new connection or on one that is kept, and for its answer to be taken.
REQUEST_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 10.0
STOP_SECONDS: Final = 1.0  # for who is being answered when the server stops
HEAD_BYTES: Final = 16 * 1024
# Nobody has a use for one; what is not read would reset the connection under the answer.
BODY_BYTES: Final = 64 * 1024

log = logging.getLogger("sixfold")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route gives."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


# By path, percent-decoded; each for GET and HEAD.
Routes = Mapping[str, Callable[[], Awaitable[Answer]]]


@asynccontextmanager
async def serving(
    routes: Routes, host: str, port: int, *, shared: socket.socket | None = None
) -> AsyncIterator[int]:
    """Serve inside the running loop while the block runs; gives the port, of use where `port` is 0.
    `shared` listens already, for several processes.

    Raises OSError (EADDRINUSE) when the port is taken. Stops within about a second, whatever its
    clients do.
    """
    connections = _Connections(routes)
    with shared or sockets.listening(host, port) as bound:
        server = await asyncio.start_server(connections.take, sock=bound)
        try:
            yield bound.getsockname()[1]
        finally:
            server.close()
            await connections.close()


class _Connections:
    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._open: dict[asyncio.Task[None], _Connection] = {}  # the oldest first
        self._closing = False

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes on a new connection, until it ends."""
        if self._closing or not self._room():
            writer.transport.abort()
            return
        connection = _Connection(self._routes, reader, writer)
        task = asyncio.ensure_future(connection.run())
        self._open[task] = connection
        task.add_done_callback(lambda ended: self._open.pop(ended, None))

    def _room(self) -> bool:
        """Whether there is room for one more, when who has waited longest has made it."""
        if len(self._open) < MAX_CONNECTIONS:
            return True
        waiting = (task for task, each in self._open.items() if not each.answering)
        if oldest := next(waiting, None):
            del self._open[oldest]
            oldest.cancel()
        return oldest is not None

    async def close(self) -> None:
        self._closing = True
        for task, each in self._open.items():
            each.last = True
            if not each.answering:
                task.cancel()
        if self._open:
            _, late = await asyncio.wait([*self._open], timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class _Connection:
    def __init__(
        self, routes: Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._routes = routes
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self.answering = False
        self.last = False  # whether it ends with the answer that is due
        # So that `drain` means that the kernel has all of it.
        writer.transport.set_write_buffer_limits(0)

    async def run(self) -> None:
        """Exchange requests and answers until either side has enough."""
        try:
            while await self._exchange():
                pass
        except (OSError, TimeoutError):  # it has gone, or takes too long
            pass
        finally:
            self._writer.transport.abort()  # nothing is lost: an answer has been taken or is late

    async def _exchange(self) -> bool:
        """One request and its answer. Returns whether another may follow."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await self._request()
        except h11.RemoteProtocolError as error:
            self.last = True
            await self._send(_plain(HTTPStatus(error.error_status_hint)), body=True)
            return False
        if request is None:
            return False
        self.answering = True
        await self._send(await self._answer(request), body=request.method != b"HEAD")
        if self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._http.start_next_cycle()
        self.answering = False
        return True

    async def _request(self) -> h11.Request | None:
        """The next, without its body; None when there is none."""
        request = await self._event()
        if not isinstance(request, h11.Request):
            return None
        read = 0
        while read <= BODY_BYTES and not self._http.they_are_waiting_for_100_continue:
            body = await self._event()
            if not isinstance(body, h11.Data):
                break
            read += len(body.data)
        return request

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(HEAD_BYTES))
        return event

    async def _answer(self, request: h11.Request) -> Answer:
        try:
            path = _path(request.target.decode("ascii"))
        except ValueError:
            return _plain(HTTPStatus.BAD_REQUEST)
        route = self._routes.get(path)
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if request.method not in {b"GET", b"HEAD"}:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
        try:
            return await route()
        except Exception:
            log.exception("an answer at the HTTP port failed", extra={"path": path})
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _send(self, answer: Answer, *, body: bool) -> None:
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("X-Content-Type-Options", "nosniff"),
            *answer.headers,
            *([("Connection", "close")] if self.last else []),
        ]
        reason = HTTPStatus(answer.status).phrase
        events = [
            h11.Response(status_code=answer.status, reason=reason, headers=headers),
            h11.Data(answer.body if body else b""),
            h11.EndOfMessage(),
        ]
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._writer.drain()


def _path(target: str) -> str:
    """Percent-decoded, of a target with a host (RFC 9112 3.2.2) or without. Raises ValueError."""
    path = target if target.startswith("/") else urlsplit(target).path
    return unquote(path.partition("?")[0])


def _plain(status: HTTPStatus, *headers: tuple[str, str]) -> Answer:
    return Answer(status.phrase.encode(), status=status, headers=headers)
