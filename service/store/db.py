"""The way to Postgres: a pool whose every wait is bounded, and whose failures have our names.

Each statement is a transaction, of one call or of several that share it, so a reply after it is a
reply after COMMIT, and PgBouncer in transaction mode is no different from Postgres.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import asyncpg

from service.domain.errors import DatabaseUnavailable, DeadlineExceeded, NotReady
from service.store import coalesce
from service.store.coalesce import Answer, Coalesced, Question
from service.store.lanes import Lanes
from service.store.pool import RELEASE_SECONDS, Connection, Pool

log = logging.getLogger("sixfold.database")

# The first may meet a connection that has gone, and the second one that goes meanwhile.
READ_ATTEMPTS: Final = 3

# The server went, is going, is full, or has become a standby: nothing the caller did. Class 08, 53
# and 57 of the SQLSTATEs, without 57014, which is our own statement_timeout.
AWAY: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # a database that takes no connections
    asyncpg.TargetServerAttributeNotMatched,
    # "cannot switch to state …": the server's goodbye was read, its end of the connection not yet.
    asyncpg.InternalClientError,
)


# A table, column or function is not there: the schema is older than this code, or not there at all.
_BEHIND: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)


class Database:
    """What store functions take as `db`. `connecting.pooled` gives one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.lanes = Lanes()
        self._shared: dict[str, Coalesced[Any, Any]] = {}
        self._tidying: set[asyncio.Task[None]] = set()

    def shared(
        self, sql: str, *args: str, width: int = coalesce.WIDTH
    ) -> Awaitable[asyncpg.Record]:
        """The row for `args`, out of a statement that answers up to `width` such reads in flight
        together.

        `sql` takes lines for each argument, one from each read, and returns a row for each, in
        order. Lines, because as arrays asyncpg spends 2 µs on a read's four. An argument is not
        empty and has no line break.
        """
        found = self._shared.get(sql)
        if found is None:
            load = partial(self._lines, sql)
            found = self.coalesced(sql, lambda: Coalesced(load, width=width))
        return found.ask(args)

    def _lines(
        self, sql: str, questions: Sequence[tuple[str, ...]]
    ) -> Awaitable[list[asyncpg.Record]]:
        return self.rows(sql, *map("\n".join, zip(*questions, strict=True)))

    def shared_write(self, sql: str, *args: object) -> Awaitable[asyncpg.Record]:
        """The row for `args`, out of one statement for all such writes in flight. `sql` takes an
        array for each argument, one from each write, and returns a row for each, in order.
        """
        load = partial(self._arrays, sql)
        return self.coalesced(sql, lambda: Coalesced(load)).ask(args)

    def _arrays(
        self, sql: str, writes: Sequence[tuple[object, ...]]
    ) -> Awaitable[list[asyncpg.Record]]:
        return self.write_all(sql, *map(list, zip(*writes, strict=True)))

    def coalesced(
        self, sql: str, make: Callable[[], Coalesced[Question, Answer]]
    ) -> Coalesced[Question, Answer]:
        """Where those who share this statement meet; made by the first of them."""
        found = self._shared.get(sql)
        if found is None:
            found = self._shared[sql] = make()
        return found

    async def row(self, sql: str, *args: object) -> asyncpg.Record | None:
        """The first row of a read. Tried again when a connection turns out to be gone."""
        return cast(asyncpg.Record | None, await self._read("fetchrow", sql, args))

    async def rows(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """All rows of a read. Tried again when a connection turns out to be gone."""
        return cast(list[asyncpg.Record], await self._read("fetch", sql, args))

    async def _read(self, fetch: str, sql: str, args: tuple[object, ...]) -> object:
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return await self._run(fetch, sql, args)
            except DatabaseUnavailable as error:
                if _is_silence(error):
                    raise
        return await self._run(fetch, sql, args)

    async def write(self, sql: str, *args: object) -> asyncpg.Record | None:
        """The first row of a write. Not tried again when its connection is lost: it may have been
        committed, and only the caller's request_id can tell. What Postgres itself has undone to end
        a deadlock is tried once more.
        """
        return cast(asyncpg.Record | None, await self._write("fetchrow", sql, args))

    async def write_all(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """All rows of a write. As often as the other."""
        return cast(list[asyncpg.Record], await self._write("fetch", sql, args))

    async def _write(self, fetch: str, sql: str, args: tuple[object, ...]) -> object:
        try:
            return await self._run(fetch, sql, args)
        except asyncpg.TransactionRollbackError:
            return await self._run(fetch, sql, args)

    def connections(self) -> tuple[int, int]:
        """(idle, in use), for the gauges."""
        return self._pool.counts

    async def _run(self, fetch: str, sql: str, args: tuple[object, ...]) -> object:
        try:
            connection = await self._pool.acquire()
            try:
                answer = await getattr(connection, fetch)(sql, *args)
            except (asyncio.CancelledError, asyncpg.DataError):
                # Not waited for: who has left has no time for it.
                task = asyncio.ensure_future(self._tidy(connection))
                self._tidying.add(task)
                task.add_done_callback(self._tidying.discard)
                raise
            except BaseException:
                self._pool.release(connection)
                raise
            self._pool.release(connection)
            return answer
        except asyncpg.QueryCanceledError as error:
            raise DeadlineExceeded from error
        except AWAY as error:
            self._forget(error)
            raise DatabaseUnavailable from error
        except _BEHIND as error:
            log.warning("the schema is behind: %s", error)
            raise NotReady from error
        except asyncpg.InterfaceError as error:
            # asyncpg says a closed connection and a wrong argument with the same class; the second
            # is also a ValueError, and a bug of ours.
            if isinstance(error, ValueError):
                raise
            self._forget(error)
            raise DatabaseUnavailable from error

    async def _tidy(self, connection: Connection) -> None:
        """Give back a connection that was left in the middle of a statement.

        asyncpg sends a statement it does not know in two halves, the first without Sync (its issue
        1276). What ends between them, because the caller left or asyncpg refused an argument, keeps
        its transaction open, with a lock on each table of the statement, and no timeout ends that.
        Any simple query does.
        """
        try:
            # asyncpg sends it when Postgres has confirmed a running cancel.
            await connection.execute("SELECT 1", timeout=RELEASE_SECONDS)
        except Exception as error:
            # The server has gone or is silent. Or the cancel, which goes another way, came
            # before its statement and was lost: Postgres will see that nobody waits for it.
            connection.terminate()
            self._forget(error)
        finally:
            self._pool.release(connection)

    def _forget(self, error: Exception) -> None:
        """Have every connection replaced at its next use: the server they lead to has gone or has
        become a standby, and `target_session_attrs` looks only when connecting.
        """
        log.warning("database unavailable: %s", type(error).__name__)
        self._pool.expire()


def _is_silence(error: DatabaseUnavailable) -> bool:
    """Whether Postgres did not answer in time. Asked again, it would take as long once more."""
    return isinstance(error.__cause__, TimeoutError)
