"""The grpc.aio door: what is mounted, behind grpc's own servers, and stopped in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final, cast

import grpc
import grpc.aio

from service import sockets
from service.domain import limits
from service.rpc.calls_in_flight import CallsInFlight
from service.rpc.certificate import Pair
from service.rpc.interceptors import Layer
from service.rpc.mount import DRAINING, FULL, Method, MethodHandler, Mount
from service.rpc.stream_context import StreamContext
from service.rpc.transport import Transport

ABORTS: Final = (grpc.aio.AbortError,)

# At one port. A grpc.aio server asks core for its next call only when it has taken the one before,
# and each time three threads wait for each other. The kernel spreads connections over several:
# with 128 calls in flight a third more writes, on 32 connections, and a quarter more reads, on
# four, for a fifth less CPU time each. More than 16 are no faster. One takes 10 KiB.
SERVERS: Final = 16


def _options(transport: Transport) -> list[tuple[str, int]]:
    """As grpc core spells them."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_metadata_size", limits.METADATA_BYTES),
        # The same: between a soft and a hard limit grpc refuses by chance.
        ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES),
        ("grpc.max_concurrent_streams", transport.max_concurrent_streams),
        # Off: it counts streams that have ended too, and so refuses honest clients who wait at
        # the limit (98 of 200 calls at once on one connection). What guards against rapid
        # resets (CVE-2023-44487) is apart from it and on.
        ("grpc.http.overload_protection", 0),
        # Lets a plain L4 balancer spread connections over new processes; grpc adds jitter.
        ("grpc.max_connection_age_ms", transport.max_connection_age * 1000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.max_connection_idle_ms", 30 * 60_000),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Clients and proxies may ping every 20 s, with or without calls; more is abuse.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class Door(Mount):
    """grpc.aio servers under construction; `serving` opens them. `layers` outermost first."""

    def __init__(self, layers: list[Layer], stream_layers: list[Layer]) -> None:
        super().__init__(layers, stream_layers)
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def serving(
        self, address: str, transport: Transport, *, grace: float, hurry: asyncio.Event
    ) -> AsyncIterator[int]:
        """Serve on `address` and yield the port. Leaving stops taking calls, gives those in flight
        `grace` seconds, or no more once `hurry` is set, and returns when the last handler has
        ended. Raises OSError when the address cannot be bound.
        """
        calls = CallsInFlight(transport.max_concurrent_calls)
        methods = _Methods(
            {f"/{path}": self._handler(method, calls) for path, method in self.methods.items()},
            self._handler(self.unknown, calls),
        )
        certificate = transport.certificate
        renewing = _Certificate(certificate.pair) if certificate else None
        # Or a second process would take half the calls instead of failing. Of several, the
        # supervisor holds it.
        with nullcontext() if transport.shared else sockets.reserved(address) as held:
            where = sockets.address(held) if held else address
            port = int(where.rpartition(":")[2])
            servers = [
                # Its limit: see CallsInFlight.
                grpc.aio.server(
                    handlers=[methods],
                    options=_options(transport),
                    maximum_concurrent_rpcs=transport.max_concurrent_calls,
                )
                for _ in range(SERVERS)
            ]
            for each in servers:
                _listen(each, where, renewing.credentials() if renewing else None)
            watching = None
            try:
                for each in servers:
                    await each.start()
                if certificate and renewing:
                    watching = asyncio.ensure_future(certificate.watch(renewing.take))
                yield port
            finally:
                if watching:
                    watching.cancel()
                self._stopping.set()
                # grpc does it on a thread of its own, while callers that it has told to connect
                # anew already do: some here, where they would be cut off.
                sockets.stop_listening(port)
                if held:
                    held.close()  # for a successor, while calls end here
                stopping = asyncio.ensure_future(_stop(servers, grace))
                hurrying = asyncio.ensure_future(hurry.wait())
                await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
                if not stopping.done():
                    await _stop(servers, None)
                hurrying.cancel()
                await stopping
                # stop() returns while handlers it has cut off still run (grpc issue 37239), and
                # what they use is about to be closed.
                await calls.ended()

    def _handler(self, method: Method, calls: CallsInFlight) -> MethodHandler:
        def answered(request: Any, context: Any) -> Awaitable[bytes | None]:
            authorization, request_id = _asked(context.invocation_metadata() or ())
            return method.run(request, context, authorization, request_id)

        async def unary(request: Any, context: Any) -> bytes | None:
            if not calls.begin(context):
                await context.abort(*FULL)
            return await answered(request, context)

        async def stream(request: Any, context: Any) -> bytes | None:
            """A stream outlasts any grace: it ends when the server does, to go on elsewhere."""
            if not calls.begin(context):
                await context.abort(*FULL)
            own = StreamContext(context)
            work = asyncio.ensure_future(answered(request, own))
            stopping = asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() and not await own.last():
                    raise asyncio.CancelledError  # its caller does not read, nor hears of an end
                if not work.done():
                    await context.abort(*DRAINING)
                return await work
            finally:
                work.cancel()
                stopping.cancel()
                await asyncio.wait({work})

        # Bytes in, bytes out: parsing belongs inside the layers, after the token.
        make = _KINDS[method.request_streaming, method.response_streaming]
        return cast(MethodHandler, make(stream if method.response_streaming else unary))


class _Certificate:
    """The newest there is, for servers each of which asks for itself whether there is another."""

    def __init__(self, pair: Pair) -> None:
        self._newest = _configuration(pair)

    async def take(self, pair: Pair) -> None:
        """From the next handshake on."""
        self._newest = _configuration(pair)

    def credentials(self) -> grpc.ServerCredentials:
        """For one server."""
        given = self._newest

        def renewed() -> Any:
            """Asked at every handshake, on a thread of grpc's. None: still the one before."""
            nonlocal given
            if given is self._newest:
                return None
            given = self._newest
            return given

        return grpc.dynamic_ssl_server_credentials(given, renewed)


def _listen(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> None:
    try:
        if credentials:
            server.add_secure_port(address, credentials)
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}; is the port in use?") from error


async def _stop(servers: Iterable[grpc.aio.Server], grace: float | None) -> None:
    await asyncio.gather(*(each.stop(grace) for each in servers))


def _asked(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[list[str], str | None]:
    """What every call is asked for: each "authorization" there is, and "x-request-id"."""
    authorization, request_id = [], None
    for key, value in metadata:
        if key == "authorization":
            authorization.append(str(value))
        elif key == "x-request-id":
            request_id = str(value)
    return authorization, request_id


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])


_KINDS: Final[Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class _Methods(grpc.GenericRpcHandler):
    """Each method's handler by its path, and one for all others."""

    def __init__(self, handlers: Mapping[str, MethodHandler], unknown: MethodHandler) -> None:
        self._handlers = handlers
        self._unknown = unknown

    def service(self, details: grpc.HandlerCallDetails) -> MethodHandler:
        return self._handlers.get(details.method, self._unknown)
