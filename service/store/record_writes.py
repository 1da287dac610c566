"""The records table, written: one statement that checks the session, remembers the request_id, and
writes; and a second one only to say why nothing was written.

A write locks the user's counter first, which puts all writes of one user in one order. In READ
COMMITTED the other parts of the same statement keep the snapshot from before that wait, so what
must hold is written into the modifying part itself (ON CONFLICT, or UPDATE's own WHERE), which
Postgres checks on the newest row. See docs/decisions.md.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from service.domain import limits
from service.domain.errors import (
    InvalidArgument,
    QuotaExceeded,
    RecordExists,
    RecordNotFound,
    RequestIdReused,
    RevisionMismatch,
    SessionRevoked,
    Violation,
)
from service.domain.models import Caller
from service.store.db import Database


@dataclass(frozen=True, slots=True)
class Write:
    """A record as it is to be. At most one of `if_revision` and `if_absent` is set."""

    collection: str
    key: str
    json: str
    if_revision: int | None = None
    if_absent: bool = False
    expire_time: datetime | None = None


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


PUT: Final = """
    WITH session AS (
        SELECT user_id FROM live_sessions WHERE user_id = $1 AND session_id = $2
    ), seen AS (
        SELECT w.request_hash, w.revision, w.create_time, w.update_time
          FROM session s
          JOIN write_requests w ON w.user_id = s.user_id AND w.request_id = $3
    ), head AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS write_time
          FROM (SELECT c.user_id, c.revision + 1 AS revision, c.record_count
                  FROM user_counters c
                  JOIN session s ON s.user_id = c.user_id
                 WHERE NOT EXISTS (SELECT FROM seen)
                   FOR UPDATE OF c) AS locked
    ), put AS (
        INSERT INTO records AS r (user_id, collection, key, json, revision, create_time,
                                  update_time, expire_time)
        SELECT user_id, $5, $6, $7::jsonb, revision, write_time, write_time, $8::timestamptz
          FROM head
         WHERE record_count < $9
            OR EXISTS (SELECT FROM records WHERE user_id = $1 AND collection = $5 AND key = $6)
        ON CONFLICT (user_id, collection, key) DO UPDATE
           SET json = excluded.json, revision = excluded.revision,
               update_time = excluded.update_time, expire_time = excluded.expire_time,
               create_time = CASE WHEN r.expire_time <= now() THEN excluded.create_time
                                  ELSE r.create_time END
         WHERE NOT $10::boolean OR r.expire_time <= now()
        RETURNING r.revision, r.create_time, r.update_time, r.xmax = 0 AS made
    ), counted AS (
        UPDATE user_counters c
           SET revision = put.revision, record_count = c.record_count + put.made::integer
          FROM put WHERE c.user_id = $1
    ), remembered AS (
        INSERT INTO write_requests (user_id, request_id, request_hash, revision, create_time,
                                    update_time)
        SELECT $1, $3, $4, revision, create_time, update_time FROM put WHERE $3 IS NOT NULL
    )
    SELECT seen.request_hash, coalesce(put.revision, seen.revision) AS revision,
           coalesce(put.create_time, seen.create_time) AS create_time,
           coalesce(put.update_time, seen.update_time) AS update_time,
           head.record_count >= $9 AS at_quota
      FROM session
      LEFT JOIN seen ON true
      LEFT JOIN put ON true
      LEFT JOIN head ON true
"""

REPLACE: Final = """
    WITH session AS (
        SELECT user_id FROM live_sessions WHERE user_id = $1 AND session_id = $2
    ), seen AS (
        SELECT w.request_hash, w.revision, w.create_time, w.update_time
          FROM session s
          JOIN write_requests w ON w.user_id = s.user_id AND w.request_id = $3
    ), head AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS write_time
          FROM (SELECT c.user_id, c.revision + 1 AS revision
                  FROM user_counters c
                  JOIN session s ON s.user_id = c.user_id
                 WHERE NOT EXISTS (SELECT FROM seen)
                   FOR UPDATE OF c) AS locked
    ), put AS (
        UPDATE records r
           SET json = $7::jsonb, revision = head.revision, update_time = head.write_time,
               expire_time = $8
          FROM head
         WHERE r.user_id = $1 AND r.collection = $5 AND r.key = $6 AND r.revision = $9
           AND (r.expire_time IS NULL OR r.expire_time > now())
        RETURNING r.revision, r.create_time, r.update_time
    ), counted AS (
        UPDATE user_counters c SET revision = put.revision FROM put WHERE c.user_id = $1
    ), remembered AS (
        INSERT INTO write_requests (user_id, request_id, request_hash, revision, create_time,
                                    update_time)
        SELECT $1, $3, $4, revision, create_time, update_time FROM put WHERE $3 IS NOT NULL
    )
    SELECT seen.request_hash, coalesce(put.revision, seen.revision) AS revision,
           coalesce(put.create_time, seen.create_time) AS create_time,
           coalesce(put.update_time, seen.update_time) AS update_time
      FROM session
      LEFT JOIN seen ON true
      LEFT JOIN put ON true
"""


async def put(db: Database, caller: Caller, write: Write, request: Request) -> Written:
    """Make or replace a record. Raises SessionRevoked, RequestIdReused, RecordExists,
    RevisionMismatch, QuotaExceeded, and InvalidArgument for JSON that Postgres cannot hold.
    """
    named = (request.request_id, request.request_hash, write.collection, write.key, write.json)
    try:
        if write.if_revision is not None:
            row = await _once(db, REPLACE, caller, *named, write.expire_time, write.if_revision)
        else:
            quota = limits.RECORDS_PER_USER
            row = await _once(db, PUT, caller, *named, write.expire_time, quota, write.if_absent)
    except asyncpg.CheckViolationError as error:
        raise InvalidArgument(
            Violation("json", "JSON_TOO_LARGE", "must be at most 256 KiB in Postgres' own form")
        ) from error
    except (asyncpg.DataError, asyncpg.StatementTooComplexError) as error:
        raise InvalidArgument(
            Violation("json", "JSON_INVALID", "must be JSON that Postgres can keep")
        ) from error
    written = _answer(row, request)
    if written is not None:
        return written
    current = await _revision(db, caller, write.collection, write.key)
    if write.if_revision is not None:
        raise RevisionMismatch(current)
    # It may have been deleted since; 0 says so. `row` is there, or `_answer` would have raised.
    if write.if_absent and row and (current or not row["at_quota"]):
        raise RecordExists(current)
    raise QuotaExceeded(limits.RECORDS_PER_USER)


DELETE: Final = """
    WITH session AS (
        SELECT user_id FROM live_sessions WHERE user_id = $1 AND session_id = $2
    ), seen AS (
        SELECT w.request_hash, w.revision, w.create_time, w.update_time
          FROM session s
          JOIN write_requests w ON w.user_id = s.user_id AND w.request_id = $3
    ), head AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS write_time
          FROM (SELECT c.user_id, c.revision + 1 AS revision
                  FROM user_counters c
                  JOIN session s ON s.user_id = c.user_id
                 WHERE NOT EXISTS (SELECT FROM seen)
                   FOR UPDATE OF c) AS locked
    ), deleted AS (
        DELETE FROM records r USING head
         WHERE r.user_id = $1 AND r.collection = $5 AND r.key = $6
           AND ($7::bigint = 0 OR r.revision = $7)
           AND (r.expire_time IS NULL OR r.expire_time > now())
        RETURNING head.revision, r.create_time, head.write_time AS update_time
    ), outcome AS (
        SELECT revision, create_time, update_time FROM deleted
        UNION ALL
        -- That there was nothing to delete is an answer too, for a retry to get again.
        SELECT 0, write_time, write_time FROM head
         WHERE $8 AND NOT EXISTS (SELECT FROM deleted)
           AND NOT EXISTS (SELECT FROM records r
                            WHERE r.user_id = $1 AND r.collection = $5 AND r.key = $6
                              AND (r.expire_time IS NULL OR r.expire_time > now()))
    ), counted AS (
        UPDATE user_counters c
           SET revision = deleted.revision, record_count = c.record_count - 1
          FROM deleted WHERE c.user_id = $1
    ), remembered AS (
        INSERT INTO write_requests (user_id, request_id, request_hash, revision, create_time,
                                    update_time)
        SELECT $1, $3, $4, revision, create_time, update_time FROM outcome WHERE $3 IS NOT NULL
    )
    SELECT seen.request_hash, coalesce(outcome.revision, seen.revision) AS revision,
           coalesce(outcome.create_time, seen.create_time) AS create_time,
           coalesce(outcome.update_time, seen.update_time) AS update_time
      FROM session
      LEFT JOIN seen ON true
      LEFT JOIN outcome ON true
"""


@dataclass(frozen=True, slots=True)
class Deletion:
    """Which record is not to be, of any revision for `if_revision` 0."""

    collection: str
    key: str
    if_revision: int = 0
    allow_missing: bool = False


async def delete(db: Database, caller: Caller, deletion: Deletion, request: Request) -> Written:
    """Delete a record; revision 0 when there was none and that is allowed. Raises SessionRevoked,
    RequestIdReused, RecordNotFound, RevisionMismatch.
    """
    collection, key, if_revision = deletion.collection, deletion.key, deletion.if_revision
    named = (request.request_id, request.request_hash, collection, key)
    row = await _once(db, DELETE, caller, *named, if_revision, deletion.allow_missing)
    written = _answer(row, request)
    if written is not None:
        return written
    current = await _revision(db, caller, collection, key)
    if if_revision and current:
        raise RevisionMismatch(current)
    raise RecordNotFound(collection, key)


async def _once(
    db: Database, sql: str, caller: Caller, request_id: UUID | None, *args: object
) -> asyncpg.Record | None:
    """Run a write; once more when it may have waited for another with the same request_id.

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


def _answer(row: asyncpg.Record | None, request: Request) -> Written | None:
    """What was written, now or by the first try; None when a precondition did not hold."""
    if row is None:
        raise SessionRevoked
    if row["request_hash"] not in (None, request.request_hash):
        raise RequestIdReused
    if row["revision"] is None:
        return None
    return Written(row["revision"], row["create_time"], row["update_time"])


REVISION: Final = """
    SELECT r.revision
      FROM live_sessions s
      LEFT JOIN records r
        ON r.user_id = s.user_id AND r.collection = $3 AND r.key = $4
       AND (r.expire_time IS NULL OR r.expire_time > now())
     WHERE s.user_id = $1 AND s.session_id = $2
"""


async def _revision(db: Database, caller: Caller, collection: str, key: str) -> int:
    """The record's revision, 0 when there is none: only to say why a write did not happen."""
    row = await db.row(REVISION, caller.user_id, caller.session_id, collection, key)
    if row is None:
        raise SessionRevoked
    return row["revision"] or 0
