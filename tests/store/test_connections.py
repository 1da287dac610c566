"""A pool's connections: whatever ends a call, nothing of it is left in Postgres, and the next call
finds a connection that is as good as new.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from service.domain.errors import DatabaseUnavailable
from service.store import connecting
from service.store.db import Database
from service.store.pool import RELEASE_SECONDS, Connection
from tests.conftest import execute

LIFE = timedelta(seconds=5)
# What Postgres has of a pool's connection when nobody uses it.
AT_REST = [("idle", 0)]


@asynccontextmanager
async def one_connection(url: str) -> AsyncIterator[tuple[Database, list[str]]]:
    """A pool of one, and the statements it sends."""
    sent: list[str] = []
    async with connecting.pooled(
        url,
        size=1,
        acquire_seconds=2,
        statement_timeout=LIFE,
        on_query=lambda query: sent.append(query.query),
    ) as pool:
        yield pool, sent


@pytest.fixture
async def url(new_database: Callable[[], AbstractAsyncContextManager[str]]) -> AsyncIterator[str]:
    """A database with nobody else in it, and a table `thing`."""
    async with new_database() as made:
        await execute(made, "CREATE TABLE thing (id integer, n integer)")
        yield made


@pytest.fixture
async def look(url: str) -> AsyncIterator[Callable[[], Awaitable[list[tuple[str, int]]]]]:
    """What Postgres has of the pool: for each connection its state and how many locks."""
    watching = await asyncpg.connect(url)

    async def rows() -> list[tuple[str, int]]:
        found = await watching.fetch(
            """
            SELECT state, (SELECT count(*) FROM pg_locks l WHERE l.pid = s.pid) AS locks
              FROM pg_stat_activity s
             WHERE datname = current_database() AND application_name = 'sixfold'
            """
        )
        return [(row["state"], row["locks"]) for row in found]

    yield rows
    await watching.close()


class Leaving:
    """An argument at which the caller leaves: asyncpg looks at it after the statement's first half
    was sent and answered, and before the second.
    """

    def __index__(self) -> int:
        raise asyncio.CancelledError


@pytest.mark.parametrize("argument", [Leaving(), "no integer", 2**31])
async def test_a_statement_that_ends_between_its_halves_leaves_no_lock(
    url: str, look: Callable[[], Awaitable[list[tuple[str, int]]]], argument: object
) -> None:
    async with one_connection(url) as (pool, _):
        with pytest.raises((asyncio.CancelledError, asyncpg.DataError)):
            await pool.write("UPDATE thing SET n = $1", argument)

        async with asyncio.timeout(RELEASE_SECONDS):
            while pool.connections() != (1, 0):
                await asyncio.sleep(0)
        assert await look() == AT_REST
        assert await pool.rows("SELECT n FROM thing") == []


@pytest.mark.parametrize("how", [Database.write, Database.row, Database.rows])
async def test_a_caller_whose_cancel_is_lost_leaves_at_once_and_only_once(
    url: str,
    look: Callable[[], Awaitable[list[tuple[str, int]]]],
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[..., Awaitable[object]],
) -> None:
    """A cancel goes to Postgres on a connection of its own. When it overtakes its statement, it
    finds nothing to cancel, and the statement waits for a lock that somebody holds.
    """

    async def overtake(**_: object) -> None:
        """Arrive before the statement."""

    monkeypatch.setattr(asyncpg.connect_utils, "_cancel", overtake)
    holder = await asyncpg.connect(url)
    async with one_connection(url) as (pool, sent):
        await pool.row("SELECT 1")
        async with holder.transaction():
            await holder.execute("LOCK TABLE thing")
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await how(pool, "UPDATE thing SET n = 1 RETURNING n")
            took = time.monotonic() - began

            await pool.row("SELECT 2")
            waited = time.monotonic() - began
            # Postgres sees that nobody waits for it, long before its statement_timeout.
            async with asyncio.timeout(LIFE.total_seconds() / 2):
                while await look() != AT_REST:
                    await asyncio.sleep(0.01)

        assert took < 0.1 + RELEASE_SECONDS / 2
        assert 0.1 + RELEASE_SECONDS <= waited < 0.1 + 2 * RELEASE_SECONDS
        assert sent == ["SELECT 1", "UPDATE thing SET n = 1 RETURNING n", "SELECT 2"]
    await holder.close()


async def test_a_call_that_is_not_cancelled_is_one_statement_and_nothing_else(url: str) -> None:
    async with one_connection(url) as (pool, sent):
        for _ in range(3):
            await pool.row("SELECT 1")
        with pytest.raises(asyncpg.NotNullViolationError):
            await pool.write("INSERT INTO pg_class VALUES (NULL)")
        await pool.row("SELECT 1")

    assert sent == [*["SELECT 1"] * 3, "INSERT INTO pg_class VALUES (NULL)", "SELECT 1"]


async def test_a_connection_whose_server_has_gone_can_be_closed(url: str) -> None:
    """asyncpg alone raises BrokenPipeError here, in the pool in a task that nobody looks after."""
    opened = await asyncpg.connect(
        url, connection_class=Connection, server_settings={"idle_session_timeout": "50"}
    )
    time.sleep(0.3)  # not asyncio's: it must not learn that the server has hung up

    await opened.close()

    assert opened.is_closed()


@pytest.mark.parametrize("how", [Database.row, Database.rows, Database.write])
async def test_a_silent_server_is_waited_for_once(how: Callable[..., Awaitable[object]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with connecting.pooled(
            f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable",
            size=1,
            acquire_seconds=1,
            statement_timeout=LIFE,
        ) as pool:
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await how(pool, "SELECT 1")

            assert 1 <= time.monotonic() - began < 1.9


async def test_a_server_that_nobody_reaches_is_unavailable_to_who_waits_too() -> None:
    """Not overloaded: no connection is busy."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with connecting.pooled(
            f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable",
            size=2,
            acquire_seconds=2,
            statement_timeout=LIFE,
        ) as pool:
            began = time.monotonic()
            first = [asyncio.ensure_future(pool.write("SELECT 1")) for _ in range(4)]
            await asyncio.sleep(0.5)
            later = asyncio.ensure_future(pool.write("SELECT 1"))
            answers = await asyncio.gather(*first, later, return_exceptions=True)

            assert {type(answer) for answer in answers} == {DatabaseUnavailable}
            # Whoever is handed a place has what is left of its time to connect.
            assert time.monotonic() - began < 0.5 + 2 + 1
