"""The grpc.aio door: mounts services, each method wrapped in its layers, and stops in order."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from inspect import isasyncgen
from typing import Any, Final, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from service.domain import limits
from service.domain.errors import DomainError
from service.rpc import failure, policy
from service.rpc.interceptors import Call, Handler, Layer, parsed, validate

# A correlation id from a caller is repeated in logs and errors, so only a harmless one is taken.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# Of either message type; what the generated code makes.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

ABORTS: Final = (grpc.aio.AbortError,)


@dataclass(frozen=True, slots=True)
class Transport:
    """How connections behave. Seconds; see docs/limits.md for what a mesh should know."""

    max_connection_age: int
    max_concurrent_streams: int

    def options(self) -> list[tuple[str, int]]:
        """As grpc core spells them."""
        return [
            # One port, one process: with port sharing a second start would take half the calls
            # instead of failing.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
            ("grpc.max_metadata_size", limits.METADATA_BYTES),
            # The same: between a soft and a hard limit grpc refuses by chance.
            ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            # Off: it counts streams that have ended too, and so refuses honest clients who wait at
            # the limit (98 of 200 calls at once on one connection). What guards against rapid
            # resets (CVE-2023-44487) is apart from it and on.
            ("grpc.http.overload_protection", 0),
            # Lets a plain L4 balancer spread connections over new processes; grpc adds jitter.
            ("grpc.max_connection_age_ms", self.max_connection_age * 1000),
            ("grpc.max_connection_age_grace_ms", 60_000),
            ("grpc.max_connection_idle_ms", 30 * 60_000),
            ("grpc.server_handshake_timeout_ms", 10_000),
            # Clients and proxies may ping every 20 s, with or without calls; more is abuse.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]


class Door:
    """A grpc.aio server under construction; `serving` opens it. `layers` outermost first."""

    def __init__(self, layers: list[Layer], stream_layers: list[Layer]) -> None:
        self._layers = layers
        self._stream_layers = stream_layers
        self._services: dict[str, dict[str, MethodHandler]] = {}
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # The two methods that generated code calls on a server. Only the second carries names.

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers come by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, MethodHandler]
    ) -> None:
        """Mount a service. Raises LookupError for a method without a row in the policy."""
        self._services[service] = {
            name: self._wrapped(f"{service}/{name}", handler) for name, handler in handlers.items()
        }

    @asynccontextmanager
    async def serving(
        self, address: str, transport: Transport, *, grace: float, hurry: asyncio.Event
    ) -> AsyncIterator[int]:
        """Serve on `address` and yield the port. Leaving stops taking calls, gives those in flight
        `grace` seconds, or no more once `hurry` is set, and returns when the last handler has
        ended. Raises OSError when the address cannot be bound.
        """
        server = grpc.aio.server(options=transport.options())
        for service, handlers in self._services.items():
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
        server.add_generic_rpc_handlers((self._unknown(),))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}; is the port in use?") from error
        await server.start()
        try:
            yield port
        finally:
            stopping = asyncio.ensure_future(server.stop(grace))
            hurrying = asyncio.ensure_future(hurry.wait())
            await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await server.stop(None)
            hurrying.cancel()
            await stopping
            # stop() returns while handlers it has cut off still run (grpc issue 37239), and what
            # they use is about to be closed.
            await self._idle.wait()

    def _wrapped(self, method: str, handler: MethodHandler) -> MethodHandler:
        streams = handler.request_streaming or handler.response_streaming
        layers = self._stream_layers if streams else self._layers
        if streams:
            inner = _pumped(handler)
        else:
            inner = validate(_parser(handler), cast(Any, handler.unary_unary))
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = kinds[handler.request_streaming, handler.response_streaming]
        # Bytes in, bytes out: parsing belongs inside the layers, after the token.
        return make(self._behaviour(method, layers, inner))

    def _behaviour(self, method: str, layers: list[Layer], inner: Handler) -> Any:
        stack: Handler = reduce(lambda inside, layer: layer(method, inside), layers[::-1], inner)

        async def behaviour(request: Any, context: Any) -> bytes | None:
            self._in_flight += 1
            self._idle.clear()
            try:
                return await stack(request, _call(context))
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._idle.set()

        return behaviour

    def _unknown(self) -> grpc.GenericRpcHandler:
        """Counts and refuses what no service has, under one name."""

        async def refuse(_: Any, call: Call) -> None:
            await call.context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")

        behaviour = self._behaviour(policy.UNKNOWN, self._layers, refuse)
        handler: MethodHandler = grpc.unary_unary_rpc_method_handler(behaviour)

        class Unknown(grpc.GenericRpcHandler):
            def service(self, _: grpc.HandlerCallDetails) -> MethodHandler:
                return handler

        return Unknown()


def _call(context: Any) -> Call:
    metadata = context.invocation_metadata() or ()
    given = next((str(value) for key, value in metadata if key == "x-request-id"), "")
    request_id = given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()

    async def refuse(error: DomainError) -> None:
        status = failure.status(error, request_id)
        code, _ = failure.code_and_reason(error)
        trailers = [("grpc-status-details-bin", status.SerializeToString())]
        if code is grpc.StatusCode.UNAUTHENTICATED:
            trailers.append(("www-authenticate", 'Bearer error="invalid_token"'))  # RFC 6750
        await context.abort(code, status.message, tuple(trailers))

    return Call(
        request_id=request_id,
        peer=context.peer(),
        metadata=metadata,
        time_remaining=context.time_remaining(),
        context=context,
        refuse=refuse,
        aborted=context.code,
    )


def _parser(handler: MethodHandler) -> Callable[[bytes], Message]:
    return cast(Callable[[bytes], Message], handler.request_deserializer)


def _pumped(handler: MethodHandler) -> Handler:
    """A servicer's streaming method, as one coroutine over bytes, so that the same layers fit."""
    method = cast(Any, handler.stream_stream or handler.unary_stream or handler.stream_unary)
    parse, serialise = _parser(handler), cast(Any, handler.response_serializer)

    async def messages(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            yield parsed(parse, data)

    async def pumped(request: Any, call: Call) -> bytes | None:
        streams = handler.request_streaming
        given = messages(request) if streams else parsed(parse, request)
        if not handler.response_streaming:
            return cast(bytes, serialise(await method(given, call.context)))
        answers = method(given, call.context)
        if isasyncgen(answers):
            async for answer in answers:
                await call.context.write(serialise(answer))
        else:
            await answers
        return None

    return pumped
