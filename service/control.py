"""What a serving process and whoever started it tell each other: a byte at a time, over a socket.

Not by signals: Envoy takes those for itself, a terminal sends them to everybody, and none says that
the other is gone, as the end of a socket does.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from service import exits
from service.place import Place
from service.settings import Settings
from service.telemetry import lines, logs

# For the process: the number of its socket, and a folder of its own.
VARIABLE: Final = "_SIXFOLD_INSIDE"
# For a worker: its number, and that of the socket that listens for HTTP.
PLACE: Final = "_SIXFOLD_WORKER"

# To the process. A second one hurries the first.
STOP: Final = b"s"
RETIRE: Final = b"r"  # stop; the siblings stay
# From the process. Every other byte is an exit code: it has not started.
UP: Final = b"u"
READY: Final = b"r"
ALIVE: Final = b"."

ALIVE_SECONDS: Final = 1.0


class Starter:
    """Whoever has started this process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        number, _, folder = environ[VARIABLE].partition(":")
        self.folder = Path(folder)
        self.place: Place | None = None
        self._socket = socket.socket(fileno=int(number))
        self._on_signal: Callable[[], None] = lambda: None
        if PLACE in environ:
            worker, http = map(int, environ[PLACE].split(":"))
            self.place = Place(
                number=worker,
                http=socket.socket(fileno=http),
                folder=self.folder,
                retired=asyncio.Event(),
                ready=lambda: self.tell(READY),
            )

    def listen(self, on_signal: Callable[[], None]) -> None:
        """Have it called at each signal, and show from now on that the event loop turns."""
        self._on_signal = on_signal
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)
        self._alive()

    def tell(self, what: bytes) -> None:
        """Say it, and do not wait until it is heard."""
        with suppress(OSError):
            self._socket.send(what)

    async def up(self, _: object) -> None:
        """Say that the ports are open."""
        self.tell(UP)

    def configure_logs(self, settings: Settings) -> None:
        """To standard output, where the siblings write, too."""
        always = {"worker": self.place.number} if self.place else {}
        logs.configure(settings.log_level, settings.log_format, sys.stdout, **always)
        if self.place:
            lines.share(sys.stdout)

    def failed(self, error: Exception) -> int:
        """Say why this process does not start; the exit code."""
        known = exits.of(error)
        if known is None:
            traceback.print_exception(error)
        code, problems = known or (exits.FAILED, ["an error that nobody foresaw, see above"])
        print(*(f"sixfold: {each}" for each in problems), sep="\n", file=sys.stderr)
        self.tell(bytes([code]))
        return code

    def _alive(self) -> None:
        self.tell(ALIVE)
        asyncio.get_running_loop().call_later(ALIVE_SECONDS, self._alive)

    def _hear(self) -> None:
        told = _received(self._socket, 1)
        if told is None:
            return
        if told == b"":
            # As whoever started us was, who can no longer clear up.
            shutil.rmtree(self.folder.parent if self.place else self.folder, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if told == RETIRE and self.place:
            self.place.retired.set()
        self._on_signal()


class Started:
    """A process that this one has started, and that makes a Starter."""

    def __init__(self, process: asyncio.subprocess.Process, ours: socket.socket) -> None:
        self._process = process
        self.up = asyncio.Event()
        self.ready = asyncio.Event()
        self.silence = 0  # set to 0 at each sign of life; counting is whose business it is
        self._socket = ours
        self._failure = 0
        asyncio.get_running_loop().add_reader(ours, self._hear)
        self.end = asyncio.ensure_future(self._end())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        place: tuple[int, socket.socket] | None = None,
    ) -> Self:
        """`folder` is for it alone; a worker's `place` is its number and the socket for HTTP."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        more = {VARIABLE: f"{theirs.fileno()}:{folder}"}
        files = [theirs.fileno()]
        if place:
            more[PLACE] = f"{place[0]}:{place[1].fileno()}"
            files.append(place[1].fileno())
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**environ, **more},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=files,
                start_new_session=True,  # Ctrl-C goes to us, and from us to it
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Of the process, also when it has ended."""
        return self._process.pid

    def tell(self, what: bytes) -> None:
        """Say it, if somebody is there."""
        with suppress(OSError):
            self._socket.send(what)

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def reached(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        """Wait for the event; False when the process ends before, or the time is over."""
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait(
            {waiting, self.end}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        return event.is_set() and not self.end.done()

    async def _end(self) -> int:
        """The exit code, or the signal that has ended it as a negative number."""
        code = await self._process.wait()
        self._hear()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        return self._failure or (exits.FAILED if code > 0 else code)

    def _hear(self) -> None:
        told = _received(self._socket, 4096)
        if told == b"":  # it is about to end, which `_end` waits for
            asyncio.get_running_loop().remove_reader(self._socket)
        self.silence = 0
        for number in told or b"":
            each = bytes([number])
            if each == UP:
                self.up.set()
            elif each == READY:
                self.ready.set()
            elif each != ALIVE:
                self._failure = number


def _received(connection: socket.socket, most: int) -> bytes | None:
    """What there is to hear; b"" at the end, also one that came with a reset."""
    try:
        return connection.recv(most)
    except BlockingIOError:
        return None
    except OSError:
        return b""
