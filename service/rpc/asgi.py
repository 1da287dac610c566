"""The ASGI adapter: what is mounted, as one application for a server that speaks HTTP/2.

Small because that server, Envoy, does the rest: HTTP itself, flow control, the limits of
connections, gRPC-Web and JSON. It needs the `http.response.trailers` extension, and a `receive`
that asks when it is called, and whose answer nobody need wait for: pyvoy's gives a future.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from typing import Any, Final, cast

from grpc import StatusCode

from service.rpc.interceptors import Layer
from service.rpc.mount import DRAINING, FULL, Method, MethodHandler, Mount
from service.rpc.wire import Aborted, Context, Event, Receive, Scope, Send

log = logging.getLogger("sixfold.rpc")

ABORTS: Final = (Aborted,)

# Between two looks for callers who have gone. A call that is quicker is never looked at.
LOOK_SECONDS: Final = 0.2

_GRPC: Final = re.compile(rb"application/grpc(\+proto)?\s*(;.*)?")


class Adapter(Mount):
    """What is mounted, as one ASGI application. Run `watch` beside it."""

    def __init__(self, layers: list[Layer], stream_layers: list[Layer]) -> None:
        super().__init__(layers, stream_layers)
        # Apart from the contexts: one that knew its task would be a cycle, for the collector.
        self._open: dict[Context, asyncio.Task[Any]] = {}
        self._streams: set[Context] = set()  # of those, the ones that end only with the server
        self._draining = False
        self._idle: asyncio.Event | None = None
        self.most: float = math.inf  # calls at once
        # Whole and raw: "/a%2Fb", "//a/b" and "xa/b" are no method's path.
        self._paths: dict[bytes, Method] = {}

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, MethodHandler]
    ) -> None:
        """Mount a service."""
        super().add_registered_method_handlers(service, handlers)
        self._paths = {f"/{name}".encode(): method for name, method in self.methods.items()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer one call."""
        context = Context(scope, receive, send)
        path = b"" if scope["query_string"] else scope["raw_path"]
        kind = context.content_type
        if kind != b"application/grpc" and not _GRPC.fullmatch(kind):
            status = 415 if path in self._paths else 404
            return _plain(send, status, (b"accept", b"application/grpc"))
        if scope["method"] != "POST":
            return _plain(send, 405, (b"allow", b"POST"))
        # The message is asked for before there is a task to wait for it: it comes from Envoy's
        # thread, and so it comes a turn of the loop sooner, and 5 % more calls a second do.
        return self._serve(context, path, receive())

    async def _serve(self, context: Context, path: bytes, first: Awaitable[Event]) -> None:
        self._open[context] = cast(asyncio.Task[Any], asyncio.current_task())
        answer = None
        try:
            try:
                if len(self._open) > self.most:
                    context.refuse(*FULL)
                method = self._paths.get(path, self.unknown)
                if method.response_streaming:
                    self._streams.add(context)
                    if self._draining:
                        context.refuse(*DRAINING)
                request: Any = b""
                if method.request_streaming:
                    request = context.messages(first)
                elif method is not self.unknown:  # which is not to wait for anything
                    request = await context.message(first)
                answer = await method.run(request, context, *context.asked())
            except Aborted:
                pass
            except asyncio.CancelledError:
                if context.code() is StatusCode.OK:
                    raise  # the caller has gone
            except Exception:
                log.exception("a call failed outside its layers")
                context.end(StatusCode.INTERNAL, "internal error")
            await context.finish(answer)
        except (asyncio.CancelledError, OSError):
            pass  # nobody is left to tell
        finally:
            del self._open[context]
            self._streams.discard(context)
            if self._idle and not self._open:
                self._idle.set()

    def drain(self) -> None:
        """End streams, and take no more: they outlast any grace, and go on elsewhere."""
        self._draining = True
        self._cancel(self._streams)

    def cancel(self) -> None:
        """End all calls: nobody waits for them any longer."""
        self._cancel(self._open)

    async def ended(self) -> None:
        """Wait until the last handler has ended."""
        self._idle = asyncio.Event()
        if self._open:
            await self._idle.wait()

    def _cancel(self, contexts: Iterable[Context]) -> None:
        for context in contexts:
            context.end(*DRAINING)
            self._open[context].cancel()

    async def watch(self) -> None:
        """End calls whose caller has gone, or whose time is over, for as long as it runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for context in [each for each in self._open if each.started < now - LOOK_SECONDS]:
                try:
                    await self._look(context, now)
                except Exception:
                    log.exception("looking for a caller failed")

    async def _look(self, context: Context, now: float) -> None:
        task = self._open.get(context)
        if task is None:
            return
        if context.give_up_at is not None and now > context.give_up_at:
            context.end(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            task.cancel()
        elif context.ended and await context.gone():
            task.cancel()


async def _plain(send: Send, status: int, header: tuple[bytes, bytes]) -> None:
    """Answer what is not gRPC at all."""
    headers = [header, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
