"""What any door serves: each method of the mounted servicers, inside its layers, by path.

A door brings the bytes and a context; everything a call goes through from there is here once.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from functools import reduce
from inspect import isasyncgen
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from service.rpc import policy
from service.rpc.interceptors import Call, Handler, Layer
from service.rpc.transport import Transport
from service.rpc.validation import parsed, validate

# What any door says to a call that it does not take.
DRAINING: Final = grpc.StatusCode.UNAVAILABLE, "this process is draining"
FULL: Final = grpc.StatusCode.RESOURCE_EXHAUSTED, "this process has calls enough"

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# Of either message type; what the generated code makes.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Context(Protocol):
    """What a door's context must know; grpc.aio's does. Servicers that are not ours get it too."""

    def invocation_metadata(self) -> Any: ...
    def peer(self) -> str: ...
    def time_remaining(self) -> float | None: ...
    def code(self) -> Any: ...
    async def write(self, message: Any) -> None: ...
    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> Any: ...


@dataclass(frozen=True, slots=True)
class Method:
    """One method: how many messages each way, and its stack from bytes to bytes."""

    request_streaming: bool
    response_streaming: bool
    stack: Handler

    def run(
        self, request: Any, context: Context, authorization: Sequence[str], request_id: str | None
    ) -> Awaitable[bytes | None]:
        """Answer one call: None where the answers were written to the context. Of its metadata all
        calls are asked for "authorization", each value, and for "x-request-id", the last.
        """
        # A correlation id is repeated in logs and errors, so only a harmless one is taken.
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = f"{random.getrandbits(64):016x}"
        return self.stack(
            request,
            Call(request_id, context.peer(), authorization, context.time_remaining(), context),
        )


class Mount:
    """Collects services as a server would. `methods` has each by `package.Service/Method`;
    `unknown` answers any other, so that those are counted too, under one name.
    """

    def __init__(self, layers: list[Layer], stream_layers: list[Layer]) -> None:
        """Outermost layer first."""
        self._layers = layers
        self._stream_layers = stream_layers
        self.methods: dict[str, Method] = {}
        self.unknown = Method(
            request_streaming=False,
            response_streaming=False,
            stack=_wrapped(policy.UNKNOWN, layers, _refuse_unknown),
        )

    def serving(
        self, address: str, transport: Transport, *, grace: float, hurry: asyncio.Event
    ) -> AbstractAsyncContextManager[int]:
        """What each door does in its own way: see the one in `server`."""
        raise NotImplementedError

    # The two methods that generated code calls on a server. Only the second carries names.

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers come by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, MethodHandler]
    ) -> None:
        """Mount a service. Raises LookupError for a method without a row in the policy."""
        for name, handler in handlers.items():
            self.methods[f"{service}/{name}"] = self._method(f"{service}/{name}", handler)

    def _method(self, name: str, handler: MethodHandler) -> Method:
        streams = handler.request_streaming or handler.response_streaming
        if streams:
            layers, inner = self._stream_layers, _pumped(handler)
        else:
            layers = self._layers
            inner = validate(_parser(handler), cast(Any, handler.unary_unary))
        return Method(
            request_streaming=handler.request_streaming,
            response_streaming=handler.response_streaming,
            # Bytes in, bytes out: parsing belongs inside the layers, after the token.
            stack=_wrapped(name, layers, inner),
        )


def _wrapped(name: str, layers: list[Layer], inner: Handler) -> Handler:
    return reduce(lambda inside, layer: layer(name, inside), layers[::-1], inner)


async def _refuse_unknown(_: Any, call: Call) -> None:
    await call.context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")


def _parser(handler: MethodHandler) -> Callable[[bytes], Message]:
    return cast(Callable[[bytes], Message], handler.request_deserializer)


class _Serialising:
    """A context for servicers that write messages themselves: doors know only bytes."""

    def __init__(self, context: Context, serialise: Callable[[Any], bytes]) -> None:
        self._context = context
        self._serialise = serialise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._context.write(self._serialise(message))


def _pumped(handler: MethodHandler) -> Handler:
    """A servicer's streaming method, as one coroutine over bytes, so that the same layers fit."""
    method = cast(Any, handler.stream_stream or handler.unary_stream or handler.stream_unary)
    parse, serialise = _parser(handler), cast(Any, handler.response_serializer)

    async def messages(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            yield parsed(parse, data)

    async def pumped(request: Any, call: Call) -> bytes | None:
        given = messages(request) if handler.request_streaming else parsed(parse, request)
        context = _Serialising(call.context, serialise)
        if not handler.response_streaming:
            return cast(bytes, serialise(await method(given, context)))
        answers = method(given, context)
        if isasyncgen(answers):
            async with aclosing(answers):
                async for answer in answers:
                    await context.write(answer)
        else:
            await answers
        return None

    return pumped
