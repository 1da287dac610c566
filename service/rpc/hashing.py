"""A bounded place for password hashing: off the event loop, and never more than fits.

Each running hash takes its memory (19 MiB) and a core, so there is one thread per core, and a queue
whose end is OVERLOADED at once instead of a timeout later. A caller that has gone leaves the queue.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Final, ParamSpec, TypeVar

from service.domain.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

# What is hashed is handed over when it is one for every two that are still to be hashed, or this
# many. A hash leaves nothing of the loop in the caches, so calls that go on together take a quarter
# less of it than one after another: of 128 logins in flight, 10 % more a second. Where one for
# every four was enough, 24 in flight were 7 % fewer a second, and took a tenth longer. No more
# together, or everybody else would wait for them.
FOR_EACH: Final = 2
MOST: Final = 32


class HashPool:
    """`threads` hashes at once, `queue` more waiting."""

    def __init__(self, *, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="sixfold-hash")
        self._places = threads + queue
        self._taken = 0
        self._to_hash = 0
        self._hashed: list[asyncio.Future[None]] = []
        self._lock = Lock()  # of these two, which the threads change

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
        loop = asyncio.get_running_loop()
        hashed: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._to_hash += 1
        future = self._executor.submit(work, *args, **kwargs)
        future.add_done_callback(partial(self._gather, loop, hashed))
        try:
            await hashed
        finally:
            future.cancel()
        if future.cancelled():  # by `close`
            raise asyncio.CancelledError
        return future.result()

    def _gather(
        self, loop: asyncio.AbstractEventLoop, hashed: asyncio.Future[None], _: Future[object]
    ) -> None:
        """On the thread that ends it: that which hashed, or the loop's, for who leaves the queue.
        The last of them is always enough, so nobody is forgotten.
        """
        with self._lock:
            self._to_hash -= 1
            self._hashed.append(hashed)
            enough = len(self._hashed) >= min(self._to_hash // FOR_EACH, MOST)
        if enough and not loop.is_closed():
            loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        with self._lock:
            ready, self._hashed = self._hashed, []
        for hashed in ready:
            if not hashed.done():  # or its caller has gone
                hashed.set_result(None)

    def length(self) -> int:
        """Places taken, for the gauge."""
        return self._taken

    def close(self) -> None:
        """Drop what waits; what runs ends by itself within milliseconds."""
        self._executor.shutdown(wait=False, cancel_futures=True)
