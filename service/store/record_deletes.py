"""The records table, deleted from, as record_writes.py writes to it."""

from dataclasses import dataclass
from typing import Final

from service.domain.errors import RecordNotFound, RevisionMismatch
from service.domain.models import Caller
from service.store import write_requests
from service.store.db import Database
from service.store.write_requests import Request, Written


@dataclass(frozen=True, slots=True)
class Deletion:
    """Which record is not to be, of any revision for `if_revision` 0."""

    collection: str
    key: str
    if_revision: int = 0
    allow_missing: bool = False


DELETE: Final = """
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
           coalesce(outcome.update_time, seen.update_time) AS update_time,
           (SELECT r.revision FROM records r
             WHERE r.user_id = $1 AND r.collection = $5 AND r.key = $6
               AND (r.expire_time IS NULL OR r.expire_time > now())) AS current_revision
      FROM session
      LEFT JOIN seen ON true
      LEFT JOIN outcome ON true
"""


async def delete(db: Database, caller: Caller, deletion: Deletion, request: Request) -> Written:
    """Delete a record; revision 0 when there was none and that is allowed. Raises SessionRevoked,
    RequestIdReused, RecordNotFound, RevisionMismatch.
    """
    named = (deletion.collection, deletion.key, deletion.if_revision, deletion.allow_missing)
    async with db.lanes.of(caller.user_id):
        row = await write_requests.once(db, DELETE, caller, request, *named)
    if row["revision"] is not None:
        return Written(row["revision"], row["create_time"], row["update_time"])
    if deletion.if_revision and row["current_revision"]:
        raise RevisionMismatch(row["current_revision"])
    raise RecordNotFound(deletion.collection, deletion.key)
