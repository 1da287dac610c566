"""The sessions table: opened by a login, rotated by each refresh, ended by a logout."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from service.domain import limits
from service.domain.errors import BadCredentials, RefreshTokenReused, SessionRevoked, TokenInvalid
from service.domain.models import Caller, User
from service.domain.refresh import RefreshToken
from service.store.db import Database


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a session lives: unused (`idle`), at the most (`absolute`); and for how long the
    refresh token just spent still gives its successor (`grace`).
    """

    idle: timedelta
    absolute: timedelta
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Session:
    """What tokens are made from."""

    user_id: UUID
    session_id: UUID
    client_id: str
    scopes: tuple[str, ...]
    idle_expire_time: datetime


OPEN: Final = """
    WITH asked AS MATERIALIZED (
        SELECT a.user_id, a.session_id, a.epoch, a.client_id, a.scopes, a.refresh_hash, a.idle,
               a.absolute, a.most
          FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::text[], $6::bytea[],
                      $7::interval[], $8::interval[], $9::integer[])
               AS a (user_id, session_id, epoch, client_id, scopes, refresh_hash, idle, absolute,
                     most)
         CROSS JOIN LATERAL (
              SELECT FROM users u
               WHERE u.user_id = a.user_id AND u.session_epoch = a.epoch
                 AND u.disable_time IS NULL LIMIT 1
         ) AS still
    ), opened AS (
        INSERT INTO sessions (user_id, session_id, epoch, client_id, scopes, refresh_hash,
                              idle_expire_time, expire_time)
        SELECT user_id, session_id, epoch, client_id, string_to_array(scopes, ' '), refresh_hash,
               now() + least(idle, absolute), now() + absolute
          FROM asked
        RETURNING session_id, idle_expire_time
    ), failed AS MATERIALIZED (
        -- Locked in the order of users.LOGIN_CREDENTIALS, so that none waits for each other.
        SELECT throttle.subject
          FROM (SELECT DISTINCT user_id FROM asked ORDER BY user_id) AS a
         CROSS JOIN LATERAL (
              SELECT t.subject FROM login_throttles t WHERE t.subject = a.user_id FOR UPDATE
         ) AS throttle
    ), forgiven AS (
        DELETE FROM login_throttles WHERE subject = ANY (ARRAY(SELECT subject FROM failed))
    ), beyond AS MATERIALIZED (
        SELECT a.user_id, old.session_id
          FROM (SELECT user_id, epoch, max(most) - count(*) AS rest
                  FROM asked GROUP BY user_id, epoch) AS a
         CROSS JOIN LATERAL (
              SELECT s.session_id FROM sessions s
               WHERE s.user_id = a.user_id AND s.end_time IS NULL
               -- Those that a changed password or their age has ended already go before others.
               ORDER BY s.epoch = a.epoch AND s.expire_time > now() DESC, s.create_time DESC
              OFFSET greatest(a.rest, 0) -- the statement does not see the sessions it opens
         ) AS old
    ), excess AS MATERIALIZED (
        -- Locked apart from being chosen: a lock beside OFFSET takes what it skips, too.
        SELECT locked.user_id, locked.session_id
          FROM beyond
         CROSS JOIN LATERAL (
              SELECT l.user_id, l.session_id FROM sessions l
               WHERE l.user_id = beyond.user_id AND l.session_id = beyond.session_id
                 AND l.end_time IS NULL FOR UPDATE SKIP LOCKED
         ) AS locked
    ), replaced AS (
        -- Arrays, because a join planned for a small table would read a large one whole.
        UPDATE sessions SET end_time = now(), end_reason = 'replaced'
         WHERE user_id = ANY (ARRAY(SELECT user_id FROM excess))
           AND session_id = ANY (ARRAY(SELECT session_id FROM excess))
    )
    SELECT opened.idle_expire_time
      FROM unnest($2) WITH ORDINALITY AS a (session_id, position)
      LEFT JOIN opened USING (session_id)
     ORDER BY a.position
"""


async def open_session(
    db: Database,
    user: User,
    epoch: int,
    *,
    token: RefreshToken,
    client_id: str,
    scopes: tuple[str, ...],
    lifetimes: Lifetimes,
) -> Session:
    """Open a session for a user whose password was right in `epoch`, forget the failed attempts,
    and end the oldest sessions beyond the limit. Raises BadCredentials when the user or the
    password changed meanwhile.
    """
    row = await db.shared_write(
        OPEN,
        user.user_id,
        token.session_id,
        epoch,
        client_id,
        " ".join(scopes),
        token.digest,
        lifetimes.idle,
        lifetimes.absolute,
        limits.SESSIONS_PER_USER,
    )
    if row["idle_expire_time"] is None:
        raise BadCredentials
    return Session(user.user_id, token.session_id, client_id, scopes, row["idle_expire_time"])


ROTATE: Final = """
    UPDATE sessions s
       SET refresh_hash = $4, refresh_salt = $5, refresh_generation = s.refresh_generation + 1,
           refresh_request_id = $6, refresh_time = now(),
           idle_expire_time = least(s.expire_time, now() + $7::interval)
      FROM users u
     WHERE s.user_id = $1 AND s.session_id = $2 AND s.refresh_hash = $3 AND s.client_id = $8
       AND s.end_time IS NULL AND s.expire_time > now() AND s.idle_expire_time > now()
       AND u.user_id = s.user_id AND u.session_epoch = s.epoch AND u.disable_time IS NULL
    RETURNING s.scopes, s.idle_expire_time
"""

# Runs when ROTATE found nothing to rotate. A genuine token that is spent ends the session, unless
# it is the one just spent and the call is a retry: the same request_id, or within the grace.
# Written as one conditional update, so that no parallel refresh comes between judging and ending.
JUDGE: Final = """
    WITH reused AS (
        UPDATE sessions SET end_time = now(), end_reason = 'refresh_token_reuse'
         WHERE user_id = $1 AND session_id = $2 AND client_id = $6 AND end_time IS NULL
           AND refresh_generation > $3
           AND NOT (refresh_generation = $3 + 1
                    AND (coalesce(refresh_request_id = $4, false)
                         OR refresh_time > now() - $5::interval))
        RETURNING session_id
    )
    SELECT EXISTS (SELECT FROM reused) AS reused,
           s.scopes, s.idle_expire_time, s.refresh_hash, s.refresh_salt,
           s.end_time IS NULL AND s.expire_time > now() AND s.idle_expire_time > now()
               AND u.session_epoch = s.epoch AND u.disable_time IS NULL AS alive
      FROM sessions s
      JOIN users u ON u.user_id = s.user_id
     WHERE s.user_id = $1 AND s.session_id = $2 AND s.client_id = $6
"""


async def rotate(
    db: Database,
    token: RefreshToken,
    *,
    salt: bytes,
    client_id: str,
    request_id: UUID | None,
    lifetimes: Lifetimes,
) -> tuple[Session, RefreshToken]:
    """Spend `token` and return its session with the successor: the one under `salt`, or, when a
    parallel or earlier try was first, the one that try made.

    Raises TokenInvalid for a session that is not there or belongs to another client, SessionRevoked
    for one that has ended, RefreshTokenReused when this call is what ended it.
    """
    successor = token.successor(salt)
    row = await db.write(
        ROTATE,
        token.user_id,
        token.session_id,
        token.digest,
        successor.digest,
        salt,
        request_id,
        lifetimes.idle,
        client_id,
    )
    if row is None:
        row = await db.write(
            JUDGE,
            token.user_id,
            token.session_id,
            token.generation,
            request_id,
            lifetimes.grace,
            client_id,
        )
        if row is None:
            raise TokenInvalid
        if row["reused"]:
            raise RefreshTokenReused
        if not row["alive"]:
            raise SessionRevoked
        successor = token.successor(row["refresh_salt"] or b"")
        # A genuine token that Postgres does not know was lost in a failover to a replica that
        # lagged. It is nobody's theft, so it ends nothing; the password opens a new session.
        if successor.digest != row["refresh_hash"]:
            raise TokenInvalid
    session = Session(
        token.user_id,
        token.session_id,
        client_id,
        tuple(row["scopes"]),
        row["idle_expire_time"],
    )
    return session, successor


END: Final = """
    UPDATE sessions SET end_time = now(), end_reason = 'logout'
     WHERE user_id = $1 AND session_id = $2 AND end_time IS NULL
"""


async def end(db: Database, caller: Caller) -> None:
    """End the caller's session, if it has not ended yet."""
    await db.write(END, caller.user_id, caller.session_id)
