"""Removing what nobody can see any more. Any process does it, none is special: rows that another is
at work on are skipped, and a batch that fails is left for the next round.
"""

import asyncio
import logging
import random
from typing import Final

from service.domain import limits
from service.domain.errors import DomainError
from service.store.db import Database

log = logging.getLogger("sixfold.janitor")

INTERVAL_SECONDS: Final = 60.0
BATCH: Final = 500  # rows a statement: short locks

# Counters are locked before records, as every write does, so the two cannot deadlock.
RECORDS: Final = """
    WITH due AS (
        SELECT user_id, collection, key FROM records WHERE expire_time <= now() LIMIT $1
    ), head AS MATERIALIZED (
        SELECT c.user_id FROM user_counters c
         WHERE c.user_id IN (SELECT user_id FROM due)
           FOR UPDATE OF c SKIP LOCKED
    ), gone AS (
        DELETE FROM records r USING head, due
         WHERE r.user_id = head.user_id AND due.user_id = head.user_id
           AND r.collection = due.collection AND r.key = due.key AND r.expire_time <= now()
        RETURNING r.user_id
    ), tally AS (
        SELECT user_id, count(*)::integer AS rows FROM gone GROUP BY user_id
    ), counted AS (
        UPDATE user_counters c SET record_count = c.record_count - tally.rows
          FROM tally WHERE c.user_id = tally.user_id
    )
    SELECT count(*) AS rows FROM gone
"""

SESSIONS: Final = """
    WITH gone AS (
        DELETE FROM sessions
         WHERE (user_id, session_id) IN (
             SELECT user_id, session_id FROM sessions
              WHERE expire_time <= now() - $2::interval OR end_time <= now() - $2::interval
              LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) AS rows FROM gone
"""

WRITE_REQUESTS: Final = """
    WITH gone AS (
        DELETE FROM write_requests
         WHERE (user_id, request_id) IN (
             SELECT user_id, request_id FROM write_requests
              WHERE update_time <= now() - $2::interval
              LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) AS rows FROM gone
"""

# A throttle that has been left alone for a day has let its last wait pass long ago.
LOGIN_THROTTLES: Final = """
    WITH gone AS (
        DELETE FROM login_throttles
         WHERE subject IN (
             SELECT subject FROM login_throttles
              WHERE update_time <= now() - interval '1 day'
              LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) AS rows FROM gone
"""

# With a margin of a day: an expired key is refused by every process long before.
SIGNING_KEYS: Final = """
    WITH gone AS (
        DELETE FROM signing_keys WHERE expire_time <= now() - interval '1 day' RETURNING 1)
    SELECT count(*) AS rows FROM gone
"""


SWEEPS: Final[tuple[tuple[str, tuple[object, ...]], ...]] = (
    (RECORDS, (BATCH,)),
    (SESSIONS, (BATCH, limits.SESSION_MEMORY)),
    (WRITE_REQUESTS, (BATCH, limits.REQUEST_ID_MEMORY)),
    (LOGIN_THROTTLES, (BATCH,)),
    (SIGNING_KEYS, ()),
)


async def sweep(db: Database) -> None:
    """Remove everything that is due, a batch a statement. A table that fails holds up no other."""
    for sql, args in SWEEPS:
        try:
            while (await _removed(db, sql, args)) >= BATCH:
                pass
        except DomainError as error:
            log.warning("sweep left for the next round: %s", type(error).__name__)
        except Exception:
            # A task that ends of an error ends unseen, and the tables would grow from then on.
            log.exception("a sweep failed; it is tried again in the next round")


async def run(db: Database) -> None:
    """Sweep for as long as the process lives."""
    while True:
        # Jitter, so that processes started together do not sweep together.
        await asyncio.sleep(INTERVAL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
        await sweep(db)


async def _removed(db: Database, sql: str, args: tuple[object, ...]) -> int:
    row = await db.write(sql, *args)
    return row["rows"] if row else 0
