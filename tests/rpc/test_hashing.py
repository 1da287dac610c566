"""The pool that hashes passwords: who goes on with whom, and that nobody is forgotten."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from service.rpc.hashing import FOR_EACH, MOST, HashPool


@pytest.fixture
def pool() -> Iterator[HashPool]:
    made = HashPool(threads=1, queue=1000)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("calls", "together"),
    [(1, 1), (2, 1), (FOR_EACH, 1), (4 * (FOR_EACH + 1), 4), (20 * MOST, MOST)],
)
async def test_a_share_of_those_in_a_queue_goes_on_together(
    pool: HashPool, calls: int, together: int
) -> None:
    """No fewer: that many are hashed when the first goes on. No more: the next waits for that."""
    all_wait, first_went_on = threading.Event(), threading.Event()
    hashed: list[int] = []
    hashed_before: list[int] = []

    def work(number: int) -> None:
        assert all_wait.wait(10)
        if number == together:
            assert first_went_on.wait(10)
        hashed.append(number)

    async def call(number: int) -> None:
        await pool.run(work, number)
        hashed_before.append(len(hashed))
        first_went_on.set()

    tasks = [asyncio.create_task(call(number)) for number in range(calls)]
    await asyncio.sleep(0)
    all_wait.set()
    await asyncio.gather(*tasks)
    assert hashed_before[0] == together
    assert len(hashed_before) == calls


async def test_nobody_is_forgotten_however_fast_they_end_and_leave() -> None:
    pool = HashPool(threads=8, queue=200)

    async def call(number: int) -> int:
        with pool.place():
            return await pool.run(pow, number, 2)

    try:
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
    finally:
        pool.close()


async def test_what_a_hash_raises_is_its_callers_alone(pool: HashPool) -> None:
    wrong, right = await asyncio.gather(
        pool.run(int, "x"), pool.run(int, "7"), return_exceptions=True
    )
    assert isinstance(wrong, ValueError)
    assert right == 7


async def test_who_waits_when_it_closes_is_cancelled(pool: HashPool) -> None:
    running, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        running.set()
        return go_on.wait(10)

    first, second = (asyncio.create_task(pool.run(each)) for each in (work, bool))
    assert await asyncio.to_thread(running.wait, 10)
    pool.close()
    go_on.set()
    assert await first
    with pytest.raises(asyncio.CancelledError):
        await second
