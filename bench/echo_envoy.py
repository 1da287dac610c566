"""`bench.echo` behind Envoy, and what runs inside it: bare ASGI, none of our adapter."""

import asyncio
import gc
import os
from typing import Any, Final

from bench import world
from bench.echo import announce
from service import envoy_launcher, envoy_process, settings
from service.rpc.transport import Transport
from service.rpc.wire import Receive, Scope, Send
from service.settings import Settings

START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
END: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


async def serve() -> int:
    """Start Envoy as `sixfold serve --door envoy` does, with another application in it."""
    os.environ.update(world.environment("postgresql://nobody@127.0.0.1:1/nothing"))
    chosen = settings.load(os.environ)
    return await envoy_launcher.serve(chosen, application="bench.echo_envoy:application")


class Inside(envoy_process.Inside):
    """From Envoy's start to its end like the service, but a call goes no further than here."""

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await super().application(scope, receive, send)
        event = await receive()
        body = event["body"]
        while event["more_body"]:
            event = await receive()
            body += event["body"]
        await send(START)
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return await send(END)

    async def serve(self, chosen: Settings) -> None:
        stop = asyncio.Event()
        self.listen(stop.set)
        door = self.make_door([], [])
        transport = Transport(
            chosen.max_connection_age_seconds,
            chosen.max_concurrent_streams,
            chosen.max_concurrent_calls,
        )
        async with door.serving(chosen.listen, transport, grace=0, hurry=stop) as port:
            gc.collect()
            gc.freeze()  # as the service does
            announce(port)
            await stop.wait()


def __getattr__(name: str) -> Any:
    """Make `application` when Envoy asks for it."""
    if name == "application":
        return Inside().application
    raise AttributeError(name)
