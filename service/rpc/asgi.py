"""The ASGI adapter: gRPC over HTTP/2 (PROTOCOL-HTTP2.md), for what is mounted, behind Envoy.

Small because Envoy has done the rest: HTTP itself, flow control, the limits of connections,
gRPC-Web and JSON. It needs the `http.response.trailers` extension of the server it runs in.
"""

import asyncio
import binascii
import logging
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeAlias, cast
from urllib.parse import quote

from grpc import StatusCode

from service.domain import limits
from service.rpc.interceptors import Layer
from service.rpc.mount import Method, Mount

log = logging.getLogger("sixfold.rpc")

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

# Between two looks for callers who have gone; also how long after its arrival a call gets its
# first, so that a quick one gets none.
LOOK_SECONDS: Final = 0.2
# For the first message to arrive, where the caller gave no time of its own.
READ_SECONDS: Final = 30.0

_CONTENT_TYPE: Final = re.compile(rb"application/grpc(\+proto)?\s*(;.*)?")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Of the protocol, not of the caller: no metadata.
_PROTOCOL: Final = frozenset(
    {b"te", b"content-type", b"content-length", b"host", b"x-forwarded-proto"}
    | {b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_ENCODINGS: Final = (b"grpc-accept-encoding", b"identity,gzip")
_HEADERS: Final = [(b"content-type", b"application/grpc"), _ENCODINGS]
_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": _HEADERS,
    "trailers": True,
}
_TRAILERS: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class Aborted(Exception):
    """The servicer, or the adapter, has ended the call. The context knows how."""


class Disconnected(Exception):
    """The caller has gone."""


ABORTS: Final = (Aborted,)


class Context:
    """One call, with as much of grpc.aio's ServicerContext as servicers ask for."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive = receive
        self.task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.started = asyncio.get_running_loop().time()
        self.give_up_at: float | None = None
        self.encoding = b""
        self.messages = _Messages(self)
        self._send = send
        self._client = scope["client"]
        self._timeout = b""
        self._deadline: float | None = None
        self._status, self._details = StatusCode.OK, ""
        self._initial: Headers = []
        self._trailing: Headers = []
        self._begun = False
        self._metadata: list[tuple[str, str | bytes]] = []
        for name, value in scope["headers"]:
            if name not in _PROTOCOL:
                self._metadata += _decoded(name, value)
            elif name == b"grpc-timeout":
                self._timeout = value
            elif name == b"grpc-encoding":
                self.encoding = value

    def begin(self) -> None:
        """Understand the protocol's own headers; raises Aborted where that cannot be."""
        if self.encoding not in (b"", b"identity", b"gzip"):
            self.refuse(StatusCode.UNIMPLEMENTED, "this grpc-encoding is not supported")
        seconds = READ_SECONDS
        if self._timeout:
            match = _TIMEOUT.fullmatch(self._timeout)
            if not match:
                self.refuse(StatusCode.INVALID_ARGUMENT, "grpc-timeout is malformed")
            seconds = int(match[1]) * _UNIT[match[2]]
            self._deadline = self.started + seconds
        self.give_up_at = self.started + seconds

    def keep_going(self) -> None:
        """From here only the caller's own deadline counts, and the layers."""
        self.give_up_at = self._deadline

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._metadata

    def peer(self) -> str:
        if self._client is None:
            return "unix:"
        host, port = self._client
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return self._deadline - asyncio.get_running_loop().time()

    def code(self) -> StatusCode:
        return self._status

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Headers:
        return self._trailing

    def set_code(self, code: StatusCode) -> None:
        self._status = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = _encoded(metadata)

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        self._initial = _encoded(metadata)

    async def abort(self, code: StatusCode, details: str = "", trailing: Metadata = ()) -> None:
        self.refuse(code, details, trailing)

    def refuse(self, code: StatusCode, details: str, trailing: Metadata = ()) -> NoReturn:
        """End the call at once."""
        self.end(code, details, trailing)
        raise Aborted

    def end(self, code: StatusCode, details: str, trailing: Metadata = ()) -> None:
        """Choose the status, without raising."""
        self._status, self._details = code, details
        if trailing:
            self._trailing = _encoded(trailing)

    async def gone(self) -> bool:
        """Whether the caller has left. pyvoy answers at once after the end of the body."""
        event = await self.receive()
        return bool(event["type"] == "http.disconnect")

    async def write(self, message: bytes) -> None:
        """Send one of several answers; waits while the caller does not read."""
        await self._begin()
        await self._body(message, more=True)

    async def finish(self, answer: bytes | None) -> None:
        """Send the one answer, if there is one, and the status."""
        if self._status is not StatusCode.OK and not self._begun:
            # "Trailers-only": one frame.
            headers = [*_HEADERS, *self._initial, *self._closing()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body"})
            return
        await self._begin()
        await self._body(answer, more=False)
        if self._status is StatusCode.OK and not self._trailing:
            await self._send(_TRAILERS)
        else:
            await self._send({"type": "http.response.trailers", "headers": self._closing()})

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            start: dict[str, Any] = _START
            if self._initial:
                start = _START | {"headers": _HEADERS + self._initial}
            await self._send(start)

    async def _body(self, message: bytes | None, *, more: bool) -> None:
        framed = b"" if message is None else b"\0" + len(message).to_bytes(4, "big") + message
        await self._send({"type": "http.response.body", "body": framed, "more_body": more})

    def _closing(self) -> Headers:
        headers = [(b"grpc-status", b"%d" % self._status.value[0]), *self._trailing]
        if self._details:
            headers.append((b"grpc-message", quote(self._details, safe=_PRINTABLE).encode()))
        return headers


class Adapter(Mount):
    """What is mounted, as one ASGI application. Run `watch` beside it."""

    def __init__(self, layers: list[Layer], stream_layers: list[Layer]) -> None:
        super().__init__(layers, stream_layers)
        self._open: set[Context] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if scope["method"] != "POST":
            return await _plain(send, 405, (b"allow", b"POST"))
        if not _CONTENT_TYPE.fullmatch(kind):
            return await _plain(send, 415, (b"accept-post", b"application/grpc"))
        context = Context(scope, receive, send)
        self._open.add(context)
        try:
            with self.in_flight:
                answer = await self._answer(context, self.methods.get(scope["path"][1:]))
            await context.finish(answer)
        except (Disconnected, OSError):
            pass  # nobody is left to tell; pyvoy's ClientDisconnectedError is an OSError
        finally:
            self._open.discard(context)
        return None

    async def _answer(self, context: Context, method: Method | None) -> bytes | None:
        try:
            context.begin()
            if method is None:
                return await self.unknown.run(b"", context)
            if method.request_streaming:
                context.keep_going()
                return await method.run(context.messages, context)
            request = await context.messages.only()
            context.keep_going()
            return await method.run(request, context)
        except Aborted:
            pass
        except asyncio.CancelledError:
            if context.code() is StatusCode.OK:
                raise Disconnected from None
        except (Disconnected, OSError):
            raise
        except Exception:
            log.exception("the adapter failed")
            context.end(StatusCode.INTERNAL, "internal error")
        return None

    async def watch(self) -> None:
        """End calls whose caller has gone, or whose time is over, for as long as it runs."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = loop.time()
            for context in [each for each in self._open if each.started < now - LOOK_SECONDS]:
                if context.give_up_at is not None and now > context.give_up_at:
                    context.end(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
                    context.task.cancel()
                elif context.messages.ended and await context.gone():
                    context.task.cancel()


class _Messages:
    """The request's messages, out of the bytes that come."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._buffer = b""
        self.ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while len(self._buffer) < 5 or len(self._buffer) < 5 + self._length():
            if self.ended:
                if self._buffer:
                    self._context.refuse(StatusCode.INVALID_ARGUMENT, "the message is cut short")
                raise StopAsyncIteration
            self._buffer += await self._more()
        end = 5 + self._length()
        compressed, message = self._buffer[0], self._buffer[5:end]
        self._buffer = self._buffer[end:]
        return self._inflated(message) if compressed else message

    async def only(self) -> bytes:
        """The message of a call that has one."""
        self._buffer = data = await self._more()
        if self.ended and data[:1] == b"\0" and len(data) == 5 + self._length():
            return data[5:]  # all there is, at once, as nearly always
        message = await anext(self, None)
        if message is None or await anext(self, None) is not None:
            self._context.refuse(StatusCode.UNIMPLEMENTED, "this method takes one message")
        return message

    async def _more(self) -> bytes:
        event = await self._context.receive()
        if event["type"] == "http.disconnect":
            raise Disconnected
        self.ended = not event.get("more_body", False)
        return cast(bytes, event.get("body", b""))

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[1:5], "big")
        if length > limits.MESSAGE_BYTES:
            self._too_large()
        return length

    def _inflated(self, message: bytes) -> bytes:
        if self._context.encoding != b"gzip":
            self._context.refuse(StatusCode.INTERNAL, "compressed, but grpc-encoding is not set")
        try:
            inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
            # Never more than is allowed, whatever a bomb claims.
            plain = inflate.decompress(message, limits.MESSAGE_BYTES + 1)
        except zlib.error:
            self._context.refuse(StatusCode.INVALID_ARGUMENT, "the message is not gzip")
        if len(plain) > limits.MESSAGE_BYTES:
            self._too_large()
        if not inflate.eof:
            self._context.refuse(StatusCode.INVALID_ARGUMENT, "the message is not gzip")
        return plain

    def _too_large(self) -> NoReturn:
        self._context.refuse(
            StatusCode.RESOURCE_EXHAUSTED, f"a message is at most {limits.MESSAGE_BYTES} bytes"
        )


async def _plain(send: Send, status: int, header: tuple[bytes, bytes]) -> None:
    """Answer what is not gRPC at all."""
    headers = [header, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})


def _decoded(name: bytes, value: bytes) -> Iterator[tuple[str, str | bytes]]:
    key = name.decode("latin-1")
    if not name.endswith(b"-bin"):
        yield key, value.decode("latin-1")
        return
    for each in value.split(b","):  # a proxy may have joined several
        with suppress(binascii.Error):
            yield key, b64decode(each.strip() + b"==")


def _encoded(metadata: Metadata) -> Headers:
    return [
        (
            key.lower().encode(),
            b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode(),
        )
        for key, value in metadata
    ]
