"""The write_requests table: the first answers of writes that carried a request_id.

Each write reads and fills it in its own statement; here is what they have in common around that.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from service.domain.errors import RequestIdReused, SessionRevoked
from service.domain.models import Caller
from service.store.db import Database


@dataclass(frozen=True, slots=True)
class Request:
    """The caller's request_id, if it gave one, and a hash of all it asked for."""

    request_id: UUID | None
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did. A replayed request_id gives the first one's."""

    revision: int
    create_time: datetime
    update_time: datetime


async def once(
    db: Database, sql: str, caller: Caller, request_id: UUID | None, *args: object
) -> asyncpg.Record | None:
    """Run a write, in the caller's lane; once more when it may have waited for another with the
    same request_id.

    What that one committed the statement could not see yet. Either the primary key of
    write_requests undid it whole, or its precondition failed because of the very write it repeats.
    Run again, it finds the first one's answer.
    """
    named = (caller.user_id, caller.session_id, request_id, *args)
    async with db.lanes.enter(caller.user_id):
        try:
            row = await db.write(sql, *named)
        except asyncpg.UniqueViolationError:
            return await db.write(sql, *named)
        if request_id is None or row is None or row["revision"] is not None:
            return row
        return await db.write(sql, *named)


def answer(row: asyncpg.Record | None, request: Request) -> Written | None:
    """What was written, now or by the first try; None when a precondition did not hold. Raises
    SessionRevoked, RequestIdReused.
    """
    if row is None:
        raise SessionRevoked
    if row["request_hash"] not in (None, request.request_hash):
        raise RequestIdReused
    if row["revision"] is None:
        return None
    return Written(row["revision"], row["create_time"], row["update_time"])
