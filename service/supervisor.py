"""`sixfold serve --workers`: several serving processes at one port, none of which is missed.

The kernel hands each new connection to one of them; the supervisor only holds the ports, and never
sees a call. Who dies is replaced. SIGHUP replaces all, one after another, by new processes; SIGTERM
drains all at once. Processes are started, never forked: what a fork copies of gRPC does not work.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from service import exits, sockets
from service.control import ALIVE_SECONDS, RETIRE, STOP, Started
from service.settings import Settings, host_port
from service.telemetry import lines

log = logging.getLogger("sixfold.supervisor")

# Without a sign of life for so long a worker is as good as dead. No other probe sees that: the
# HTTP port is answered by those who live.
SILENCE_SECONDS: Final = 30.0
# For the one that replaces another by SIGHUP.
READY_SECONDS: Final = 60.0
# Who has served for so long is replaced at once; each that dies earlier, after a longer pause.
EARLY_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.1
# Beyond what draining and calls in flight may take.
END_SECONDS: Final = 10.0


async def serve(settings: Settings, door: str) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the draining short. Returns
    the exit code: the first worker's own, should it not start. Raises OSError for a port in use.
    """
    lines.share(sys.stdout)
    with (
        sockets.reserved(settings.listen) as grpc,
        sockets.listening(*host_port(settings.http_listen)) as http,
        tempfile.TemporaryDirectory(prefix="sixfold-") as folder,
    ):
        return await Supervisor(settings, door, grpc, http, Path(folder)).serve()


class Supervisor:
    """The workers, and what becomes of them."""

    def __init__(
        self,
        settings: Settings,
        door: str,
        grpc: socket.socket,
        http: socket.socket,
        folder: Path,
    ) -> None:
        self._ports = {"grpc_port": grpc.getsockname()[1], "http_port": http.getsockname()[1]}
        self._settings = settings
        self._patience = settings.drain_seconds + settings.grace_seconds + END_SECONDS
        # A new interpreter, without the search path of whoever stands in some other folder.
        self._command = [sys.executable, "-P", "-m", "service.worker", door]
        self._environ = os.environ | {"SIXFOLD_LISTEN": sockets.address(grpc)}
        self._http = http
        self._folder = folder
        self._serial = count()
        self._workers: dict[int, Started] = {}  # who serves, by number
        self._living: set[Started] = set()  # these, and who comes or goes
        self._retired: set[Started] = set()
        self._stop = asyncio.Event()
        self._restart = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> int:
        """Until the last worker has ended; the exit code."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._restart.set)
        self._beside(self._end_the_silent())
        # One alone at first: what is wrong with the configuration is said once, and ends it all.
        first = await self._begin(0)
        if not await first.reached(first.up):
            self._stop.set()
            await asyncio.gather(*self._tasks)
            return exits.FAILED if (code := await first.end) < 0 else code
        self._take(0, first)
        for number in range(1, self._settings.workers):
            self._beside(self._keep(number))
        self._beside(self._tell_when_all_serve())
        self._beside(self._restarts())
        await self._stop.wait()
        log.info("stopping")
        leaving = [*self._living]
        loop.call_later(self._patience, self._kill)
        await asyncio.wait(self._tasks)
        codes = [await each.end for each in (*leaving, *self._living)]
        await asyncio.gather(*self._tasks)  # raises what nobody foresaw
        log.info("stopped")
        return exits.FAILED if any(codes) else 0

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Each of these ends by itself when it is time to stop: one that is cut off while it starts
        a process would leave it to nobody.
        """

        def done(task: asyncio.Task[None]) -> None:
            if task.exception():
                self._on_signal()

        self._tasks.append(asyncio.ensure_future(work))
        self._tasks[-1].add_done_callback(done)

    def _on_signal(self) -> None:
        for worker in self._living:
            # The first does not hurry who is on its way out already.
            if self._stop.is_set() or worker not in self._retired:
                worker.tell(STOP)
        self._stop.set()
        self._restart.set()

    def _kill(self) -> None:
        for worker in self._living:
            log.error("a worker does not end, and is ended", extra={"pid": worker.pid})
            worker.kill()

    async def _pause(self, seconds: float) -> bool:
        """True after so long, False when it is time to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return not self._stop.is_set()

    async def _begin(self, number: int) -> Started:
        """Start a process. Raises OSError when there is none to be had."""
        folder = self._folder / f"{number}.{next(self._serial)}"
        folder.mkdir(mode=0o700)
        place = number, self._http
        worker = await Started.start(self._command, self._environ, folder, place)
        self._living.add(worker)

        def forget(_: object) -> None:
            self._living.discard(worker)
            self._retired.discard(worker)
            shutil.rmtree(folder, ignore_errors=True)

        worker.end.add_done_callback(forget)
        log.info("worker started", extra={"worker": number, "pid": worker.pid})
        if self._stop.is_set():
            worker.tell(STOP)
        return worker

    def _take(self, number: int, worker: Started) -> None:
        """From now on this is who serves as `number`."""
        self._workers[number] = worker
        self._beside(self._keep(number, worker))

    async def _keep(self, number: int, worker: Started | None = None) -> None:
        """Start who is not there, and who dies anew, until somebody else has the place."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            while worker is None:
                if not await self._pause(pause) or number in self._workers:
                    return
                try:
                    worker = self._workers[number] = await self._begin(number)
                except OSError as error:
                    pause = LONGEST_PAUSE_SECONDS
                    log.error("cannot start a worker: %s", error, extra={"worker": number})
            began = loop.time()
            code = await worker.end
            if self._stop.is_set() or self._workers.get(number) is not worker:
                return
            del self._workers[number]
            early = loop.time() - began < EARLY_SECONDS
            pause = min(max(2 * pause, PAUSE_SECONDS), LONGEST_PAUSE_SECONDS) if early else 0.0
            told = {"worker": number, "pid": worker.pid, "code": code, "pause_seconds": pause}
            log.error("a worker has died", extra=told)
            worker = None

    async def _tell_when_all_serve(self) -> None:
        for number in range(self._settings.workers):
            worker = None
            while not worker or not await worker.reached(worker.up):
                if not await self._pause(POLL_SECONDS):
                    return
                worker = self._workers.get(number)
        log.info("all workers serve", extra=self._ports)

    async def _end_the_silent(self) -> None:
        while await self._pause(ALIVE_SECONDS):
            for worker in self._living:
                # Counted, not by the clock, which runs on while the whole machine is suspended.
                worker.silence += 1
                if worker.silence * ALIVE_SECONDS > SILENCE_SECONDS:
                    log.error("a worker is silent and is ended", extra={"pid": worker.pid})
                    worker.kill()

    async def _restarts(self) -> None:
        while await self._restart.wait() and not self._stop.is_set():
            self._restart.clear()
            log.info("restarting")
            for number in range(self._settings.workers):
                if not await self._replace(number):
                    break
            else:
                log.info("restarted")

    async def _replace(self, number: int) -> bool:
        """Start another, and end the present one once the other serves."""
        try:
            fresh = await self._begin(number)
        except OSError as error:
            log.error("cannot start a worker, so the old ones stay: %s", error)
            return False
        ready = await fresh.reached(fresh.up, READY_SECONDS)
        ready = ready and await fresh.reached(fresh.ready, READY_SECONDS)
        if self._stop.is_set():
            return False
        if not ready:
            log.error("the new worker is not ready, so the old ones stay", extra={"worker": number})
            await self._retire(fresh)
            return False
        old = self._workers.get(number)
        self._take(number, fresh)
        if old:
            await self._retire(old)
        return not self._stop.is_set()

    async def _retire(self, worker: Started) -> None:
        self._retired.add(worker)
        worker.tell(RETIRE)
        await asyncio.wait({worker.end}, timeout=self._patience)
        worker.kill()
        await worker.end
