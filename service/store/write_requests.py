"""The write_requests table: the first answers of writes that carried a request_id.

Each write's statement reads and fills it; here is what they have in common around that.
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
    db: Database, sql: str, caller: Caller, request: Request, *args: object
) -> asyncpg.Record:
    """Run a write, and again when it wrote nothing. The row has a `revision`
    unless a precondition did not hold. Raises SessionRevoked, RequestIdReused.

    A statement that waited for another write of this user cannot see what that one committed. Was
    it the same request, then the primary key of write_requests has undone this one whole, or its
    precondition failed because of the very write it repeats. Run again, it sees: the first one's
    answer, or the revision that is in the way.
    """
    named = (
        caller.user_id,
        caller.session_id,
        request.request_id,
        request.request_hash,
        *args,
    )
    try:
        row = await db.write(sql, *named)
        again = row is not None and row["revision"] is None
    except asyncpg.UniqueViolationError:
        again = True
    if again:
        row = await db.write(sql, *named)
    return judged(row, request)


def judged(row: asyncpg.Record | None, request: Request) -> asyncpg.Record:
    """What a write's statement says, where there was a session, and if it was seen before, then for
    the same. Raises SessionRevoked, RequestIdReused.
    """
    if row is None:
        raise SessionRevoked
    if row["request_hash"] not in (None, request.request_hash):
        raise RequestIdReused
    return row
