"""One timer for all deadlines: each ends its own call, in time, and nothing else."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.domain.errors import DeadlineExceeded
from service.rpc.deadlines import ANSWER_SECONDS, TICK_SECONDS, deadline
from service.rpc.interceptors import Call, Layer


async def within(layer: Layer, limit: float, work: Callable[[], Awaitable[object]]) -> bytes | None:
    async def handler(_: Any, __: Call) -> bytes:
        await work()
        return b"done"

    call = Call("r-1", "ipv4:10.0.0.7:1", [], limit + ANSWER_SECONDS, None)
    return await layer("m", handler)(b"", call)


async def bounded(layer: Layer, limit: float, work: float) -> bytes | None:
    return await within(layer, limit, lambda: asyncio.sleep(work))


@pytest.fixture
def layer() -> Layer:
    return deadline(60, 60)


async def test_what_ends_in_time_is_left_alone(layer: Layer) -> None:
    assert await bounded(layer, 5, 0) == b"done"
    assert await bounded(layer, 0.02, 0) == b"done"

    await asyncio.sleep(0.05)  # past the second one's deadline
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_no_deadline_comes_early_or_waits_for_a_later_one(layer: Layer) -> None:
    later = asyncio.ensure_future(bounded(layer, 30, 60))
    await asyncio.sleep(0)
    start = time.monotonic()

    for limit in (0.05, 0.2, 0.1):
        with pytest.raises(DeadlineExceeded):
            await bounded(layer, limit, 30)

    assert 0.35 <= time.monotonic() - start < 5
    assert not later.done()
    later.cancel()


async def test_those_of_one_tick_all_end(layer: Layer) -> None:
    ended = await asyncio.gather(
        *(bounded(layer, 3 * TICK_SECONDS, 30) for _ in range(500)), return_exceptions=True
    )

    assert {type(each) for each in ended} == {DeadlineExceeded}


async def test_a_cancellation_from_elsewhere_stays_one(layer: Layer) -> None:
    call = asyncio.ensure_future(bounded(layer, 5, 30))
    await asyncio.sleep(0)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


async def test_who_is_cancelled_by_both_is_cancelled(layer: Layer) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            task.cancel()
            await asyncio.sleep(0)

    task = asyncio.ensure_future(within(layer, 0.02, stubborn))

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_takes_time_to_clean_up_is_cancelled_once(layer: Layer) -> None:
    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.1)  # while others' deadlines are looked at
            cleaned.append(True)

    cleaned: list[bool] = []
    others = [asyncio.ensure_future(bounded(layer, 0.02 * n, 30)) for n in range(2, 6)]
    with pytest.raises(DeadlineExceeded):
        await within(layer, 0.02, slow)

    assert cleaned == [True]
    await asyncio.gather(*others, return_exceptions=True)


async def test_an_error_of_the_call_itself_is_not_hidden(layer: Layer) -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise KeyError("its own") from None

    with pytest.raises(KeyError):
        await within(layer, 0.02, failing)


async def test_one_timer_goes_with_the_deadlines_that_are_left(layer: Layer) -> None:
    """Who comes after a deadline has passed, or with an earlier one than all others, is timed."""
    start = time.monotonic()
    calls = [asyncio.ensure_future(bounded(layer, limit, 30)) for limit in (0.3, 0.1, 0.2, 0.05)]

    done, _ = await asyncio.wait(calls)

    assert {type(call.exception()) for call in done} == {DeadlineExceeded}
    assert 0.3 <= time.monotonic() - start < 5
    with pytest.raises(DeadlineExceeded):
        await bounded(layer, 0.05, 30)
