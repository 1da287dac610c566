"""Plain writes that are in flight at the same moment share one statement, and so one commit.

A write by itself costs Postgres and this process 0.4 ms; in company of fifteen, 0.1. Shared is what
is plain: a small value, without a precondition, and one write of each user. And only what can be
done at once is done: a user's counter that somebody else has locked is skipped, so no write waits
for a stranger's. What is not done is for the statement of the one write, which waits, and knows
what to say (record_writes.PUT).
"""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg

from service.domain import json_text, limits
from service.store import write_requests
from service.store.coalesce import Coalesced
from service.store.db import Database
from service.store.write_requests import Request

log = logging.getLogger("sixfold.store")

# Characters of JSON, as Postgres may write it: all in the statement wait for the largest of them.
LARGEST: Final = 16 * 1024
# Numbers with an exponent are written out.
_EXPONENT: Final = re.compile("[0-9][eE]")

# A row for each in order; without a revision where nothing was done. As in record_writes.PUT, the
# counter is locked first, and the rest is in the modifying clauses. (LATERAL with LIMIT: see
# records.GET.)
PUT: Final = """
    WITH asked AS MATERIALIZED (
        SELECT a.user_id, a.request_id, a.request_hash, a.collection, a.key, a.json, a.expire_time,
               a.position, s.user_id IS NOT NULL AS alive, seen.request_hash AS seen_hash,
               seen.revision AS seen_revision, seen.create_time AS seen_create_time,
               seen.update_time AS seen_update_time
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::text[], $6::text[],
                      $7::text[], $8::timestamptz[])
               WITH ORDINALITY AS a (user_id, session_id, request_id, request_hash, collection, key,
                                     json, expire_time, position)
          LEFT JOIN LATERAL (
              SELECT live.user_id FROM live_sessions live
               WHERE live.user_id = a.user_id AND live.session_id = a.session_id LIMIT 1
          ) AS s ON true
          LEFT JOIN LATERAL (
              SELECT w.request_hash, w.revision, w.create_time, w.update_time
                FROM write_requests w
               WHERE w.user_id = a.user_id AND w.request_id = a.request_id LIMIT 1
          ) AS seen ON true
    ), head AS MATERIALIZED (
        SELECT asked.user_id, asked.collection, asked.key, asked.json::jsonb AS json,
               asked.expire_time, c.revision + 1 AS revision, c.record_count,
               clock_timestamp() AS write_time
          FROM asked
         CROSS JOIN LATERAL (
              SELECT counter.revision, counter.record_count FROM user_counters counter
               WHERE counter.user_id = asked.user_id FOR UPDATE SKIP LOCKED
         ) AS c
         WHERE asked.alive AND asked.seen_revision IS NULL
    ), put AS (
        INSERT INTO records AS r (user_id, collection, key, json, revision, create_time,
                                  update_time, expire_time)
        SELECT user_id, collection, key, json, revision, write_time, write_time, expire_time
          FROM head
         WHERE record_count < $9
            -- Not EXISTS, for which a plan may read all records into a hash.
            OR (SELECT true FROM records r
                 WHERE r.user_id = head.user_id AND r.collection = head.collection
                   AND r.key = head.key)
        ON CONFLICT (user_id, collection, key) DO UPDATE
           SET json = excluded.json, revision = excluded.revision,
               update_time = excluded.update_time, expire_time = excluded.expire_time,
               create_time = CASE WHEN r.expire_time <= now() THEN excluded.create_time
                                  ELSE r.create_time END
        RETURNING r.user_id, r.revision, r.create_time, r.update_time, r.xmax = 0 AS made
    ), counted AS (
        UPDATE user_counters c
           SET revision = put.revision, record_count = c.record_count + put.made::integer
          FROM put
         -- The array, because a join planned for a small table would read a large one whole.
         WHERE c.user_id = ANY (ARRAY(SELECT user_id FROM put)) AND c.user_id = put.user_id
    ), remembered AS (
        INSERT INTO write_requests (user_id, request_id, request_hash, revision, create_time,
                                    update_time)
        SELECT user_id, request_id, request_hash, put.revision, put.create_time, put.update_time
          FROM put JOIN asked USING (user_id)
         WHERE request_id IS NOT NULL
    )
    SELECT asked.alive, asked.seen_hash AS request_hash,
           coalesce(put.revision, asked.seen_revision) AS revision,
           coalesce(put.create_time, asked.seen_create_time) AS create_time,
           coalesce(put.update_time, asked.seen_update_time) AS update_time
      FROM asked LEFT JOIN put USING (user_id)
     ORDER BY asked.position
"""

# Of the first eight parameters of PUT, one each.
Put: TypeAlias = tuple[UUID, UUID, UUID | None, bytes, str, str, str, datetime | None]
Rows: TypeAlias = Sequence[asyncpg.Record | None]


def is_small(json: str) -> bool:
    """Whether a value may be in others' company."""
    written_out = json_text.MAX_DIGITS * len(_EXPONENT.findall(json))
    return len(json) <= LARGEST and len(json) + written_out <= LARGEST


async def put(
    db: Database, put: Put, request: Request, alone: Callable[[], Awaitable[asyncpg.Record]]
) -> asyncpg.Record:
    """The row of a write, as `write_requests.once` has it: of a statement for all that are in
    flight, or of `alone`, its own. The caller keeps the user's lane: two writes of one user never
    meet in here. Raises SessionRevoked, RequestIdReused, and what `alone` raises.
    """
    together = db.coalesced(PUT, lambda: Coalesced(partial(_together, db)))
    row = await together.ask(put)
    if row is None or (row["alive"] and row["revision"] is None):
        return await alone()
    return write_requests.judged(row if row["alive"] else None, request)


async def _together(db: Database, puts: Sequence[Put]) -> Rows:
    columns = map(list, zip(*puts, strict=True))
    try:
        return await db.write_all(PUT, *columns, limits.RECORDS_PER_USER)
    except asyncpg.PostgresError as error:  # one spoils it, and nothing was written
        log.info("%d writes are done one by one: %s", len(puts), type(error).__name__)
        return [None] * len(puts)
