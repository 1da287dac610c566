"""The `sixfold` command as a shell runs it: a process, its two outputs, its exit code."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

SIXFOLD = str(Path(sys.executable).parent / "sixfold")


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


def bare(**more: str) -> dict[str, str]:
    """An environment without any setting."""
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | more


async def sixfold(
    *arguments: str, env: dict[str, str] | None = None, stdin: str = "", cwd: Path | None = None
) -> Ended:
    """Run to the end, within 20 seconds."""
    child = await asyncio.create_subprocess_exec(
        SIXFOLD,
        *arguments,
        env=bare() | (env or {}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    try:
        out, err = await asyncio.wait_for(child.communicate(stdin.encode()), 20)
    except TimeoutError:
        child.kill()
        raise
    assert child.returncode is not None
    return Ended(child.returncode, out.decode(), err.decode())


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
