"""Deadlines of calls, by the tick: one timer of the event loop for all of them. `asyncio.timeout`
makes one for each, which costs every call 15 µs (uvloop), and nearly all calls end long before.
"""

import asyncio
from heapq import heappop, heappush
from types import TracebackType
from typing import Any, Final

from service.domain.errors import DeadlineExceeded

# A deadline is noticed this late at the most. Half of what `interceptors` keeps for the answer.
TICK_SECONDS: Final = 0.01


class Deadline:
    """`with` it around what has to end in time: cancels the task, and raises DeadlineExceeded where
    that is all it was cancelled for (as asyncio.timeout does with TimeoutError).
    """

    __slots__ = ("_cancelling", "_due", "_expired", "_task")

    def __init__(self, due: set["Deadline"], task: asyncio.Task[Any]) -> None:
        self._due = due
        self._task = task
        self._expired = False
        self._cancelling = 0

    def __enter__(self) -> None:
        self._cancelling = self._task.cancelling()
        self._due.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._due.discard(self)
        only_ours = self._expired and self._task.uncancel() <= self._cancelling
        if only_ours and isinstance(error, asyncio.CancelledError):
            raise DeadlineExceeded from error

    def expire(self) -> None:
        """The time is up."""
        self._expired = True
        self._task.cancel()


class Deadlines:
    """All deadlines of one event loop, those of a tick together."""

    def __init__(self) -> None:
        self._due: dict[int, set[Deadline]] = {}
        self._ticks: list[int] = []  # a heap of the keys of `_due`
        self._timer: asyncio.TimerHandle | None = None

    def after(self, seconds: float) -> Deadline:
        """A deadline for the task that asks. `seconds` is more than 0."""
        loop = asyncio.get_running_loop()
        tick = int((loop.time() + seconds) / TICK_SECONDS) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._wait(loop)
        task = asyncio.current_task(loop)
        assert task is not None, "a deadline is some task's"
        return Deadline(due, task)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(self._ticks[0] * TICK_SECONDS, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(loop.time() / TICK_SECONDS)
        while self._ticks and self._ticks[0] <= now:
            for deadline in list(self._due.pop(heappop(self._ticks))):
                deadline.expire()
        self._timer = None
        if self._ticks:
            self._wait(loop)
