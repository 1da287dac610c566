"""The serving process of the Envoy door, from inside Envoy.

Envoy imports this module into its own process (pyvoy) and calls `application`. Signals come from
whoever started Envoy (`service.control`).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from service import app, exits, process, settings
from service.control import Starter
from service.envoy_launcher import ADMIN
from service.rpc.behind_envoy import EnvoyDoor
from service.rpc.interceptors import Layer
from service.rpc.wire import Receive, Scope, Send
from service.settings import Settings
from service.telemetry import lines


class Inside:
    """The service, from Envoy's start to its end, as one ASGI application."""

    def __init__(self) -> None:
        self.starter = Starter(os.environ)
        self._opened = asyncio.Event()
        self._on_signal: Callable[[], None] = lambda: None
        self._door: EnvoyDoor | None = None

    def application(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """What pyvoy calls. Not a coroutine itself: one less for each call."""
        if scope["type"] == "http":
            assert self._door is not None, "mounted before Envoy listens"
            return self._door(scope, receive, send)
        return self._lifespan(receive, send)

    # Without it pyvoy takes what is no coroutine for ASGI 2.
    application._asgi_single_callable = True  # type: ignore[attr-defined]

    async def serve(self, chosen: Settings) -> None:
        """Serve until a signal."""
        serving = partial(app.serving, make_door=self.make_door, place=self.starter.place)
        await process.serve(
            chosen, sys.stdout, up=self.starter.up, signals=self.listen, serving=serving
        )

    def failed(self, error: Exception) -> None:
        """Say why it did not start."""
        self.starter.failed(error)

    def make_door(self, layers: list[Layer], stream_layers: list[Layer]) -> EnvoyDoor:
        """Make the door that `application` leads to."""
        admin = self.starter.folder / ADMIN
        self._door = EnvoyDoor(layers, stream_layers, admin=admin, mounted=self._opened.set)
        return self._door

    def listen(self, on_signal: Callable[[], None]) -> None:
        """Take signals from whoever started Envoy."""
        self._on_signal = on_signal
        self.starter.listen(on_signal)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        serving = asyncio.ensure_future(self._serve())
        await self._opened.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if not serving.done():  # Envoy was told to end by somebody else, and ends
            self._on_signal()
            self._on_signal()
        await asyncio.wait({serving})
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self) -> None:
        try:
            chosen = settings.load(os.environ)
            self.starter.configure_logs(chosen)
            await self.serve(chosen)
        except Exception as error:
            self.failed(error)
            if not self._opened.is_set():
                # Now, or Envoy would add lines about a filter that it cannot create.
                lines.flush(lines.EXIT_SECONDS)
                os._exit(exits.FAILED)
        finally:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGTERM)


def __getattr__(name: str) -> Any:
    """Make `application` when Envoy asks for it, and not for who imports `Inside`."""
    if name == "application":
        return Inside().application
    raise AttributeError(name)
