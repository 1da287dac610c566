"""gRPC on the wire (PROTOCOL-HTTP2.md) as events of ASGI: a call's messages, metadata and end."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import quote

from grpc import StatusCode

from service.domain import limits
from service.rpc import headers
from service.rpc.headers import Headers, Metadata

Scope: TypeAlias = dict[str, Any]
Event: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

# For the message to arrive: whoever has sent none may be anybody, and holds a place.
READ_SECONDS: Final = 30.0

# Of HTTP and gRPC, not of the caller: no metadata.
_PROTOCOL: Final = frozenset(
    {b"te", b"content-type", b"content-length", b"host", b"x-forwarded-proto"}
    | {b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)
_UNESCAPED: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_HEADERS: Final = [(b"content-type", b"application/grpc")]
# Only for who compresses, though gRPC's own servers tell everybody: half of an answer's headers, to
# be made, sent and read each time.
_ENCODINGS: Final = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_START: Final = "http.response.start"
# The events of nearly every call, made once.
_STARTED: Final = {"type": _START, "status": 200, "headers": _HEADERS, "trailers": True}
_ENDED: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_OK: Final = StatusCode.OK


class Aborted(Exception):
    """The call has been ended, by the servicer or here. Its context knows how."""


class Disconnected(asyncio.CancelledError):
    """The caller has gone: to handlers and layers as any other cancellation."""


class Context:
    """One call, with as much of grpc.aio's ServicerContext as servicers ask for."""

    _status = _OK
    _details = ""
    _initial: Sequence[tuple[bytes, bytes]] = ()
    _trailing: Sequence[tuple[bytes, bytes]] = ()
    _begun = False
    _buffer = b""
    ended = False  # there will be no more messages

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._client = scope["client"]
        self._headers: Headers = scope["headers"]
        # Of a name that comes twice the last: enough for all but `asked` and size.
        self._named = named = dict(self._headers)
        self.content_type = named.get(b"content-type", b"")
        timeout = named.get(b"grpc-timeout")
        seconds = headers.seconds(timeout) if timeout else None
        self.started = now = time.monotonic()
        self._deadline = None if seconds is None else now + seconds
        # Until the message is here; after that, the caller's deadline and the layers count.
        soon = READ_SECONDS if seconds is None else min(seconds, READ_SECONDS)
        self.give_up_at: float | None = now + soon

    # What servicers see

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [
            entry
            for name, value in self._headers
            if name not in _PROTOCOL
            for entry in headers.metadata(name, value)
        ]

    def asked(self) -> tuple[list[str], str | None]:
        """What every call is asked for: each "authorization" there is, and "x-request-id"."""
        named = self._named
        if len(named) == len(self._headers):
            values = [named[b"authorization"]] if b"authorization" in named else []
        else:
            values = [value for name, value in self._headers if name == b"authorization"]
        request_id = named.get(b"x-request-id")
        return (
            [value.decode("latin-1") for value in values],
            None if request_id is None else request_id.decode("latin-1"),
        )

    def peer(self) -> str:
        if self._client is None:
            return "unix:"
        host, port = self._client
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return self._deadline - time.monotonic()

    def code(self) -> StatusCode:
        return self._status

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Sequence[tuple[bytes, bytes]]:
        return self._trailing

    def set_code(self, code: StatusCode) -> None:
        self._status = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = headers.encoded(metadata)

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        self._initial = [*self._initial, *headers.encoded(metadata)]

    async def abort(self, code: StatusCode, details: str = "", trailing: Metadata = ()) -> NoReturn:
        self.refuse(code, details, trailing)

    def refuse(self, code: StatusCode, details: str, trailing: Metadata = ()) -> NoReturn:
        """End the call, now."""
        self.end(code, details, trailing)
        raise Aborted

    def end(self, code: StatusCode, details: str, trailing: Metadata = ()) -> None:
        """Choose the status that `finish` will send."""
        self._status, self._details = code, details
        if trailing:
            self._trailing = headers.encoded(trailing)

    # Messages in

    async def message(self, first: Awaitable[Event]) -> bytes:
        """The message of a call that has one. `first` is what was received first."""
        self._check_headers()
        self._buffer = data = self._body(await first)
        whole = self.ended and data[:1] == b"\0" and len(data) == 5 + self._length()
        if not whole:
            data = await self._in_pieces()
        self.give_up_at = self._deadline
        return data[5:]

    async def _in_pieces(self) -> bytes:
        messages = [message async for message in self._framed()]
        if len(messages) != 1:
            self.refuse(StatusCode.UNIMPLEMENTED, "this method takes one message")
        return b"     " + messages[0]

    async def messages(self, first: Awaitable[Event]) -> AsyncIterator[bytes]:
        """The messages of a call that has many."""
        self._check_headers()
        self.give_up_at = self._deadline
        self._buffer = self._body(await first)
        async for message in self._framed():
            yield message

    async def _framed(self) -> AsyncIterator[bytes]:
        while True:
            while len(self._buffer) < 5 or len(self._buffer) < 5 + self._length():
                if self.ended:
                    if self._buffer:
                        self.refuse(StatusCode.INVALID_ARGUMENT, "the message is cut short")
                    return
                self._buffer += self._body(await self._receive())
            end = 5 + self._length()
            flag, message, self._buffer = self._buffer[0], self._buffer[5:end], self._buffer[end:]
            yield self._inflated(message) if flag else message

    def _body(self, event: Event) -> bytes:
        if event["type"] == "http.disconnect":
            raise Disconnected
        self.ended = not event["more_body"]
        body: bytes = event["body"]
        return body

    async def gone(self) -> bool:
        """Whether the caller has left. After the last message pyvoy answers this at once."""
        event = await self._receive()
        return bool(event["type"] == "http.disconnect")

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[1:5], "big")
        return length if length <= limits.MESSAGE_BYTES else self._refuse_size()

    def _refuse_size(self) -> NoReturn:
        self.refuse(StatusCode.RESOURCE_EXHAUSTED, f"the limit is {limits.MESSAGE_BYTES} bytes")

    def _check_headers(self) -> None:
        named, count = self._named, len(self._headers)
        if len(named) == count:  # joined, because that is half of what adding lengths up takes
            size = len(b"".join(named)) + len(b"".join(named.values()))
        else:
            size = sum(map(len, chain.from_iterable(self._headers)))
        if size + 32 * count > limits.METADATA_BYTES:  # as HTTP/2 counts them
            self.refuse(StatusCode.RESOURCE_EXHAUSTED, "too much metadata")
        self._encoding = self._named.get(b"grpc-encoding") or b"identity"
        if self._encoding != b"identity":
            self._initial = [_ENCODINGS]
            if self._encoding not in (b"deflate", b"gzip"):
                self.refuse(StatusCode.UNIMPLEMENTED, "this grpc-encoding is not supported")

    def _inflated(self, message: bytes) -> bytes:
        if self._encoding == b"identity":
            self.refuse(StatusCode.INTERNAL, "a compressed message, but no grpc-encoding")
        # Either format: each says which it is.
        inflate, plain = zlib.decompressobj(zlib.MAX_WBITS | 32), b""
        with suppress(zlib.error):
            # No more than is allowed, whatever a bomb holds.
            plain = inflate.decompress(message, limits.MESSAGE_BYTES + 1)
        if len(plain) > limits.MESSAGE_BYTES:
            self._refuse_size()
        if not inflate.eof:
            self.refuse(StatusCode.INVALID_ARGUMENT, "the message cannot be decompressed")
        return plain

    # Messages out

    async def write(self, message: bytes) -> None:
        """Send one of several answers; waits while the caller does not read."""
        try:
            if not self._begun:
                await self._send(self._start())
            await self._send(_answer(message, more=True))
        except OSError:  # pyvoy's ClientDisconnectedError
            raise Disconnected from None

    async def finish(self, answer: bytes | None) -> None:
        """Send the one answer, if there is one, and the status."""
        send, ok = self._send, self._status is _OK
        if not self._begun:
            if not ok:
                only = [*_HEADERS, *self._initial, *self._closing()]  # "Trailers-Only"
                await send({"type": _START, "status": 200, "headers": only})
                await send(_answer(None, more=False))
                return
            await send(self._start() if self._initial else _STARTED)
        await send(_answer(answer, more=False))
        if ok and not self._trailing:
            await send(_ENDED)
        else:
            await send({"type": "http.response.trailers", "headers": self._closing()})

    def _start(self) -> Event:
        self._begun = True
        return _STARTED | {"headers": [*_HEADERS, *self._initial]}

    def _closing(self) -> Headers:
        closing = [(b"grpc-status", b"%d" % self._status.value[0]), *self._trailing]
        if self._details:
            closing.append((b"grpc-message", quote(self._details, safe=_UNESCAPED).encode()))
        return closing


def _answer(message: bytes | None, *, more: bool) -> Event:
    framed = b"" if message is None else b"\0" + len(message).to_bytes(4, "big") + message
    return {"type": "http.response.body", "body": framed, "more_body": more}
