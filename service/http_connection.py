"""One connection of HTTP/1.1: h11 knows the protocol, and here every wait has its limit."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

import h11

# For a request to come, on a new connection or on one that is kept, and for its answer to be taken.
REQUEST_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 10.0
HEAD_BYTES: Final = 16 * 1024
BODY_BYTES: Final = 64 * 1024  # nobody has a use for one, but it may come
CHUNK_BYTES: Final = 1024  # what a part of one counts for at least: thousands could come at once
# For what is sent by somebody whose connection is about to end.
LINGER_SECONDS: Final = 1.0
LINGER_READS: Final = 64

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


class Connection:
    """One client's. `run` ends when it does; `abort` ends it."""

    def __init__(
        self, routes: Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._routes = routes
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._head_only = False
        self.waiting = False  # for the client, and not the client for us
        self.since = asyncio.get_running_loop().time()  # of that
        self.idle = False  # whether it has had its answers and not asked again
        self.last = False  # whether it ends with the answer that is due
        # So that `drain` means that the kernel has all of it.
        writer.transport.set_write_buffer_limits(0)

    def abort(self) -> None:
        """Close it. What has been sent still arrives."""
        self._writer.transport.abort()

    async def run(self) -> None:
        """Exchange requests and answers until either side has enough."""
        with suppress(OSError, TimeoutError):  # it has gone, or takes too long
            while await self._exchange():
                pass

    async def _exchange(self) -> bool:
        """One request and its answer. Returns whether another may follow."""
        await asyncio.sleep(0)  # the others' turn: many may have come at once
        try:
            async with self._its_turn(REQUEST_SECONDS):
                request = await self._request()
        except h11.RemoteProtocolError as error:
            self.last = True
            await self._send(_plain(HTTPStatus(error.error_status_hint)))
            await self._linger()
            return False
        if request is None:
            return False
        self.idle = False
        self.last = self.last or self._http.their_state is h11.SEND_BODY
        await self._send(await self._answer(request))
        if self._http.their_state is h11.SEND_BODY:
            await self._linger()
        if self.last or self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._http.start_next_cycle()
        self.idle = True
        return True

    @asynccontextmanager
    async def _its_turn(self, seconds: float) -> AsyncIterator[None]:
        """Wait for the client, so long at most. Raises TimeoutError."""
        self._turn(waiting=True)
        try:
            async with asyncio.timeout(seconds):
                yield
        finally:
            self._turn(waiting=False)

    def _turn(self, *, waiting: bool) -> None:
        self.waiting, self.since = waiting, asyncio.get_running_loop().time()

    async def _request(self) -> h11.Request | None:
        """The next, without its body, or what is too large of it; None when there is none."""
        self._head_only = False
        request = await self._event()
        if not isinstance(request, h11.Request):
            return None
        self._head_only = request.method == b"HEAD"
        read = 0
        while read <= BODY_BYTES and isinstance(body := await self._event(), h11.Data):
            read += max(len(body.data), CHUNK_BYTES)
        return request

    async def _event(self) -> object:
        """What is next, unless the client waits for us to say that we want it."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                break
            self._http.receive_data(await self._reader.read(HEAD_BYTES))
        return event

    async def _linger(self) -> None:
        """Read a little of what is still sent: unread, it would reset the connection under the
        answer (RFC 9112 9.6).
        """
        self._writer.write_eof()
        async with self._its_turn(LINGER_SECONDS):
            for _ in range(LINGER_READS):
                if not await self._reader.read(HEAD_BYTES):
                    break

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

    async def _send(self, answer: Answer) -> None:
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
            h11.Data(b"" if self._head_only else answer.body),
            h11.EndOfMessage(),
        ]
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with self._its_turn(ANSWER_SECONDS):
            await self._writer.drain()


def _path(target: str) -> str:
    """Percent-decoded, of a target with a host (RFC 9112 3.2.2) or without. Raises ValueError."""
    path = target if target.startswith("/") else urlsplit(target).path
    return unquote(path.partition("?")[0])


def _plain(status: HTTPStatus, *headers: tuple[str, str]) -> Answer:
    return Answer(status.phrase.encode(), status=status, headers=headers)
