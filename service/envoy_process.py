"""The serving process of the Envoy door, from inside Envoy.

Envoy imports this module into its own process (pyvoy) and calls `application`. Whoever started
Envoy (`service.envoy_launcher`) holds the other end of a socket: each byte from there is a signal,
and its end means that nobody is there any more; back goes the exit code, should the service not
start.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from service import app, exits, process, settings
from service.envoy_launcher import VARIABLE
from service.rpc.behind_envoy import EnvoyDoor
from service.rpc.interceptors import Layer
from service.rpc.wire import Receive, Scope, Send
from service.settings import Settings
from service.telemetry import logs


class Inside:
    """The service, from Envoy's start to its end, as one ASGI application."""

    def __init__(self) -> None:
        number, _, admin = os.environ[VARIABLE].partition(":")
        self._control = socket.socket(fileno=int(number))
        self._admin = Path(admin)
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
        serving = partial(app.serving, make_door=self.make_door)
        await process.serve(chosen, sys.stdout, signals=self.listen, serving=serving)

    def failed(self, error: Exception) -> None:
        """Say why it did not start."""
        code, problems = exits.of(error) or (exits.FAILED, [repr(error)])
        print(*(f"sixfold: {each}" for each in problems), sep="\n", file=sys.stderr)
        self._control.send(bytes([code]))

    def make_door(self, layers: list[Layer], stream_layers: list[Layer]) -> EnvoyDoor:
        """Make the door that `application` leads to."""
        self._door = EnvoyDoor(layers, stream_layers, admin=self._admin, mounted=self._opened.set)
        return self._door

    def listen(self, on_signal: Callable[[], None]) -> None:
        """Take signals from the socket."""
        self._on_signal = on_signal
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        serving = asyncio.ensure_future(self._serve())
        opened = asyncio.ensure_future(self._opened.wait())
        await asyncio.wait({serving, opened}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await send({"type": "lifespan.startup.failed", "message": "see above"})
            return
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
            logs.configure(chosen.log_level, chosen.log_format, sys.stdout)
            await self.serve(chosen)
        except Exception as error:
            self.failed(error)
        finally:
            sys.stdout.flush()
            if self._opened.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    def _hear(self) -> None:
        if self._control.recv(1):
            self._on_signal()
        else:
            # As whoever started us was, who can no longer clear up.
            shutil.rmtree(self._admin.parent, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGKILL)


def __getattr__(name: str) -> Any:
    """Make `application` when Envoy asks for it, and not for who imports `Inside`."""
    if name == "application":
        return Inside().application
    raise AttributeError(name)
