"""The pool that hashes passwords: who shares a wake-up with whom, and that nobody is forgotten."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.rpc import hashing
from service.rpc.hashing import HashPool


@pytest.fixture
def pool() -> Iterator[HashPool]:
    made = HashPool(threads=1, queue=200)
    yield made
    made.close()


async def test_who_waits_alone_is_handed_over_at_once(
    pool: HashPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "GATHER_SECONDS", 3600.0)
    with pool.place():
        async with asyncio.timeout(10):
            assert await pool.run(pow, 2, 10) == 1024


async def test_those_in_a_queue_go_on_together(pool: HashPool) -> None:
    hashed: list[int] = []
    hashed_before: list[int] = []  # how many others were, when each went on

    def work(number: int) -> int:
        time.sleep(0.001)
        hashed.append(number)
        return number

    async def call(number: int) -> int:
        given = await pool.run(work, number)
        hashed_before.append(len(hashed))
        return given

    with ExitStack() as places:
        for _ in range(100):
            places.enter_context(pool.place())
        assert await asyncio.gather(*map(call, range(100))) == list(range(100))
    # One by one these would be 1, 2, 3, …
    assert hashed_before[0] >= 4


async def test_nobody_is_forgotten_however_fast_they_end_and_leave() -> None:
    pool = HashPool(threads=8, queue=200)

    async def call(number: int) -> int:
        with pool.place():
            return await pool.run(pow, number, 2)

    async with asyncio.timeout(60):
        for _ in range(200):
            calls = [asyncio.create_task(call(number)) for number in range(20)]
            await asyncio.sleep(0)
            for leaving in calls[::3]:
                leaving.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            stayed = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
            assert stayed == [number**2 for number in range(20) if number % 3]
    assert pool.length() == 0
    pool.close()


async def test_what_a_hash_raises_is_its_callers_alone(pool: HashPool) -> None:
    with pool.place(), pool.place():
        wrong, right = await asyncio.gather(
            pool.run(int, "x"), pool.run(int, "7"), return_exceptions=True
        )
    assert isinstance(wrong, ValueError)
    assert right == 7
