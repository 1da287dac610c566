"""One timer for all deadlines: each ends its own call, in time, and nothing else."""

import asyncio
import time

import pytest

from service.domain.errors import DeadlineExceeded
from service.rpc.deadlines import TICK_SECONDS, Deadlines


async def bounded(deadlines: Deadlines, limit: float, work: float) -> str:
    with deadlines.after(limit):
        await asyncio.sleep(work)
    return "done"


async def test_what_ends_in_time_is_left_alone() -> None:
    deadlines = Deadlines()

    assert await bounded(deadlines, 5, 0) == "done"
    assert await bounded(deadlines, 0.02, 0) == "done"

    await asyncio.sleep(0.05)  # past the second one's deadline
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_no_deadline_comes_early_or_waits_for_a_later_one() -> None:
    deadlines = Deadlines()
    later = asyncio.ensure_future(bounded(deadlines, 30, 60))
    await asyncio.sleep(0)
    start = time.monotonic()

    for limit in (0.05, 0.2, 0.1):
        with pytest.raises(DeadlineExceeded):
            await bounded(deadlines, limit, 30)

    assert 0.35 <= time.monotonic() - start < 5
    assert not later.done()
    later.cancel()


async def test_those_of_one_tick_all_end() -> None:
    deadlines = Deadlines()

    ended = await asyncio.gather(
        *(bounded(deadlines, 3 * TICK_SECONDS, 30) for _ in range(500)), return_exceptions=True
    )

    assert {type(each) for each in ended} == {DeadlineExceeded}


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    deadlines = Deadlines()
    call = asyncio.ensure_future(bounded(deadlines, 5, 30))
    await asyncio.sleep(0)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


async def test_who_is_cancelled_by_both_is_cancelled() -> None:
    deadlines = Deadlines()

    async def stubborn() -> None:
        with deadlines.after(0.02):
            try:
                await asyncio.sleep(30)
            finally:
                task.cancel()
                await asyncio.sleep(0)

    task = asyncio.ensure_future(stubborn())

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_call_itself_is_not_hidden() -> None:
    async def failing() -> None:
        with Deadlines().after(0.02):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                raise KeyError("its own") from None

    with pytest.raises(KeyError):
        await failing()
