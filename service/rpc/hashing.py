"""A bounded place for password hashing: off the event loop, and never more than fits.

Each running hash takes its memory (19 MiB) and a core, so there is one thread per core, and a queue
whose end is OVERLOADED at once instead of a timeout later. A caller that has gone leaves the queue.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from service.domain.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class HashPool:
    """`threads` hashes at once, `queue` more waiting."""

    def __init__(self, *, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="sixfold-hash")
        self._places = threads + queue
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Have a place, for as many hashes in turn as one call needs. Raises Overloaded when all
        are taken.
        """
        if self._taken >= self._places:
            raise Overloaded
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on a thread. The caller has a place; one that leaves leaves the queue, too."""
        future = self._executor.submit(work, *args, **kwargs)
        return await asyncio.wrap_future(future)

    def length(self) -> int:
        """Places taken, for the gauge."""
        return self._taken

    def close(self) -> None:
        """Drop what waits; what runs ends by itself within milliseconds."""
        self._executor.shutdown(wait=False, cancel_futures=True)
