"""The records table, written to: one statement that checks the session, remembers the request_id,
and writes; run again when nothing was written, to be sure and to say why. Plain writes are tried in
company first: shared_puts.py.

A write locks the user's counter first, which puts all writes of one user in one order. In READ
COMMITTED the other parts of the same statement keep the snapshot from before that wait, so what
must hold is written into the modifying part itself (ON CONFLICT, or UPDATE's own WHERE), which
Postgres checks on the newest row. See docs/decisions.md.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from service.domain import limits
from service.domain.errors import (
    InvalidArgument,
    QuotaExceeded,
    RecordExists,
    RevisionMismatch,
    Violation,
)
from service.domain.models import Caller
from service.store import shared_puts, write_requests
from service.store.db import Database
from service.store.write_requests import Request, Written


@dataclass(frozen=True, slots=True)
class Write:
    """A record as it is to be. At most one of `if_revision` and `if_absent` is set."""

    collection: str
    key: str
    json: str
    if_revision: int | None = None
    if_absent: bool = False
    expire_time: datetime | None = None


PUT: Final = """
    WITH session AS (
        SELECT user_id FROM live_sessions WHERE user_id = $1 AND session_id = $2
    ), seen AS (
        SELECT w.request_hash, w.revision, w.create_time, w.update_time
          FROM session s
          JOIN write_requests w ON w.user_id = $1 AND w.request_id = $3
    ), head AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS write_time
          FROM (SELECT c.user_id, c.revision + 1 AS revision, c.record_count
                  FROM user_counters c
                  JOIN session s ON c.user_id = $1
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
           head.record_count >= $9 AS at_quota,
           (SELECT r.revision FROM records r
             WHERE r.user_id = $1 AND r.collection = $5 AND r.key = $6
               AND (r.expire_time IS NULL OR r.expire_time > now())) AS current_revision
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
          JOIN write_requests w ON w.user_id = $1 AND w.request_id = $3
    ), head AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS write_time
          FROM (SELECT c.user_id, c.revision + 1 AS revision
                  FROM user_counters c
                  JOIN session s ON c.user_id = $1
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
           coalesce(put.update_time, seen.update_time) AS update_time,
           (SELECT r.revision FROM records r
             WHERE r.user_id = $1 AND r.collection = $5 AND r.key = $6
               AND (r.expire_time IS NULL OR r.expire_time > now())) AS current_revision
      FROM session
      LEFT JOIN seen ON true
      LEFT JOIN put ON true
"""


async def put(db: Database, caller: Caller, write: Write, request: Request) -> Written:
    """Make or replace a record. Raises SessionRevoked, RequestIdReused, RecordExists,
    RevisionMismatch, QuotaExceeded, and InvalidArgument for JSON that Postgres cannot hold.
    """
    try:
        async with db.lanes.of(caller.user_id):
            row = await _row(db, caller, write, request)
    except asyncpg.CheckViolationError as error:
        raise InvalidArgument(
            Violation("json", "JSON_TOO_LARGE", "must be at most 256 KiB in Postgres' own form")
        ) from error
    except (asyncpg.DataError, asyncpg.StatementTooComplexError) as error:
        raise InvalidArgument(
            Violation("json", "JSON_INVALID", "must be JSON that Postgres can keep")
        ) from error
    if row["revision"] is not None:
        return Written(row["revision"], row["create_time"], row["update_time"])
    current = row["current_revision"] or 0
    if write.if_revision is not None:
        raise RevisionMismatch(current)
    # It may have been deleted since; 0 says so.
    if write.if_absent and (current or not row["at_quota"]):
        raise RecordExists(current)
    raise QuotaExceeded(limits.RECORDS_PER_USER)


async def _row(db: Database, caller: Caller, write: Write, request: Request) -> asyncpg.Record:
    value = (write.collection, write.key, write.json, write.expire_time)

    def alone() -> Awaitable[asyncpg.Record]:
        if write.if_revision is not None:
            return write_requests.once(db, REPLACE, caller, request, *value, write.if_revision)
        quota = limits.RECORDS_PER_USER
        return write_requests.once(db, PUT, caller, request, *value, quota, write.if_absent)

    plain = write.if_revision is None and not write.if_absent
    if not plain or not shared_puts.is_small(write.json):
        return await alone()
    who = caller.user_id, caller.session_id, request.request_id, request.request_hash
    return await shared_puts.put(db, (*who, *value), request, alone)
