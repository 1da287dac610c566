"""The serving process of the Envoy door, from inside Envoy.

Envoy imports this module into its own process (pyvoy) and calls `application`. Whoever started
Envoy (`service.outside`) holds the other end of a socket: each byte from there is a signal, and its
end means that nobody is there any more; back goes the exit code, should the service not start.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from service import exits, process, settings
from service.outside import VARIABLE
from service.rpc.behind_envoy import EnvoyDoor
from service.rpc.interceptors import Layer
from service.rpc.wire import Receive, Scope, Send
from service.telemetry import logs


class Inside:
    """The service, from Envoy's start to its end."""

    def __init__(self, control: socket.socket, admin: Path) -> None:
        self._control = control
        self._admin = admin
        self._opened = asyncio.Event()
        self._on_signal: Callable[[], None] = lambda: None
        self.door: EnvoyDoor | None = None

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Start, stop, and tell Envoy of both."""
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
            await process.serve(chosen, sys.stdout, signals=self._listen, make_door=self._make)
        except Exception as error:
            code, problems = exits.of(error) or (exits.FAILED, [repr(error)])
            print(*(f"sixfold: {each}" for each in problems), sep="\n", file=sys.stderr)
            self._control.send(bytes([code]))
        finally:
            sys.stdout.flush()
            if self._opened.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    def _make(self, layers: list[Layer], stream_layers: list[Layer]) -> EnvoyDoor:
        self.door = EnvoyDoor(layers, stream_layers, admin=self._admin, mounted=self._opened.set)
        return self.door

    def _listen(self, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    def _hear(self) -> None:
        if self._control.recv(1):
            self._on_signal()
        else:
            os.kill(os.getpid(), signal.SIGKILL)  # as whoever started us was


def application(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
    """What pyvoy calls. A plain function: a coroutine fewer for each call."""
    if scope["type"] == "http":
        assert _inside.door is not None, "mounted before Envoy listens"
        return _inside.door(scope, receive, send)
    return _inside.lifespan(receive, send)


application._asgi_single_callable = True  # type: ignore[attr-defined]  # not ASGI 2


def _from_environment() -> Inside:
    number, _, admin = os.environ[VARIABLE].partition(":")
    return Inside(socket.socket(fileno=int(number)), Path(admin))


_inside = _from_environment()
