"""Runs what the documents tell people to run, and leaves nothing of it behind."""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.markdown import ROOT, clean_environment

SECONDS = 40


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@asynccontextmanager
async def started(*command: str | Path, **options: Any) -> AsyncIterator[Process]:
    """A command in a process group of its own, all of which is killed at the end."""
    usual: dict[str, Any] = {"cwd": ROOT, "env": clean_environment(), "stdout": PIPE}
    options = usual | {"stderr": PIPE, "start_new_session": True} | options
    child = await asyncio.create_subprocess_exec(*command, **options)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


async def finished(*command: str | Path, given: str = "", **options: Any) -> Finished:
    """Run a command to its end, with `given` on its standard input."""
    async with started(*command, stdin=PIPE, **options) as child:
        out, err = await asyncio.wait_for(child.communicate(given.encode()), SECONDS)
        assert child.returncode is not None
        return Finished(child.returncode, out.decode(), err.decode())


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
