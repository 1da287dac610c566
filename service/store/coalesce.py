"""Questions that are in flight at the same moment share one statement (the DataLoader pattern):
reads, plain writes (shared_puts.py), and logins.

Nothing is cached: a statement starts after the questions in it were asked, so whoever has written
reads what it wrote. A lone question runs at once, in its own task, and pays nothing for the company
it did not have (but for one in TRY_EVERY, where they come fast); those that come while it runs are
the next statement.

Ours, because this is the hot path: the libraries for it wait for a tick of the loop, or cache.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from service.domain.errors import DatabaseUnavailable, DeadlineExceeded, NotReady, Overloaded

Question = TypeVar("Question")
Answer = TypeVar("Answer")

# Those who wait, or who are in a statement: what they ask, and where the answer will be.
Waiting: TypeAlias = deque[tuple[Question, asyncio.Future[Answer]]]
Batch: TypeAlias = list[tuple[Question, asyncio.Future[Answer]]]

# A full statement of largest values is 16 MiB (of pages and batches 32, see records._LARGE); and
# beyond some fifty, sharing saves nothing more.
WIDTH: Final = 64
# Statements at once: one, so that questions meet, and up to this many once the newest has taken
# PATIENCE_SECONDS, so that a few lost connections, or large answers, hold up nobody else's.
# With two from the start, 16 calls in flight cost Postgres twice as much, and a quarter more here.
AT_ONCE: Final = 4
PATIENCE_SECONDS: Final = 0.01
# When questions come fast, but one after another, every TRY_EVERY-th is held back until the loop
# has turned QUIET_TURNS times without another; and while that gathers a CROWD, so are the next.
# Turns and not a time, because they are short when there is nothing else to do. For grpc.aio, where
# each of our servers hands over one call after another: 128 in flight, on four connections, are a
# tenth more a second with it.
FAST_SECONDS: Final = 0.001
TRY_EVERY: Final = 16
QUIET_TURNS: Final = 20
HOLD_SECONDS: Final = 0.005
CROWD: Final = 3
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
        self._running = 0  # statements, and one that is being gathered
        self._since: list[float] = []  # when each of the statements was started
        self._asked = 0
        self._lonely = 0  # statements that would have been so
        self._lonely_at = 0.0
        self._holding = False
        self._gathering = False
        self._look: asyncio.TimerHandle | None = None
        self._waiting: Waiting[Question, Answer] = deque()
        self._statements: dict[asyncio.Task[None], Batch[Question, Answer]] = {}

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. Being cancelled hurts nobody else's. Raises what `load`
        raises, and Overloaded when too many wait.
        """
        loop = asyncio.get_running_loop()
        self._asked += 1
        if not self._running and not self._holding:
            self._holding = self._is_worth_a_try()
        if not self._running and not self._holding:
            self._running = 1
            started = self._started(loop)
            try:
                return (await self._load([question]))[0]
            except Overloaded:
                self._shed()
                raise
            finally:
                self._since.remove(started)
                self._pass_on(loop)
        if len(self._waiting) >= QUEUE and not self._forget_those_who_left():
            raise Overloaded
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, answer))
        if not self._running:
            self._running = 1
            self._pass_on(loop)
        elif self._look is None:
            self._look = loop.call_at(self._impatient_at(loop), self._look_after, loop)
        try:
            return await answer
        except asyncio.CancelledError:
            self._left(answer)
            raise
        finally:
            del answer  # its error knows this frame: a cycle, which only the collector would find

    def _left(self, answer: asyncio.Future[Answer]) -> None:
        """Its caller has gone. A statement nobody waits for is cancelled: its callers' deadlines
        are its deadline, or one that Postgres never answers would hold its place for ever.
        """
        for statement, batch in self._statements.items():
            answers = [each for _, each in batch]
            if answer in answers and all(each.done() for each in answers):
                statement.cancel()

    def _look_after(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start one more statement, if the newest has not ended in time for those who wait."""
        self._look = None
        if not self._waiting or self._running >= self._at_once:
            return
        if loop.time() >= self._impatient_at(loop):
            self._running += 1
            self._pass_on(loop)
        self._look = loop.call_at(self._impatient_at(loop), self._look_after, loop)

    def _impatient_at(self, loop: asyncio.AbstractEventLoop) -> float:
        newest = self._since[-1] if self._since and not self._gathering else loop.time()
        return newest + PATIENCE_SECONDS

    def _started(self, loop: asyncio.AbstractEventLoop) -> float:
        started = loop.time()
        self._since.append(started)
        return started

    def _is_worth_a_try(self) -> bool:
        """Whether to hold a question that nobody is with back for others."""
        self._lonely += 1
        now, before = time.perf_counter(), self._lonely_at
        self._lonely_at = now
        return self._lonely % TRY_EVERY == 0 and now - before < FAST_SECONDS

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the place of a statement that has ended to those who wait: at once, or when more
        have come, where that is worth it.
        """
        if self._gathering:  # they are waited for already
            self._running -= 1
            return
        if self._holding and len(self._waiting) < CROWD:
            until = time.perf_counter() + HOLD_SECONDS
            self._gathering = True
            loop.call_soon(self._gather, loop, self._asked, QUIET_TURNS, until)
        else:
            self._start(loop)

    def _gather(
        self, loop: asyncio.AbstractEventLoop, asked: int, turns: int, until: float
    ) -> None:
        turns = turns - 1 if asked == self._asked else QUIET_TURNS
        if turns and len(self._waiting) < self._width and time.perf_counter() < until:
            loop.call_soon(self._gather, loop, self._asked, turns, until)
            return
        self._gathering = False
        self._holding = len(self._waiting) >= CROWD
        self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the next statement, or free its place. Without an await between looking and
        freeing, so that no question falls between the two.
        """
        batch = self._next_batch()
        if not batch:
            self._running -= 1
            return
        task = loop.create_task(self._answer(loop, batch, self._started(loop)))
        self._statements[task] = batch
        task.add_done_callback(self._statements.pop)

    def _shed(self) -> None:
        """Refuse those who wait: there was no connection for as long as one may wait for it."""
        for _, answer in self._waiting:
            if not answer.done():
                answer.set_exception(Overloaded())
        self._waiting.clear()

    def _forget_those_who_left(self) -> bool:
        """Whether that made room."""
        waiting = [asked for asked in self._waiting if not asked[1].done()]
        made_room = len(waiting) < len(self._waiting)
        self._waiting = deque(waiting)
        return made_room

    def _next_batch(self) -> Batch[Question, Answer]:
        batch: Batch[Question, Answer] = []
        while self._waiting and len(batch) < self._width:
            asked = self._waiting.popleft()
            if not asked[1].done():  # or its caller has gone
                batch.append(asked)
        return batch

    async def _answer(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: Batch[Question, Answer],
        started: float,
    ) -> None:
        passed_on = False
        try:
            found = await self._load([question for question, _ in batch])
            # The next statement first: Postgres works on it while these are answered.
            self._since.remove(started)
            passed_on = True
            self._pass_on(loop)
            for (_, answer), one in zip(batch, found, strict=True):
                if not answer.done():
                    answer.set_result(one)
        except _SHARED_FAILURES as error:
            if isinstance(error, Overloaded):
                self._shed()
            # Each gets an error of its own: one object raised in many tasks tangles tracebacks.
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(type(error)())
        except Exception as error:
            if len(batch) == 1:
                _, answer = batch[0]
                if not answer.done():
                    answer.set_exception(error)
            else:
                await self._one_by_one(batch)
        finally:
            for _, answer in batch:
                answer.cancel()  # only if this task was cancelled: nobody may wait for ever
            batch.clear()  # an error knows this frame, and its answer the error: a cycle
            if not passed_on:
                self._since.remove(started)
                self._pass_on(loop)

    async def _one_by_one(self, batch: Batch[Question, Answer]) -> None:
        """One question spoils the statement: let it fail alone."""
        for question, answer in batch:
            if answer.done():
                continue
            try:
                (one,) = await self._load([question])
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(one)
