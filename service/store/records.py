"""The records table, read. Every statement starts at the caller's live session, so none can be run
for a session that has ended or for another user's rows. record_writes.py and record_deletes.py
change it.

Each answers a question with one row, however many records it is about: names and values as lines
of text, which have no line breaks (the contract has no control characters in names, and jsonb's
text has them escaped), and beside them each record's stamps. asyncpg spends more on a row for each
record, with its datetimes, than Postgres on finding it. (An aggregate takes its rows in the order
of the subquery it is over.)
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from service.domain import limits
from service.domain.errors import RecordNotFound, SessionRevoked
from service.domain.models import Caller, Record, User
from service.store.db import Database

# Answers of up to limits.PAGE_BYTES in one statement: together twice the bytes of the most single
# records of the largest size. With half as many a page costs 4 µs more.
_LARGE: Final = 32

# LATERAL with a LIMIT is an index lookup for each question whatever the planner thinks: as plain
# joins it reads whole tables while statistics are young (2.7 ms instead of 0.2 for one question).
GET: Final = """
    SELECT s.user_id IS NOT NULL AS alive, r.json, r.stamps
      FROM unnest(string_to_array($1, chr(10))::uuid[], string_to_array($2, chr(10))::uuid[],
                  string_to_array($3, chr(10)), string_to_array($4, chr(10)))
           WITH ORDINALITY AS asked (user_id, session_id, collection, key, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
      LEFT JOIN LATERAL (
          SELECT rec.json::text AS json, rec.stamps
            FROM records rec
           WHERE rec.user_id = s.user_id AND rec.collection = asked.collection
             AND rec.key = asked.key AND (rec.expire_time IS NULL OR rec.expire_time > now())
           LIMIT 1
      ) AS r ON true
     ORDER BY asked.position
"""


async def get(db: Database, caller: Caller, collection: str, key: str) -> Record:
    """One record. Raises SessionRevoked, RecordNotFound."""
    alive, json, stamps = await db.shared(GET, *caller.ids, collection, key)
    if json is None:
        raise RecordNotFound(collection, key) if alive else SessionRevoked
    return collection.encode(), key.encode(), json.encode(), stamps


# Of each name in order: no stamps where there is no record, no json where the answer is full (the
# size is in the row, so a large value is not even fetched). A question's names are one line, with a
# unit separator (31) between them.
BATCH_GET: Final = """
    SELECT s.user_id IS NOT NULL AS alive, found.jsons, found.stamps
      FROM unnest(string_to_array($1, chr(10))::uuid[], string_to_array($2, chr(10))::uuid[],
                  string_to_array($3, chr(10)), string_to_array($4, chr(10)),
                  string_to_array($5, chr(10))::integer[])
           WITH ORDINALITY AS asked (user_id, session_id, collections, keys, budget, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
     CROSS JOIN LATERAL (
          SELECT string_agg(CASE WHEN before < asked.budget THEN json::text ELSE '' END, chr(10))
                 AS jsons,
                 array_agg(coalesce(stamps, '')) AS stamps
            FROM (
                SELECT r.json, r.stamps,
                       sum(r.size) OVER (ORDER BY name.position ROWS UNBOUNDED PRECEDING)
                       - r.size AS before
                  FROM unnest(string_to_array(asked.collections, chr(31)),
                              string_to_array(asked.keys, chr(31)))
                       WITH ORDINALITY AS name (collection, key, position)
                  LEFT JOIN LATERAL (
                      SELECT rec.json, rec.size, rec.stamps
                        FROM records rec
                       WHERE rec.user_id = s.user_id AND rec.collection = name.collection
                         AND rec.key = name.key
                         AND (rec.expire_time IS NULL OR rec.expire_time > now())
                       LIMIT 1
                  ) AS r ON true
                 ORDER BY name.position
            ) AS each
      ) AS found
     ORDER BY asked.position
"""


async def batch_get(
    db: Database, caller: Caller, names: Sequence[tuple[str, str]]
) -> Iterator[Record]:
    """What there is of each of one or more names (collection, key): no stamps for no record, no
    json for one beyond limits.PAGE_BYTES of values, which is never the first. Raises
    SessionRevoked.
    """
    collections, keys = map("\x1f".join, zip(*names, strict=True))
    question = (*caller.ids, collections, keys, str(limits.PAGE_BYTES))
    alive, jsons, stamps = await db.shared(BATCH_GET, *question, width=_LARGE)
    if not alive:
        raise SessionRevoked
    return _records(_split(collections, b"\x1f"), _split(keys, b"\x1f"), jsons, stamps)


class Page(NamedTuple):
    """Some records of `user`, and whether there are more after the last."""

    user: User
    revision: int
    records: list[Record]
    more: bool


# One record more than the page has, to know whether it is the last; and no json beyond the budget.
PAGE: Final = """
    SELECT s.user_id, s.username, s.create_time, s.update_time, c.revision,
           p.collections, p.keys, p.jsons, p.stamps
      FROM unnest(string_to_array($1, chr(10))::uuid[], string_to_array($2, chr(10))::uuid[],
                  string_to_array($3, chr(10)), string_to_array($4, chr(10)),
                  string_to_array($5, chr(10)), string_to_array($6, chr(10))::integer[],
                  string_to_array($7, chr(10))::integer[])
           WITH ORDINALITY
           AS asked (user_id, session_id, collection, key, last, size, budget, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id, live.username, live.create_time, live.update_time
            FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
      LEFT JOIN LATERAL (
          SELECT counter.revision FROM user_counters counter
           WHERE counter.user_id = s.user_id LIMIT 1
      ) AS c ON true
      LEFT JOIN LATERAL (
          SELECT string_agg(collection, chr(10)) AS collections,
                 string_agg(key, chr(10)) AS keys,
                 string_agg(CASE WHEN before < asked.budget THEN json::text ELSE '' END, chr(10))
                 AS jsons,
                 array_agg(stamps) AS stamps
            FROM (
                SELECT page.*,
                       sum(page.size) OVER (ORDER BY page.collection, page.key
                                            ROWS UNBOUNDED PRECEDING) - page.size AS before
                  FROM (SELECT r.collection, r.key, r.json, r.size, r.stamps
                          FROM records r
                         WHERE r.user_id = s.user_id
                           AND (r.collection, r.key) > (asked.collection, asked.key)
                           AND r.collection <= asked.last
                           AND (r.expire_time IS NULL OR r.expire_time > now())
                         ORDER BY r.collection, r.key LIMIT asked.size) AS page
                 ORDER BY page.collection, page.key
            ) AS counted
      ) AS p ON true
     ORDER BY asked.position
"""

# Before every name and after every collection, in byte order: names have no control characters, and
# collections no tilde. Nothing is empty, because an empty text is no lines and not one.
_FIRST: Final = "\x01"
_LAST_COLLECTION: Final = "~"


async def page(
    db: Database, caller: Caller, collection: str, after: tuple[str, str], size: int
) -> Page:
    """Up to `size` records after the position `after` (collection, key), of one collection or, for
    an empty name, of all. Cut earlier at limits.PAGE_BYTES of values. Raises SessionRevoked.
    """
    question = (
        *caller.ids,
        collection or after[0] or _FIRST,
        after[1] or _FIRST,
        collection or _LAST_COLLECTION,
        str(size + 1),
        str(limits.PAGE_BYTES),
    )
    # Who reads much holds up nobody who reads little.
    few = size <= limits.PAGE_SIZE_DEFAULT
    row = await (db.shared(PAGE, *question, width=_LARGE) if few else db.row(PAGE, *question))
    if row is None or row["user_id"] is None:
        raise SessionRevoked
    *user, revision, collections, keys, jsons, stamps = row
    if keys is None:
        return Page(User(*user), revision, [], more=False)
    found = list(_records(_split(collections, b"\n"), _split(keys, b"\n"), jsons, stamps))
    records = [record for record in found[:size] if record[2]]
    return Page(User(*user), revision, records, more=len(found) > len(records))


def _records(
    collections: list[bytes], keys: list[bytes], jsons: str, stamps: list[bytes]
) -> Iterator[Record]:
    return zip(collections, keys, _split(jsons, b"\n"), stamps, strict=True)


def _split(lines: str, at: bytes) -> list[bytes]:
    return lines.encode().split(at)
