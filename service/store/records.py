"""The records table, read. Every statement starts at the caller's live session, so none can be run
for a session that has ended or for another user's rows. record_writes.py and record_deletes.py
change it.

Each answers a question with one row, however many records it is about, and each record with the
bytes it is sent in. asyncpg spends more on a row for each record, with its datetimes, than Postgres
on finding it. (An aggregate takes its rows in the order of the subquery it is over.)

Many records are cut at a budget of bytes, so that an answer has a bound. To find the place takes
Postgres half as long again. So first the small values are read, and only where those are not all
is it found. (Small is what the budget has room for as often as there may be records.)
"""

from collections import defaultdict
from collections.abc import Sequence
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
    SELECT s.user_id IS NOT NULL AS alive, r.message
      FROM unnest(string_to_array($1, chr(10))::uuid[], string_to_array($2, chr(10))::uuid[],
                  string_to_array($3, chr(10)), string_to_array($4, chr(10)))
           WITH ORDINALITY AS asked (user_id, session_id, collection, key, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
      LEFT JOIN LATERAL (
          SELECT rec.message
            FROM records rec
           WHERE rec.user_id = s.user_id AND rec.collection = asked.collection
             AND rec.key = asked.key AND (rec.expire_time IS NULL OR rec.expire_time > now())
           LIMIT 1
      ) AS r ON true
     ORDER BY asked.position
"""


async def get(db: Database, caller: Caller, collection: str, key: str) -> Record:
    """One record. Raises SessionRevoked, RecordNotFound."""
    row = await db.shared(GET, *caller.ids, collection, key)
    message: Record | None = row["message"]
    if message is None:
        raise RecordNotFound(collection, key) if row["alive"] else SessionRevoked
    return message


# A question has its keys by collection, because one scan of the index for each collection takes a
# third of a lookup for each name; so records come with their names, and in any order. Names are a
# line: a unit separator (31) is in or between them, a record separator (30) between groups of them.
# Where a value is larger than every one may be (`most`), `cut` has a place for each of `names` in
# order: NULL where there is no record, nothing where the answer is full.
BATCH_GET: Final = """
    SELECT s.user_id IS NOT NULL AS alive, answer.names, answer.messages, answer.cut
      FROM unnest(string_to_array($1, chr(10))::uuid[], string_to_array($2, chr(10))::uuid[],
                  string_to_array($3, chr(10)), string_to_array($4, chr(10)),
                  string_to_array($5, chr(10)), string_to_array($6, chr(10))::integer[],
                  string_to_array($7, chr(10))::integer[])
           WITH ORDINALITY
           AS asked (user_id, session_id, collections, keys, names, most, budget, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
     CROSS JOIN LATERAL (
          WITH found AS MATERIALIZED (
              SELECT named.collection || chr(31) || r.key AS name, r.size, r.message
                FROM unnest(string_to_array(asked.collections, chr(31)),
                            string_to_array(asked.keys, chr(30))) AS named (collection, keys)
               CROSS JOIN LATERAL (
                    SELECT rec.key, rec.size, rec.message
                      FROM records rec
                     WHERE rec.user_id = s.user_id AND rec.collection = named.collection
                       AND rec.key = ANY (string_to_array(named.keys, chr(31)))
                       AND (rec.expire_time IS NULL OR rec.expire_time > now())
                    OFFSET 0 -- or it becomes a join, and that a scan of the table
               ) AS r
          )
          SELECT string_agg(name, chr(30)) AS names,
                 array_agg(CASE WHEN size <= asked.most THEN message END) AS messages,
                 CASE WHEN max(size) > asked.most THEN (
                     SELECT array_agg(CASE WHEN before < asked.budget THEN message
                                           WHEN message IS NOT NULL THEN '' END)
                       FROM (
                           SELECT found.message,
                                  sum(found.size) OVER (ORDER BY asked_for.position
                                                        ROWS UNBOUNDED PRECEDING)
                                  - found.size AS before
                             FROM unnest(string_to_array(asked.names, chr(30)))
                                  WITH ORDINALITY AS asked_for (name, position)
                             LEFT JOIN found USING (name)
                            ORDER BY asked_for.position
                       ) AS each
                 ) END AS cut
            FROM found
      ) AS answer
     ORDER BY asked.position
"""


async def batch_get(
    db: Database, caller: Caller, names: Sequence[tuple[str, str]]
) -> list[Record | None]:
    """What there is of each of one or more names (collection, key): None for no record, no bytes
    for one beyond limits.PAGE_BYTES of values, which is never the first. Raises SessionRevoked.
    """
    asked = list(map("\x1f".join, names))
    keys = defaultdict[str, list[str]](list)
    for collection, key in names:
        keys[collection].append(key)
    alive, found, messages, cut = await db.shared(
        BATCH_GET,
        *caller.ids,
        "\x1f".join(keys),
        "\x1e".join(map("\x1f".join, keys.values())),
        "\x1e".join(asked),
        str(limits.PAGE_BYTES // len(names)),
        str(limits.PAGE_BYTES),
        width=_LARGE,
    )
    if not alive:
        raise SessionRevoked
    if cut is not None:
        return list(cut)
    records = dict(zip(found.split("\x1e"), messages, strict=True)) if found else {}
    return list(map(records.get, asked))


class Page(NamedTuple):
    """Some records of `user`, and whether there are more after the last."""

    user: User
    revision: int
    records: list[Record]
    more: bool


_PAGE_ROWS: Final = """
          SELECT r.collection, r.key, r.size, r.message
            FROM records r
           WHERE r.user_id = s.user_id
             AND (r.collection, r.key) > (asked.collection, asked.key)
             AND r.collection <= asked.last
             AND (r.expire_time IS NULL OR r.expire_time > now())
           ORDER BY r.collection, r.key LIMIT asked.size
"""
# One record more than the page has, to know whether it is the last; and none where it is full. (To
# keep the rows for a second look would take a fifth more, every time.)
PAGE: Final = f"""
    SELECT s.user_id, s.username, s.create_time, s.update_time, c.revision,
           CASE WHEN p.fits IS NOT FALSE THEN p.messages ELSE (
               SELECT array_agg(CASE WHEN before < asked.budget THEN message END)
                 FROM (
                     SELECT page.message,
                            sum(page.size) OVER (ORDER BY page.collection, page.key
                                                 ROWS UNBOUNDED PRECEDING) - page.size AS before
                       FROM ({_PAGE_ROWS}) AS page
                      ORDER BY page.collection, page.key
                 ) AS counted
           ) END AS messages
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
     CROSS JOIN LATERAL (
          SELECT array_agg(CASE WHEN page.size <= asked.budget / (asked.size - 1)
                                THEN page.message END) AS messages,
                 max(page.size) <= asked.budget / (asked.size - 1) AS fits
            FROM ({_PAGE_ROWS}) AS page
      ) AS p
     ORDER BY asked.position
"""  # noqa: S608 - of constants

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
    *user, revision, messages = row
    found = messages or []
    records = [message for message in found[:size] if message is not None]
    return Page(User(*user), revision, records, more=len(found) > len(records))
