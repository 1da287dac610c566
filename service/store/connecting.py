"""How connections to Postgres are made, for a process and for what needs one of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from service.domain.errors import DatabaseUnavailable
from service.store.db import AWAY, Database
from service.store.pool import Connection, Pool

# For statements that somebody has left, at the end of a process.
CLOSE_SECONDS: Final = 5.0

WRITABLE: Final = SessionAttribute.read_write


@asynccontextmanager
async def alone(url: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection of its own, for what needs a session: migrations and their lock. Raises
    DatabaseUnavailable.
    """
    try:
        opened = await asyncpg.connect(url, target_session_attrs=WRITABLE, timeout=10)
    except (*AWAY, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable from error
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def pooled(
    url: str,
    *,
    size: int,
    acquire_seconds: float,
    statement_timeout: timedelta,
    pooler: bool = False,
    on_query: Callable[[Any], None] | None = None,
) -> AsyncIterator[Database]:
    """A pool of at most `size` connections, made as they are needed, so that a process can start
    before its Postgres does.

    `pooler` is for PgBouncer in transaction mode: no prepared statements are kept and no session
    settings are sent. `on_query` sees each statement (asyncpg's LoggedQuery); tests count with it.
    """
    settings = {"application_name": "sixfold"}
    if not pooler:
        # Every statement here is written for it; a database may have another default.
        settings["default_transaction_isolation"] = "read committed"
        # Each statement is written for one plan, of index lookups, whatever its arguments. Postgres
        # would plan anew each time: twice as long as a lookup, and it takes the same plan.
        settings["plan_cache_mode"] = "force_generic_plan"
        # And a plan that was made while tables were small is kept when they have grown.
        settings["enable_seqscan"] = "off"
        # The backstop behind the call's own deadline, for statements whose cancel got lost.
        settings["statement_timeout"] = str(int(statement_timeout.total_seconds() * 1000))
        settings["idle_in_transaction_session_timeout"] = "10000"
        # How often Postgres looks, while a statement runs, whether this end has gone.
        settings["client_connection_check_interval"] = "1000"

    async def connect() -> Connection:
        made: Connection = await asyncpg.connect(
            url,
            statement_cache_size=0 if pooler else 100,
            target_session_attrs=WRITABLE,
            timeout=acquire_seconds,
            connection_class=Connection,
            server_settings=settings,
        )
        if on_query:
            made.add_query_logger(on_query)
        return made

    pool = Pool(connect, size=size, seconds=acquire_seconds)
    try:
        yield Database(pool)
    finally:
        await pool.close(CLOSE_SECONDS)
