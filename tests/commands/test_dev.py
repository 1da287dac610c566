"""`sixfold dev`: a first try that works as printed, and leaves nothing behind but its folder."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.commands.shell import SIXFOLD, bare, free_port, sixfold, taken_port


@dataclass
class Dev:
    """A running one: its ports, and what it has printed."""

    child: asyncio.subprocess.Process
    port: int
    http_port: int
    printed: list[str] = field(default_factory=list)

    async def interrupted(self) -> tuple[int, float]:
        """Ctrl-C, which a terminal sends to the whole group: (exit code, seconds)."""
        began = time.monotonic()
        os.killpg(self.child.pid, signal.SIGINT)
        code = await asyncio.wait_for(self.child.wait(), 15)
        return code, time.monotonic() - began

    def pasteable(self) -> list[str]:
        """The lines to try, as they are printed."""
        return [line.strip() for line in self.printed if "curl" in line]


@asynccontextmanager
async def dev(cwd: Path) -> AsyncIterator[Dev]:
    port, http_port = free_port(), free_port()
    child = await asyncio.create_subprocess_exec(
        *(SIXFOLD, "dev", "--port", str(port), "--http-port", str(http_port)),
        env=bare(),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    running = Dev(child, port, http_port)
    try:
        await asyncio.wait_for(_up(running), 30)
        yield running
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGINT)
            await asyncio.wait_for(child.wait(), 15)


async def _up(running: Dev) -> None:
    assert running.child.stderr
    async for line in running.child.stderr:
        running.printed.append(line.decode().rstrip())
        if "Ctrl-C" in running.printed[-1]:
            return
    raise AssertionError("\n".join(running.printed))


async def shell(lines: list[str], cwd: Path) -> tuple[int, str]:
    """Paste them, one after another, into one shell that stops at the first that fails."""
    child = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", "\n".join(lines)),
        env=bare(),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode is not None
    return child.returncode, out.decode()


def family(pid: int) -> list[int]:
    """All that descend from a process."""
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_what_dev_prints_can_be_pasted_and_is_kept_over_a_restart(tmp_path: Path) -> None:
    async with dev(tmp_path) as first:
        create, login, put, get = first.pasteable()
        code, answer = await shell([create, login, put, get], tmp_path)
        assert code == 0, answer
        assert "hello" in answer
        assert len(family(first.child.pid)) > 2  # Postgres is among them

        assert (await first.interrupted())[0] == 0

    async with dev(tmp_path) as second:
        _, login, _, get = second.pasteable()
        code, answer = await shell([login, get], tmp_path)

        assert code == 0, answer
        assert "hello" in answer


async def test_ctrl_c_ends_everything_within_two_seconds(tmp_path: Path) -> None:
    async with dev(tmp_path) as running:
        processes = family(running.child.pid)
        assert len(processes) > 3

        code, seconds = await running.interrupted()

        assert code == 0
        assert seconds < 2
        deadline = time.monotonic() + 2
        while any(map(alive, processes)) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert [pid for pid in processes if alive(pid)] == []


async def test_a_second_start_in_the_same_folder_is_one_clear_line(tmp_path: Path) -> None:
    async with dev(tmp_path) as running:
        ended = await sixfold(
            *("dev", "--port", str(free_port()), "--http-port", str(free_port())), cwd=tmp_path
        )

        said = [line for line in ended.err.splitlines() if line.startswith("sixfold: ")]
        assert ended.code == 1
        assert said == [said[0]]
        assert f"in use by process {running.child.pid}" in said[0]
        assert "Traceback" not in ended.err
        assert running.child.returncode is None
        healthy = await sixfold("healthcheck", "--address", f"127.0.0.1:{running.port}")
        assert (healthy.code, healthy.out) == (0, "SERVING\n")


async def test_a_port_in_use_is_one_clear_line_and_starts_nothing(tmp_path: Path) -> None:
    for option, other in (("--port", "--http-port"), ("--http-port", "--port")):
        with taken_port() as port:
            ended = await sixfold(
                *("dev", option, str(port), other, str(free_port())), cwd=tmp_path
            )

        assert ended.code == 1
        assert ended.err == f"sixfold: port {port} is in use; choose another with {option}\n"
    assert list(tmp_path.iterdir()) == []
