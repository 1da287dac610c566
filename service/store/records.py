"""The records table, read. Every statement starts at the caller's live session, so none can be run
for a session that has ended or for another user's rows. record_writes.py and record_deletes.py
change it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

import asyncpg

from service.domain import limits
from service.domain.errors import RecordNotFound, SessionRevoked
from service.domain.models import Caller, Record, User
from service.store.db import Database


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of `user`, and whether there are more after the last."""

    user: User
    revision: int
    records: list[Record]
    more: bool


# LATERAL with a LIMIT is an index lookup for each question whatever the planner thinks: as plain
# joins it reads whole tables while statistics are young (2.7 ms instead of 0.2 for one question).
GET: Final = """
    SELECT r.collection, r.key, r.json, r.revision, r.create_time, r.update_time, r.expire_time,
           s.user_id IS NOT NULL AS alive
      FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
           WITH ORDINALITY AS asked (user_id, session_id, collection, key, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
      LEFT JOIN LATERAL (
          SELECT rec.collection, rec.key, rec.json::text AS json, rec.revision, rec.create_time,
                 rec.update_time, rec.expire_time
            FROM records rec
           WHERE rec.user_id = s.user_id AND rec.collection = asked.collection
             AND rec.key = asked.key AND (rec.expire_time IS NULL OR rec.expire_time > now())
           LIMIT 1
      ) AS r ON true
     ORDER BY asked.position
"""


async def get(db: Database, caller: Caller, collection: str, key: str) -> Record:
    """One record. Raises SessionRevoked, RecordNotFound."""
    row = await db.shared(GET, caller.user_id, caller.session_id, collection, key)
    if not row["alive"]:
        raise SessionRevoked
    if row["revision"] is None:
        raise RecordNotFound(collection, key)
    return _record(row)


# A row for each name, in order: no revision where there is no record, no json where the answer is
# full (the size is in the row, so a large value is not even fetched). Names come as lines, as they
# hold no control characters, and times go as Postgres sends them: asyncpg spends more on arrays of
# text and on datetimes than on all the rest.
BATCH_GET: Final = """
    SELECT CASE WHEN sum(r.size) OVER (ORDER BY asked.position) - r.size < $5
                THEN r.json::text END AS json,
           r.revision,
           timestamptz_send(r.create_time) || timestamptz_send(r.update_time) AS times,
           r.expire_time
      FROM live_sessions s
     CROSS JOIN unnest(string_to_array($3, chr(10)), string_to_array($4, chr(10)))
           WITH ORDINALITY AS asked (collection, key, position)
      LEFT JOIN LATERAL (
          SELECT rec.json, rec.size, rec.revision, rec.create_time, rec.update_time,
                 rec.expire_time
            FROM records rec
           WHERE rec.user_id = s.user_id AND rec.collection = asked.collection
             AND rec.key = asked.key AND (rec.expire_time IS NULL OR rec.expire_time > now())
           LIMIT 1
      ) AS r ON true
     WHERE s.user_id = $1 AND s.session_id = $2
     ORDER BY asked.position
"""

# json, revision, create and update time in microseconds since EPOCH, expire time. A tuple, because
# to make a hundred Records costs half as much as to read them.
Answer: TypeAlias = tuple[str | None, int, int, int, datetime | None]
EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # where Postgres counts from

_two_times: Final = struct.Struct(">qq").unpack


async def batch_get(
    db: Database, caller: Caller, names: Sequence[tuple[str, str]]
) -> list[Answer | None]:
    """What there is of each of one or more names (collection, key): None for no record; no json for
    one beyond limits.PAGE_BYTES of values, which is never the first. Raises SessionRevoked.
    """
    lines = map("\n".join, zip(*names, strict=True))
    rows = await db.rows(BATCH_GET, caller.user_id, caller.session_id, *lines, limits.PAGE_BYTES)
    if not rows:
        raise SessionRevoked
    return [
        None if revision is None else (json, revision, *_two_times(times), expire_time)
        for json, revision, times, expire_time in rows
    ]


# `found` counts the page before it is cut at the byte budget; a cut leaves fewer rows than found.
PAGE: Final = """
    SELECT p.collection, p.key, p.json::text AS json, p.revision, p.create_time, p.update_time,
           p.expire_time, p.found, s.user_id, s.username, s.create_time AS user_create_time,
           s.update_time AS user_update_time, c.revision AS user_revision
      FROM live_sessions s
      JOIN user_counters c ON c.user_id = s.user_id
      LEFT JOIN LATERAL (
          SELECT page.*, count(*) OVER () AS found,
                 sum(page.size) OVER (ORDER BY page.collection, page.key) - page.size AS before
            FROM (SELECT r.collection, r.key, r.json, r.size, r.revision, r.create_time,
                         r.update_time, r.expire_time
                    FROM records r
                   WHERE r.user_id = s.user_id AND (r.collection, r.key) > ($3, $4)
                     AND (r.expire_time IS NULL OR r.expire_time > now())
                   ORDER BY r.collection, r.key LIMIT $5) AS page
      ) AS p ON p.before < $6
     WHERE s.user_id = $1 AND s.session_id = $2
     ORDER BY p.collection, p.key
"""

PAGE_OF_COLLECTION: Final = """
    SELECT p.collection, p.key, p.json::text AS json, p.revision, p.create_time, p.update_time,
           p.expire_time, p.found, s.user_id, s.username, s.create_time AS user_create_time,
           s.update_time AS user_update_time, c.revision AS user_revision
      FROM live_sessions s
      JOIN user_counters c ON c.user_id = s.user_id
      LEFT JOIN LATERAL (
          SELECT page.*, count(*) OVER () AS found,
                 sum(page.size) OVER (ORDER BY page.key) - page.size AS before
            FROM (SELECT r.collection, r.key, r.json, r.size, r.revision, r.create_time,
                         r.update_time, r.expire_time
                    FROM records r
                   WHERE r.user_id = s.user_id AND r.collection = $3 AND r.key > $4
                     AND (r.expire_time IS NULL OR r.expire_time > now())
                   ORDER BY r.key LIMIT $5) AS page
      ) AS p ON p.before < $6
     WHERE s.user_id = $1 AND s.session_id = $2
     ORDER BY p.key
"""


async def page(
    db: Database, caller: Caller, collection: str, after: tuple[str, str], size: int
) -> Page:
    """Up to `size` records after the position `after` (collection, key), of one collection or, for
    an empty name, of all. Cut earlier at limits.PAGE_BYTES of values. Raises SessionRevoked.
    """
    sql = PAGE_OF_COLLECTION if collection else PAGE
    start = (collection, after[1]) if collection else after
    rows = await db.rows(
        sql, caller.user_id, caller.session_id, *start, size + 1, limits.PAGE_BYTES
    )
    if not rows:
        raise SessionRevoked
    first = rows[0]
    user = User(
        first["user_id"], first["username"], first["user_create_time"], first["user_update_time"]
    )
    found = first["found"] or 0
    records = [_record(row) for row in rows[:size]] if found else []
    return Page(user, first["user_revision"], records, more=found > len(records))


def _record(row: asyncpg.Record) -> Record:
    """Of a row that starts with a Record's fields, in their order."""
    return Record._make(row[:7])
