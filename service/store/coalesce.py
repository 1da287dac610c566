"""Point reads that are in flight at the same moment share one statement (the DataLoader pattern).

Nothing is cached: a statement starts after the questions in it were asked, so whoever has written
reads what it wrote. A lone question runs at once, in its own task, and pays nothing for the company
it did not have; those that come while it runs are the next statement.

Ours, because this is the hot path: the libraries for it wait for a tick of the loop, or cache.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from service.domain.errors import DatabaseUnavailable, DeadlineExceeded, NotReady, Overloaded

Question = TypeVar("Question")
Answer = TypeVar("Answer")

# A full statement of largest values is 16 MiB; and beyond some fifty, sharing saves nothing more.
WIDTH: Final = 64
# Statements at once. With one, Postgres idles while an answer is read here; with many, questions
# no longer meet.
AT_ONCE: Final = 2
# Questions that may wait. They pile up only while Postgres stands still, each for no longer than
# its caller's deadline; this bounds the memory until then.
QUEUE: Final = 2_048
# What befalls a statement whatever is in it. Everything else is one question's fault.
_SHARED_FAILURES: Final = (DatabaseUnavailable, DeadlineExceeded, NotReady, Overloaded)


class Coalesced(Generic[Question, Answer]):
    """`load` answers several questions with one statement, in their order."""

    def __init__(
        self,
        load: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        *,
        width: int = WIDTH,
        at_once: int = AT_ONCE,
    ) -> None:
        self._load = load
        self._width = width
        self._at_once = at_once
        self._running = 0
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. Being cancelled hurts nobody else's. Raises what `load`
        raises, and Overloaded when too many wait.
        """
        if self._running < self._at_once and not self._waiting:
            self._running += 1
            try:
                return (await self._load([question]))[0]
            finally:
                self._pass_on()
        if len(self._waiting) >= QUEUE:
            raise Overloaded
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        return await future

    def _pass_on(self) -> None:
        """Give the place of a statement that has ended to those who wait, or free it. Without an
        await between looking and freeing, so that no question falls between the two.
        """
        batch = self._next_batch()
        if batch:
            task = asyncio.ensure_future(self._answer(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._running -= 1

    def _next_batch(self) -> list[tuple[Question, asyncio.Future[Answer]]]:
        batch: list[tuple[Question, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._width:
            asked = self._waiting.popleft()
            if not asked[1].done():  # its caller has gone
                batch.append(asked)
        return batch

    async def _answer(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._load([question for question, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except _SHARED_FAILURES as error:
            # Each gets an error of its own: one object raised in many tasks tangles tracebacks.
            for _, future in batch:
                if not future.done():
                    future.set_exception(type(error)())
        except Exception:
            await self._one_by_one(batch)
        finally:
            for _, future in batch:
                future.cancel()  # only if this task itself was cancelled: nobody may wait for ever
            self._pass_on()

    async def _one_by_one(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        """One question spoils the statement: let it fail alone."""
        for question, future in batch:
            if future.done():
                continue
            try:
                answer = (await self._load([question]))[0]
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(answer)
