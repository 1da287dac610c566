"""The layer that ends calls in time. One timer for all of them: `asyncio.timeout` makes one for
each, which costs every call 15 µs (uvloop), and nearly all calls end long before.
"""

import asyncio
import math
from typing import Any, Final

from service.domain.errors import DeadlineExceeded
from service.rpc.interceptors import Call, Handler, Layer

# Answer before the caller gives up, or the caller never learns why (boulder's 20 milliseconds).
ANSWER_SECONDS: Final = 0.02
# A deadline is noticed this late at the most, which leaves half of the above for the answer.
TICK_SECONDS: Final = 0.01
_EXPIRED: Final = -math.inf


def deadline(default: float, longest: float) -> Layer:
    """Bound every call, in seconds: by its own deadline, by `default` if it brings none, and by
    `longest` in any case. Cancelling the handler cancels its statement.
    """
    deadlines = Deadlines()

    def layer(_: str, inner: Handler) -> Handler:
        async def bounded(request: Any, call: Call) -> bytes | None:
            given = call.time_remaining
            limit = min(default if given is None else given - ANSWER_SECONDS, longest)
            if limit <= 0:
                raise DeadlineExceeded
            task = deadlines.begin(limit)
            try:
                return await inner(request, call)
            except asyncio.CancelledError as error:
                if deadlines.end(task):
                    raise DeadlineExceeded from error
                raise
            finally:
                deadlines.end(task)

        return bounded

    return layer


class Deadlines:
    """Until when each task has time, on one event loop."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Task[Any], float] = {}
        self._next = math.inf  # when they are looked at
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> asyncio.Task[Any]:
        """Give the task that asks so long, until `end`; then it is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        task = asyncio.current_task(loop)
        assert task is not None, "a deadline is some task's"
        self._due[task] = due
        if due < self._next:
            self._wait(loop, due)
        return task

    def end(self, task: asyncio.Task[Any]) -> bool:
        """Whether its time was up, and it was cancelled for nothing else."""
        return self._due.pop(task, 0.0) == _EXPIRED and not task.uncancel()

    def _wait(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # By the tick: many that are due one after another are one look at all there are.
        self._next = math.ceil(due / TICK_SECONDS) * TICK_SECONDS
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(self._next, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        later = math.inf
        for task, due in self._due.items():
            if due > now:
                later = min(later, due)
            elif due != _EXPIRED:
                self._due[task] = _EXPIRED
                task.cancel()
        self._next, self._timer = math.inf, None
        if later < math.inf:
            self._wait(loop, later)
