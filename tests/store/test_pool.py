"""The pool: connections are made when needed, given in turn, and replaced when they are no good."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.domain.errors import Overloaded
from service.store import pool as module
from service.store.pool import Connection, Pool


class Making:
    """Connects for real, and counts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.count = 0

    async def __call__(self) -> Connection:
        self.count += 1
        made: Connection = await asyncpg.connect(self._url, connection_class=Connection)
        return made


@pytest.fixture
async def making(database_url: str) -> Making:
    return Making(database_url)


@pytest.fixture
async def pool(making: Making) -> AsyncIterator[Pool]:
    """Of two; who waits for one waits half a second."""
    opened = Pool(making, size=2, seconds=0.5)
    yield opened
    await opened.close(1)


async def test_the_connection_used_last_is_used_next(pool: Pool, making: Making) -> None:
    first, second = await pool.acquire(), await pool.acquire()

    pool.release(first)
    pool.release(second)

    assert await pool.acquire() is second
    assert await pool.acquire() is first
    assert making.count == 2
    for each in (first, second):
        pool.release(each)


async def test_who_waits_is_served_in_turn(pool: Pool) -> None:
    first, second = await pool.acquire(), await pool.acquire()
    waiting = [asyncio.ensure_future(pool.acquire()) for _ in range(2)]
    await asyncio.sleep(0)

    pool.release(second)
    pool.release(first)

    assert await asyncio.gather(*waiting) == [second, first]
    assert pool.counts == (0, 2)
    for each in (first, second):
        pool.release(each)
    assert pool.counts == (2, 0)


async def test_a_full_pool_is_waited_for_so_long_and_no_longer(pool: Pool) -> None:
    taken = [await pool.acquire(), await pool.acquire()]

    with pytest.raises(Overloaded):
        async with asyncio.timeout(5):
            await pool.acquire()

    for each in taken:
        pool.release(each)
    assert pool.counts == (2, 0)


@pytest.mark.parametrize("served_first", [True, False])
async def test_who_leaves_in_the_moment_of_being_served_takes_nothing_along(
    pool: Pool, served_first: bool
) -> None:
    taken = [await pool.acquire(), await pool.acquire()]
    leaving, next_one = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
    await asyncio.sleep(0)

    for step in (True, False):
        if step is served_first:
            pool.release(taken[0])
        else:
            leaving.cancel()

    assert await next_one is taken[0]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    for each in taken:
        pool.release(each)
    assert pool.counts == (2, 0)


async def test_a_connection_that_was_lost_is_replaced(pool: Pool, making: Making) -> None:
    lost = await pool.acquire()
    pool.release(lost)
    lost.terminate()

    found = await pool.acquire()

    assert found is not lost
    assert await found.fetchval("SELECT 1") == 1
    pool.release(found)
    assert (pool.counts, making.count) == ((1, 0), 2)


async def test_who_waits_for_a_connection_that_was_lost_gets_another(pool: Pool) -> None:
    taken = [await pool.acquire(), await pool.acquire()]
    waiting = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)

    taken[0].terminate()
    pool.release(taken[0])

    found = await waiting
    assert found not in taken
    for each in (found, taken[1]):
        pool.release(each)
    assert pool.counts == (2, 0)


async def test_an_open_transaction_is_nobodys(pool: Pool) -> None:
    left_open = await pool.acquire()
    await left_open.execute("BEGIN")

    pool.release(left_open)

    found = await pool.acquire()
    assert found is not left_open
    pool.release(found)


async def test_expired_connections_are_replaced_those_in_use_when_they_come_back(
    pool: Pool, making: Making
) -> None:
    idle, used = await pool.acquire(), await pool.acquire()
    pool.release(idle)

    pool.expire()
    pool.release(used)

    fresh = [await pool.acquire(), await pool.acquire()]
    assert making.count == 4
    for each in fresh:
        pool.release(each)


async def test_a_place_is_free_again_when_connecting_fails(database_url: str) -> None:
    making = Making(database_url)

    async def connect() -> Connection:
        if making.count == 0:
            making.count += 1
            raise ConnectionRefusedError
        return await making()

    pool = Pool(connect, size=1, seconds=5)
    with pytest.raises(ConnectionRefusedError):
        await pool.acquire()

    pool.release(await pool.acquire())

    assert pool.counts == (1, 0)
    await pool.close(1)


async def test_what_is_idle_for_long_is_closed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    connection = await pool.acquire()
    pool.release(connection)

    async with asyncio.timeout(5):
        while pool.counts != (0, 0) or not connection.is_closed():
            await asyncio.sleep(0.01)


async def test_what_is_old_is_replaced_though_it_is_busy(
    pool: Pool, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGE_SECONDS", 0)

    for _ in range(3):
        pool.release(await pool.acquire())

    assert making.count == 3


async def test_closing_waits_for_what_is_in_use_but_not_for_ever(making: Making) -> None:
    pool = Pool(making, size=2, seconds=0.5)
    returned, kept = await pool.acquire(), await pool.acquire()
    asyncio.get_running_loop().call_later(0.05, pool.release, returned)

    async with asyncio.timeout(5):
        await pool.close(0.3)

    assert returned.is_closed()
    assert kept.is_closed()


async def test_nobody_is_served_by_a_pool_that_closes(making: Making) -> None:
    pool = Pool(making, size=1, seconds=0.2)
    used = await pool.acquire()
    waiting = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, pool.release, used)

    async with asyncio.timeout(1):
        await pool.close(5)
        with pytest.raises(asyncpg.InterfaceError):
            await waiting
        with pytest.raises(asyncpg.InterfaceError):
            await pool.acquire()

    assert (making.count, used.is_closed()) == (1, True)


async def test_a_connection_that_is_made_while_the_pool_closes_is_closed(making: Making) -> None:
    made = []

    async def connect() -> Connection:
        await asyncio.sleep(0.05)
        made.append(await making())
        return made[0]

    pool = Pool(connect, size=1, seconds=5)
    late = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)

    await pool.close(5)

    with pytest.raises(asyncpg.InterfaceError):
        await late
    assert made[0].is_closed()


async def test_closing_that_is_cut_short_closes_all_the_same(making: Making) -> None:
    pool = Pool(making, size=1, seconds=5)
    used = await pool.acquire()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.close(30)

    assert used.is_closed()


async def test_what_was_handed_over_and_is_no_good_any_more_is_replaced(pool: Pool) -> None:
    taken = [await pool.acquire(), await pool.acquire()]
    waiting = asyncio.ensure_future(pool.acquire())
    await asyncio.sleep(0)

    pool.release(taken[0])
    pool.expire()

    found = await waiting
    assert found not in taken
    for each in (found, taken[1]):
        pool.release(each)


async def test_a_place_is_free_when_its_connection_has_ended(database_url: str) -> None:
    """Or a process would have more connections than it was counted with."""
    made = ended = most = 0

    class Slow(Connection):
        async def close(self, *, timeout: float | None = None) -> None:
            nonlocal ended
            await super().close(timeout=timeout)
            await asyncio.sleep(0.05)
            ended += 1

    async def connect() -> Connection:
        nonlocal made, most
        made += 1
        most = max(most, made - ended)
        opened: Connection = await asyncpg.connect(database_url, connection_class=Slow)
        return opened

    pool = Pool(connect, size=2, seconds=5)
    taken = [await pool.acquire(), await pool.acquire()]
    pool.release(taken[0])
    pool.expire()
    pool.release(taken[1])

    fresh = await asyncio.gather(pool.acquire(), pool.acquire())

    assert (made, ended, most) == (4, 2, 2)
    for each in fresh:
        pool.release(each)
    await pool.close(5)
