"""Plain writes that are in flight at the same moment share one statement, and so one commit.

A write by itself costs Postgres and this process 0.4 ms; in company of fifteen, 0.1. Shared is what
is plain: a small value, without a precondition, and one write of each user. And only what can be
done at once is done: a user's counter that somebody else has locked is skipped, so nobody waits for
a stranger's user, and no two such statements for each other. All the rest is for the statement of
the one write, which waits, and knows what to say (record_writes.PUT).
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg

from service.domain import limits
from service.store.coalesce import Coalesced
from service.store.db import Database

# Bytes of JSON. Sixty-four of them are a mebibyte on their way to Postgres.
LARGEST: Final = 16 * 1024

# Answers each in order, NULL where nothing was done. As in record_writes.PUT, the counter is locked
# first, and the rest is in the modifying clauses.
PUT: Final = """
    WITH asked AS (
        SELECT user_id, session_id, request_id, request_hash, collection, key, json, expire_time,
               position
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::text[], $6::text[],
                      $7::text[], $8::timestamptz[])
               WITH ORDINALITY AS asked (user_id, session_id, request_id, request_hash, collection,
                                         key, json, expire_time, position)
    ), head AS MATERIALIZED (
        SELECT locked.*, clock_timestamp() AS write_time
          FROM (SELECT c.user_id, c.revision + 1 AS revision, c.record_count,
                       asked.collection, asked.key, asked.json::jsonb AS json, asked.expire_time
                  FROM asked
                 CROSS JOIN LATERAL (
                      SELECT live.user_id FROM live_sessions live
                       WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id
                       LIMIT 1
                 ) AS s
                  JOIN user_counters c ON c.user_id = s.user_id
                 WHERE NOT EXISTS (SELECT FROM write_requests w
                                    WHERE w.user_id = asked.user_id
                                      AND w.request_id = asked.request_id)
                   FOR UPDATE OF c SKIP LOCKED) AS locked
    ), put AS (
        INSERT INTO records AS r (user_id, collection, key, json, revision, create_time,
                                  update_time, expire_time)
        SELECT user_id, collection, key, json, revision, write_time, write_time, expire_time
          FROM head
         WHERE record_count < $9
            OR EXISTS (SELECT FROM records r
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
          FROM put WHERE c.user_id = put.user_id
    ), remembered AS (
        INSERT INTO write_requests (user_id, request_id, request_hash, revision, create_time,
                                    update_time)
        SELECT user_id, request_id, request_hash, put.revision, put.create_time, put.update_time
          FROM put JOIN asked USING (user_id)
         WHERE request_id IS NOT NULL
    )
    SELECT put.revision, put.create_time, put.update_time
      FROM asked LEFT JOIN put USING (user_id)
     ORDER BY asked.position
"""

# Of the first eight parameters of PUT, one each.
Put: TypeAlias = tuple[UUID, UUID, UUID | None, bytes, str, str, str, datetime | None]
Alone: TypeAlias = Callable[[], Awaitable[asyncpg.Record]]


class _Question(NamedTuple):
    put: Put
    alone: Alone


async def put(db: Database, put: Put, alone: Alone) -> asyncpg.Record:
    """The row of a write that shared a statement with others, or else of `alone`, the one that is
    for it alone. The caller keeps the user's lane: two writes of one user never meet in here.
    """
    together = db.coalesced(PUT, lambda: Coalesced(partial(_together, db), costly=True))
    row = await together.ask(_Question(put, alone))
    return row if row is not None else await alone()


async def _together(
    db: Database, questions: Sequence[_Question]
) -> Sequence[asyncpg.Record | None]:
    if len(questions) == 1:
        return [await questions[0].alone()]
    columns = zip(*(question.put for question in questions), strict=True)
    try:
        rows = await db.write_all(PUT, *map(list, columns), limits.RECORDS_PER_USER)
    except asyncpg.PostgresError:  # one spoils it, and nothing was written
        return [None] * len(questions)
    return [None if row["revision"] is None else row for row in rows]
