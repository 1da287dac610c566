"""Processes under measurement: started, waited for, read, ended."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 0.05  # more than a line waits to be written
_CODE: Final = re.compile(rb'"event":"call".*?"code":"([A-Z_]+)"')


class BenchError(Exception):
    """The bench cannot go on; the text is for a person."""


class Server:
    """A process that serves and logs. `port` is where."""

    def __init__(self, process: subprocess.Popen[bytes], log: int) -> None:
        self._process = process
        self._log = log
        self.port = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> bytes:
        """What it has written since `forget`."""
        return os.pread(self._log, os.fstat(self._log).st_size, 0)

    def forget(self) -> None:
        """Empty the log, so that a long run does not fill memory."""
        os.ftruncate(self._log, 0)

    def settle(self) -> None:
        """Return once it writes no more: then calls that a load has cut off are over, too."""
        seen = -1
        while (size := os.fstat(self._log).st_size) != seen:
            seen = size
            time.sleep(QUIET_SECONDS)

    def codes(self) -> Counter[str]:
        """How calls ended since `forget`, by the server's own access log."""
        return Counter(code.decode() for code in _CODE.findall(self.log()))

    def announced(self) -> dict[str, Any]:
        """Wait for the line that says where it serves. Raises BenchError."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            for line in self.log().splitlines():
                if b'"serving"' in line:
                    event: dict[str, Any] = json.loads(line)
                    return event
            time.sleep(0.002)
        raise BenchError("a server did not start:\n" + self.log().decode(errors="replace"))


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the caller's but what a program needs to be found."""
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {**extra}


def run(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Run a Python module to its end. Raises BenchError with its last words."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=environment(environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def started(words: Sequence[str], environ: Mapping[str, str]) -> Iterator[Server]:
    """A Python module as a process of its own, whose output is kept; ended at the end.

    The output goes to memory: a pipe would need a reader, who takes time from who is measured, and
    a file would share the disk with Postgres' commits.
    """
    log = os.memfd_create("bench-log")
    fcntl.fcntl(log, fcntl.F_SETFL, os.O_APPEND)  # goes on at the new end after `forget`
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        env=environment(environ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        yield Server(process, log)
    finally:
        ended(process)
        os.close(log)


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, then make it."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def serving(words: Sequence[str], environ: Mapping[str, str]) -> Iterator[Server]:
    """The same, once it serves."""
    with started(words, environ) as server:
        server.port = server.announced()["grpc_port"]
        yield server
