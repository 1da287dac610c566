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
BATCH: Final = 500  # rows a statement: short locks, at some 30,000 rows an hour and table

# Counters are locked before records, as every write does, so the two cannot deadlock.
RECORDS: Final = """
    WITH due AS (
        SELECT DISTINCT user_id
          FROM (SELECT user_id FROM records WHERE expire_time <= now() LIMIT $1) AS batch
    ), head AS MATERIALIZED (
        SELECT c.user_id FROM user_counters c JOIN due ON due.user_id = c.user_id
           FOR UPDATE OF c SKIP LOCKED
    ), gone AS (
        DELETE FROM records r USING head
         WHERE r.user_id = head.user_id AND r.expire_time <= now()
        RETURNING r.user_id
    ), tally AS (
        SELECT user_id, count(*)::integer AS rows FROM gone GROUP BY user_id
    ), counted AS (
        UPDATE user_counters c SET record_count = c.record_count - tally.rows
          FROM tally WHERE c.user_id = tally.user_id
    )
    SELECT count(*) FROM gone
"""

SESSIONS: Final = """
    WITH gone AS (
        DELETE FROM sessions
         WHERE (user_id, session_id) IN (
             SELECT user_id, session_id FROM sessions
              WHERE expire_time <= now() - $2::interval OR end_time <= now() - $2::interval
              LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) FROM gone
"""

WRITE_REQUESTS: Final = """
    WITH gone AS (
        DELETE FROM write_requests
         WHERE (user_id, request_id) IN (
             SELECT user_id, request_id FROM write_requests
              WHERE update_time <= now() - $2::interval
              LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) FROM gone
"""

# A throttle that has been left alone for a day has let its last wait pass long ago.
LOGIN_THROTTLES: Final = """
    WITH gone AS (
        DELETE FROM login_throttles
         WHERE bucket IN (
             SELECT bucket FROM login_throttles
              WHERE update_time <= now() - interval '1 day'
              LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*) FROM gone
"""

# With a margin of a day: an expired key is refused by every process long before.
SIGNING_KEYS: Final = """
    WITH gone AS (
        DELETE FROM signing_keys WHERE expire_time <= now() - interval '1 day' RETURNING 1)
    SELECT count(*) FROM gone
"""


async def sweep(db: Database) -> None:
    """Remove one batch of everything that is due."""
    await db.write(RECORDS, BATCH)
    await db.write(SESSIONS, BATCH, limits.SESSION_MEMORY)
    await db.write(WRITE_REQUESTS, BATCH, limits.REQUEST_ID_MEMORY)
    await db.write(LOGIN_THROTTLES, BATCH)
    await db.write(SIGNING_KEYS)


async def run(db: Database) -> None:
    """Sweep for as long as the process lives."""
    while True:
        # Jitter, so that processes started together do not sweep together.
        await asyncio.sleep(INTERVAL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
        try:
            await sweep(db)
        except DomainError as error:
            log.warning("sweep left for the next round: %s", type(error).__name__)
        except Exception:
            # A task that ends of an error ends unseen, and the tables would grow from then on.
            log.exception("the sweep failed; it is tried again in the next round")
