"""The HTTP side port: public keys for meshes, probes for schedulers, metrics for Prometheus.

Plain HTTP/1.1, also where gRPC has TLS, because Envoy and Istio fetch key sets no other way. It has
no secrets and no sessions, and belongs behind the cluster's edge: only `/.well-known/` is meant for
strangers.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import sockets


def app(
    *,
    issuer: str,
    jwks: Callable[[], Mapping[str, object]],
    max_age: int,
    ready: Callable[[], str | None],
    metrics: Callable[[], tuple[bytes, str]],
) -> Starlette:
    """Build the routes. `max_age` in seconds; `ready` gives the reason why not, or None."""
    cached = {"Cache-Control": f"public, max-age={max_age}"}
    discovery = {
        "issuer": issuer,
        "jwks_uri": f"{issuer.rstrip('/')}/.well-known/jwks.json",
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
        "response_types_supported": [],
    }

    async def key_set(_: Request) -> Response:
        return JSONResponse(jwks(), headers=cached)

    async def configuration(_: Request) -> Response:
        return JSONResponse(discovery, headers=cached)

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        reason = ready()
        return PlainTextResponse(reason or "ok", 503 if reason is not None else 200)

    # Not a coroutine, so that Starlette runs it in a thread: rendering takes milliseconds.
    def exposition(_: Request) -> Response:
        body, content_type = metrics()
        return Response(body, headers={"Content-Type": content_type})

    known = "/.well-known"
    # OpenID Connect appends to an issuer's path, RFC 8414 puts the path at the end.
    path = urlsplit(issuer).path.rstrip("/")
    routes = {
        f"{known}/jwks.json": key_set,
        f"{path}{known}/jwks.json": key_set,
        f"{known}/openid-configuration": configuration,
        f"{path}{known}/openid-configuration": configuration,
        f"{known}/oauth-authorization-server": configuration,
        f"{known}/oauth-authorization-server{path}": configuration,
        "/livez": livez,
        "/readyz": readyz,
        "/metrics": exposition,
    }
    built = Starlette(
        routes=[Route(where, what, methods=["GET"]) for where, what in routes.items()],
        middleware=[Middleware(NoSniff)],
    )
    # A redirect would repeat the caller's Host header.
    built.router.redirect_slashes = False
    return built


class NoSniff:
    """Adds the one header that matters where nothing is HTML."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a `send` that knows the header."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, sending)


class Server(uvicorn.Server):
    """uvicorn as a guest: the process belongs to `__main__`, and so do its signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when it accepts connections, which uvicorn only lets one poll for."""
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def serving(
    app: ASGIApp, host: str, port: int, *, shared: socket.socket | None = None
) -> AsyncIterator[int]:
    """Serve inside the running loop while the block runs; gives the port, of use where `port` is 0.
    `shared` listens already, for several processes.

    Raises OSError (EADDRINUSE) when the port is taken. Stops within about two seconds, whatever
    its clients do.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    # Bound here, because uvicorn answers a taken port with sys.exit.
    with shared or sockets.listening(host, port) as bound:
        server = Server(config)
        running = asyncio.create_task(server.serve(sockets=[bound]), name="http_port")
        up = asyncio.create_task(server.up.wait())
        try:
            await asyncio.wait((running, up), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()  # raises what kept it from starting
            yield bound.getsockname()[1]
        finally:
            up.cancel()
            server.should_exit = True
            await running
