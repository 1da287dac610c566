"""`sixfold serve --workers`, seen from outside: who is there, what was said, clients that retry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any

import grpc.aio
import orjson
from sixfold import _channel

from service import control
from tests.conftest import Api, Process, process
from tests.faults.probes import http_get, until

# A start takes two seconds, and much longer when load takes all of a small machine.
PATIENCE = 60.0
CALLS = "grpc_server_call_started_total"


class Workers:
    """A supervisor with its workers. `server.api` leads to whichever worker."""

    def __init__(self, server: Process) -> None:
        self.server = server
        self.api = server.api

    def said(self, message: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        lines = [orjson.loads(line) for line in self.api.log.getvalue().splitlines()]
        return [line for line in lines if line.get("message") == message]

    async def until_said(self, message: str, times: int = 1) -> None:
        """Wait for as many log lines."""

        async def enough() -> bool:
            return len(self.said(message)) >= times

        await until(enough, PATIENCE)

    async def replaced(self, number: int, pid: int) -> None:
        """Wait until somebody else serves in its place."""

        async def other() -> bool:
            return self.pids.get(number, pid) != pid and number in await self.told()

        await until(other, PATIENCE)

    @property
    def pids(self) -> dict[int, int]:
        """Who is there, by number; of two, who came last."""
        pid = self.server.child.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        there: list[tuple[int, int, int]] = []
        for child in map(int, children):
            with suppress(OSError, LookupError):  # it has gone, or is not itself yet
                number, serial = map(int, folder(child).name.split("."))
                there.append((number, serial, child))
        return {number: child for number, _, child in sorted(there)}

    async def told(self) -> dict[int, float]:
        """The calls that each worker has had, by number; of those who answer."""
        _, text = await http_get(self.api.http_port, "/metrics")
        calls: dict[int, float] = {}
        for line in text.splitlines():
            if line.startswith(f"{CALLS}{{"):
                number = int(line.partition('worker="')[2].partition('"')[0])
                calls[number] = calls.get(number, 0) + float(line.rpartition(" ")[2])
        return calls

    @asynccontextmanager
    async def clients(self, least: int = 6) -> AsyncIterator[list[Api]]:
        """Connections with the retries of the Python client: so many, and to each worker one."""
        target = f"127.0.0.1:{self.api.port}"
        options = _channel.options(target, retry=True, plaintext=True)
        # Channels to one target share a connection, if nobody tells them not to.
        options.append(("grpc.use_local_subchannel_pool", 1))
        async with AsyncExitStack() as stack:
            clients: list[Api] = []
            before = await self.told()
            while len(clients) < least or any(
                count == before[number] for number, count in (await self.told()).items()
            ):
                channel = grpc.aio.insecure_channel(target, options=options)
                await stack.enter_async_context(channel)
                clients.append(Api(self.api.port, self.api.http_port, channel))
                await clients[-1].new_user()
            yield clients


@asynccontextmanager
async def workers(database_url: str, **changes: object) -> AsyncIterator[Workers]:
    """Two of them, all of which serve."""
    async with process(database_url, **{"workers": 2, **changes}) as server:
        running = Workers(server)
        await running.until_said("all workers serve")
        yield running


async def gone(*pids: int) -> None:
    """Wait until none of these is there."""

    async def none() -> bool:
        return not any(alive(pid) for pid in pids)

    await until(none, 10)


def alive(pid: int) -> bool:
    """Whether it runs; not as a zombie, which waits for somebody to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def folder(pid: int) -> Path:
    """A worker's own, which is named after its number and how many there were before."""
    environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
    told = [each for each in environ if each.startswith(f"{control.VARIABLE}=")]
    return Path(told[0].partition(":")[2])


async def answers(port: int, path: str, stop: asyncio.Event) -> set[int]:
    """The statuses of an HTTP path, asked again and again."""
    seen = set()
    while not stop.is_set():
        # What connects in the very moment a process ends is cut off, and asks again, as probes do.
        with suppress(RemoteDisconnected, ConnectionResetError):
            seen.add((await http_get(port, path))[0])
        await asyncio.sleep(0.02)
    return seen
