"""A Postgres server that a test can restart, kill and freeze while calls are made.

It is driven by a process of its own (this file), which is told what to do line by line: starting a
server forks, and a process with gRPC at work must not (grpc issue 13873); and its calls block,
while the load that a test makes must go on.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service import admin
from service.store import embedded
from tests.conftest import make_settings

ROOT = Path(__file__).parents[2]


class Postgres:
    """What `postgres_server` gives. `url` stays the same over restarts."""

    def __init__(self, driver: asyncio.subprocess.Process, url: str, pid: int) -> None:
        self._driver = driver
        self.url = url
        self.pid = pid

    async def restart(self, how: str) -> None:
        """ "fast", "immediate" or "kill -9"; returns when queries are answered again."""
        if how == "kill -9":
            await self._tell("kill")
            await self._tell("start")
        else:
            await self._tell(f"restart {how}")

    async def stop(self) -> None:
        await self._tell("stop")

    async def start(self) -> None:
        await self._tell("start")

    async def _tell(self, command: str) -> None:
        assert self._driver.stdin
        assert self._driver.stdout
        self._driver.stdin.write(f"{command}\n".encode())
        answer = await asyncio.wait_for(self._driver.stdout.readline(), 60)
        assert answer, f"the driver ended at {command}"
        self.pid = int(answer)


@asynccontextmanager
async def postgres_server(data_dir: Path, *, durable: bool) -> AsyncIterator[Postgres]:
    """A migrated server of the test's own, with a signing key in it."""
    driver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.postgres", str(data_dir), str(durable)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert driver.stdin
    assert driver.stdout
    try:
        first = (await asyncio.wait_for(driver.stdout.readline(), 60)).decode().split()
        assert first, "the driver did not start"
        server = Postgres(driver, first[0], int(first[1]))
        settings = make_settings(server.url)
        await admin.migrate_up(settings)
        await admin.keys_rotate(settings)
        yield server
    finally:
        driver.stdin.close()
        await asyncio.wait_for(driver.wait(), 60)


def drive(data_dir: Path, *, durable: bool) -> None:
    """Do what standard input says until it ends; answer each line with the postmaster's pid."""
    with embedded.running(data_dir, durable=durable) as server:
        print(server.url, server.pid, flush=True)
        for line in sys.stdin:
            match line.split():
                case ["stop"]:
                    server.stop()
                case ["start"]:
                    server.start()
                case ["kill"]:
                    server.kill()
                case ["restart", "immediate"]:
                    server.restart("immediate")
                case ["restart", "fast"]:
                    server.restart("fast")
                case other:
                    raise ValueError(other)
            print(server.pid or 0, flush=True)
        server.start()


if __name__ == "__main__":
    drive(Path(sys.argv[1]), durable=sys.argv[2] == "True")
