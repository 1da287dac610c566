"""A bounded place for password hashing: off the event loop, and never more than fits.

Each running hash takes its memory (19 MiB) and a core, so there is one thread per core, and a queue
whose end is OVERLOADED at once instead of a timeout later. A caller that has gone leaves the queue.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.domain.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class HashPool:
    """`threads` hashes at once (0: one per core), `queue` more waiting."""

    def __init__(self, *, threads: int, queue: int) -> None:
        threads = threads or os.cpu_count() or 1
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="sixfold-hash")
        self._places = threads + queue
        self._taken = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on a thread. Raises Overloaded when all places are taken."""
        with self._lock:
            if self._taken >= self._places:
                raise Overloaded
            self._taken += 1
        future = self._executor.submit(work, *args, **kwargs)
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def length(self) -> int:
        """Hashes running and waiting, for the gauge."""
        return self._taken

    def close(self) -> None:
        """Drop what waits; what runs ends by itself within milliseconds."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _: Future[T]) -> None:
        with self._lock:
            self._taken -= 1
