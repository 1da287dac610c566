"""The users table, and the two statements around a password: load with the guard, then change."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from service.domain import limits
from service.domain.errors import RequestIdReused, SessionRevoked, UsernameTaken
from service.domain.models import Caller, User
from service.store.db import Database


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a password is checked against. `wait_until` is set when the guard refuses the attempt;
    `user` is None when there is nobody who could log in by that name.
    """

    wait_until: datetime | None
    user: User | None
    password_hash: str | None
    session_epoch: int


CREATE: Final = """
    WITH made AS (
        INSERT INTO users AS u (user_id, username, password_hash, create_request_id)
        VALUES ($1, $2, $3, $4)
        -- Only a retry of the same request meets its own row; for all others no row comes back.
        -- (Not `SET username`: who changes a key locks the row against writes of its user.)
        ON CONFLICT (username) DO UPDATE SET password_hash = u.password_hash
         WHERE u.create_request_id = $4
        RETURNING user_id, username, create_time, update_time
    ), counted AS (
        INSERT INTO user_counters (user_id) SELECT user_id FROM made WHERE user_id = $1
    )
    SELECT user_id, username, create_time, update_time FROM made
"""


async def create(
    db: Database, user_id: UUID, username: str, password_hash: str, request_id: UUID | None
) -> User:
    """Make a user, or find the one an earlier try with this request_id made, which has another id;
    then the caller compares passwords. Raises UsernameTaken, and RequestIdReused when that try was
    for another name.
    """
    try:
        row = await db.write(CREATE, user_id, username, password_hash, request_id)
    except asyncpg.UniqueViolationError as error:
        raise RequestIdReused from error
    if row is None:
        raise UsernameTaken
    return _user(row)


# Counted in the order of their subjects, so that no two such statements wait for each other.
LOGIN_CREDENTIALS: Final = """
    WITH asked AS MATERIALIZED (
        SELECT a.username, a.free, a.longest, a.position, login_subject(a.username) AS subject
          FROM unnest($1::text[], $2::integer[], $3::integer[])
               WITH ORDINALITY AS a (username, free, longest, position)
         ORDER BY subject, position
    ), guard AS MATERIALIZED (
        SELECT username, position, take_login_attempt(subject, free, longest) AS wait_until
          FROM asked
    )
    SELECT guard.wait_until,
           u.user_id, u.username, u.create_time, u.update_time, u.password_hash, u.session_epoch
      FROM guard
      LEFT JOIN LATERAL (
          SELECT named.user_id, named.username, named.create_time, named.update_time,
                 named.password_hash, named.session_epoch
            FROM users named
           WHERE named.username = guard.username AND named.disable_time IS NULL LIMIT 1
      ) AS u ON true
     ORDER BY guard.position
"""


async def login_credentials(db: Database, username: str) -> Credentials:
    """Count an attempt for `username` and load whom it would log in."""
    row = await db.shared_write(
        LOGIN_CREDENTIALS,
        username,
        limits.LOGIN_FREE_ATTEMPTS,
        int(limits.LOGIN_LONGEST_WAIT.total_seconds()),
    )
    return _credentials(row)


CALLER_CREDENTIALS: Final = """
    SELECT take_login_attempt(s.session_id, $3, $4) AS wait_until,
           u.user_id, u.username, u.create_time, u.update_time, u.password_hash, u.session_epoch
      FROM live_sessions s
      JOIN users u ON u.user_id = s.user_id
     WHERE s.user_id = $1 AND s.session_id = $2
"""


async def caller_credentials(db: Database, caller: Caller) -> Credentials:
    """Count an attempt for the caller's session, where strangers who guess at the name cannot get
    in its way, and load the caller. Raises SessionRevoked.
    """
    row = await db.write(
        CALLER_CREDENTIALS,
        caller.user_id,
        caller.session_id,
        limits.LOGIN_FREE_ATTEMPTS,
        int(limits.LOGIN_LONGEST_WAIT.total_seconds()),
    )
    if row is None:
        raise SessionRevoked
    return _credentials(row)


REHASH: Final = """
    UPDATE users SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2
"""


async def rehash(db: Database, user: User, old: str, new: str) -> None:
    """Keep the same password in another form, if it is still that one."""
    await db.write(REHASH, user.user_id, old, new)


CHANGE_PASSWORD: Final = """
    WITH changed AS (
        UPDATE users u
           SET password_hash = $4, session_epoch = u.session_epoch + 1, update_time = now()
          FROM live_sessions s
         WHERE s.user_id = $1 AND s.session_id = $2
           AND u.user_id = s.user_id AND u.session_epoch = $3
        RETURNING u.session_epoch
    ), kept AS (
        UPDATE sessions s SET epoch = changed.session_epoch
          FROM changed
         WHERE s.user_id = $1 AND s.epoch = $3 AND (s.session_id = $2 OR $5)
           AND s.end_time IS NULL
    ), forgiven AS (
        DELETE FROM login_throttles t USING changed WHERE t.subject = $2
    )
    SELECT session_epoch FROM changed
"""


async def change_password(
    db: Database, caller: Caller, epoch: int, password_hash: str, *, keep_other_sessions: bool
) -> None:
    """Set the caller's password and end the other sessions by leaving them in the old epoch.

    `epoch` is the one whose password was checked: if it has moved on, somebody else changed the
    password meanwhile. Raises SessionRevoked.
    """
    row = await db.write(
        CHANGE_PASSWORD,
        caller.user_id,
        caller.session_id,
        epoch,
        password_hash,
        keep_other_sessions,
    )
    if row is None:
        raise SessionRevoked


GET: Final = """
    SELECT s.user_id, s.username, s.create_time, s.update_time
      FROM unnest(string_to_array($1, chr(10))::uuid[], string_to_array($2, chr(10))::uuid[])
           WITH ORDINALITY AS asked (user_id, session_id, position)
      LEFT JOIN LATERAL (
          SELECT live.user_id, live.username, live.create_time, live.update_time
            FROM live_sessions live
           WHERE live.user_id = asked.user_id AND live.session_id = asked.session_id LIMIT 1
      ) AS s ON true
     ORDER BY asked.position
"""


async def get(db: Database, caller: Caller) -> User:
    """The caller. Raises SessionRevoked."""
    row = await db.shared(GET, *caller.ids)
    if row["user_id"] is None:
        raise SessionRevoked
    return _user(row)


DISABLE: Final = """
    UPDATE users
       SET disable_time = coalesce(disable_time, now()), session_epoch = session_epoch + 1,
           update_time = now()
     WHERE username = $1
    RETURNING user_id, username, create_time, update_time
"""


async def disable(db: Database, username: str) -> User | None:
    """Refuse a user from now on, and end all its sessions. None if there is no such user."""
    row = await db.write(DISABLE, username)
    return _user(row) if row else None


def _user(row: asyncpg.Record) -> User:
    return User(row["user_id"], row["username"], row["create_time"], row["update_time"])


def _credentials(row: asyncpg.Record) -> Credentials:
    if row["user_id"] is None:
        return Credentials(row["wait_until"], None, None, 0)
    return Credentials(row["wait_until"], _user(row), row["password_hash"], row["session_epoch"])
