"""What the kernel and Postgres counted: CPU time, memory, statements."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/<pid>/stat, as far as it matters here."""

    parent: int
    cpu_seconds: float
    resident_bytes: int


def processes() -> dict[int, Process]:
    """Everything that runs, now."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended between the two looks
        # proc(5) numbers them from 1, and two are cut off here: 4 ppid, 14 utime, 15 stime, 24 rss.
        cpu = (int(fields[11]) + int(fields[12])) / TICKS
        found[int(stat.parent.name)] = Process(int(fields[1]), cpu, int(fields[21]) * PAGE)
    return found


def tree(found: Mapping[int, Process], root: int) -> Iterator[Process]:
    """A process and all that it has started: workers, a proxy, Postgres' backends."""
    if root in found:
        yield found[root]
    for pid, process in found.items():
        if process.parent == root:
            yield from tree(found, pid)


def cpu_seconds(found: Mapping[int, Process], root: int) -> float:
    """User and system time of a tree since it started."""
    return sum(process.cpu_seconds for process in tree(found, root))


def resident_mib(root: int) -> float:
    """VmRSS of a tree."""
    return sum(process.resident_bytes for process in tree(processes(), root)) / 2**20


END: Final = """
    SELECT coalesce(array_agg(pid) FILTER (WHERE pg_terminate_backend(pid)), '{}') AS ended
      FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'
"""
COUNTED: Final = "SELECT xact_commit, sessions FROM pg_stat_database WHERE datname = $1"


class Statements:
    """How many statements a database has run, from core's own pg_stat_database.xact_commit.

    Each of the service's statements is a transaction of its own. A backend hands in its counts
    about once a second, too coarse for a cell, but also when it ends; so `counted` ends them all.
    Opening a connection is a transaction too, and taken off; preparing a statement is none.
    """

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection, name: str) -> None:
        self._runner = runner
        self._connection = connection
        self._name = name

    def counted(self) -> int:
        """So far, exactly. Nobody is connected then."""
        # A backend hands in its counts, leaves the view, and only then closes its socket; whoever
        # still took that one for alive would get an error of our making.
        for pid in self._row(END)["ended"]:
            while Path("/proc", str(pid)).exists():
                time.sleep(0.002)
        row = self._row(COUNTED)
        return int(row["xact_commit"]) - int(row["sessions"])

    def _row(self, sql: str) -> asyncpg.Record:
        row = self._runner.run(self._connection.fetchrow(sql, self._name))
        assert row is not None  # both are about a database that exists
        return row

    def analyze(self, url: str) -> None:
        """What autovacuum does sooner or later: without statistics the first minute is slower."""

        async def work() -> None:
            connection = await asyncpg.connect(url)
            await connection.execute("ANALYZE")
            await connection.close()

        self._runner.run(work())


@contextmanager
def statements(url: str, database: str) -> Iterator[Statements]:
    """Make `database` and watch it over a connection to another, so that looking is not counted."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute(f"CREATE DATABASE {database}"))
        try:
            yield Statements(runner, connection, database)
        finally:
            runner.run(connection.close())
