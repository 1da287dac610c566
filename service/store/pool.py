"""The connections of a process: made as they are needed, at most so many, the one used last first.

Ours, because asyncpg's own pool takes 27 µs for each statement (a task, a proxy, a look at every
connection), where the statement itself takes about 80; this one takes less than 1.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import asyncpg

from service.domain.errors import Overloaded

# Idle connections are closed after this, so that a pool forgets a demoted primary, and plans made
# before an index was rebuilt, by itself; and busy ones after AGE_SECONDS.
IDLE_SECONDS: Final = 60.0
AGE_SECONDS: Final = 1800.0
# How long a connection may wait for Postgres to confirm a cancelled statement, or its own end; then
# it is thrown away (asyncpg issues 431, 1356: without a bound it can hang for ever). Several such
# waits come one after another when a process stops before a frozen server, within two seconds.
RELEASE_SECONDS: Final = 0.5


class Connection(asyncpg.Connection):
    """A connection that can always be closed."""

    era = 0  # of its pool, when it was made
    made = used = 0.0  # when, by time.monotonic

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncpg's)
        """As asyncpg's, which ends the connection whatever it raises, without raising that a server
        has gone or is silent.
        """
        with suppress(OSError):
            await super().close(timeout=timeout or RELEASE_SECONDS)


class Pool:
    """Up to `size` connections, each made by `connect`. Whoever waits for one waits no longer than
    `seconds`, and is served in turn.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], *, size: int, seconds: float
    ) -> None:
        self._connect = connect
        self._size = size
        self._seconds = seconds
        self._era = 0
        self._places = 0  # taken: by a connection, or by one that is being made
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []  # by when they were used
        # A waiter, until when, gets a connection, or None: a place, to make one.
        self._waiting: deque[tuple[asyncio.Future[Connection | None], float]] = deque()
        self._ending: dict[Connection, asyncio.Task[None]] = {}
        self._closed = False
        self._empty = asyncio.Event()  # after closing
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """(idle, in use)."""
        return len(self._idle), len(self._all) - len(self._idle)

    async def acquire(self) -> Connection:
        """A connection, for `release` to have back. Raises Overloaded when all were in use for too
        long, TimeoutError when there was none for as long, and what connecting raises.
        """
        while not self._closed:
            if self._idle:
                connection = self._idle.pop()
            elif self._places < self._size:
                self._places += 1
                return await self._make()
            else:
                end = time.monotonic() + self._seconds
                served = await self._next()
                if served is None:
                    async with asyncio.timeout(max(end - time.monotonic(), 0)):
                        return await self._make()
                connection = served
            if self._is_good(connection):
                return connection
            self._drop(connection)
        raise asyncpg.InterfaceError("the pool is closed")

    def release(self, connection: Connection) -> None:
        """Take back a connection, whatever state it is in."""
        connection.used = now = time.monotonic()
        if self._is_good(connection) and now < connection.made + AGE_SECONDS:
            self._give(connection)
        else:
            self._drop(connection)

    def expire(self) -> None:
        """Have every connection there is replaced at its next use."""
        self._era += 1

    async def close(self, seconds: float) -> None:
        """Close all, those in use when they are released, or after `seconds` whatever they do."""
        self._closed = True
        for timer in filter(None, (self._timer, self._late)):
            timer.cancel()
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(asyncpg.InterfaceError("the pool is closed"))
        while self._idle:
            self._drop(self._idle.pop())
        if not self._places:
            self._empty.set()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            pass
        finally:
            for connection in [*self._all, *self._ending]:
                connection.terminate()

    def _is_good(self, connection: Connection) -> bool:
        return not (
            connection.is_closed()
            or connection.era != self._era
            # Nothing of ours is left open, or it would be the next caller's.
            or connection.is_in_transaction()
        )

    async def _next(self) -> Connection | None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        self._waiting.append((turn, loop.time() + self._seconds))
        # One timer for all, as those who wait longest are first: one for each takes 15 µs.
        if self._late is None:
            self._late = loop.call_later(self._seconds, self._refuse_late)
        try:
            return await turn
        except asyncio.CancelledError:
            served = turn.done() and not turn.cancelled() and not turn.exception()
            if served:  # in the same moment
                connection = turn.result()
                self.release(connection) if connection else self._give(None)
            raise
        finally:
            del turn  # its error knows this frame: a cycle, which only the collector would find

    def _refuse_late(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][1] <= now or self._waiting[0][0].done()):
            turn, _ = self._waiting.popleft()
            if not turn.done():
                # All busy is load, to be shed; connections that cannot be made are not.
                turn.set_exception(Overloaded() if self._all else TimeoutError())
        due = self._waiting[0][1] if self._waiting else None
        self._late = loop.call_at(due, self._refuse_late) if due is not None else None

    async def _make(self) -> Connection:
        """For a place that has been taken."""
        era = self._era
        try:
            connection = await self._connect()
        except BaseException:
            self._give(None)
            raise
        connection.era, connection.made = era, time.monotonic()
        self._all.add(connection)
        if self._closed:
            self._drop(connection)
            raise asyncpg.InterfaceError("the pool is closed")
        return connection

    def _give(self, connection: Connection | None) -> None:
        """To whoever is next in turn; else a connection is idle, and a place is free."""
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is None:
            self._places -= 1
            if self._closed and not self._places:
                self._empty.set()
        elif self._closed:
            self._drop(connection)
        else:
            self._idle.append(connection)
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(IDLE_SECONDS, self._tidy)

    def _tidy(self) -> None:
        """Close what has been idle for long, and look again as long as there is something."""
        old = time.monotonic() - IDLE_SECONDS
        while self._idle and self._idle[0].used <= old:
            self._drop(self._idle.pop(0))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(IDLE_SECONDS / 4, self._tidy) if self._idle else None

    def _drop(self, connection: Connection) -> None:
        """Close it, and then have its place taken: Postgres counts it until it has ended."""
        self._all.discard(connection)
        if connection.is_closed():
            self._give(None)
            return
        self._ending[connection] = asyncio.ensure_future(self._end(connection))

    async def _end(self, connection: Connection) -> None:
        try:
            await connection.close()
        except Exception:  # whatever it is in the middle of
            connection.terminate()
        finally:
            del self._ending[connection]
            self._give(None)
