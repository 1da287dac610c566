"""Logins that are in flight together share their statements, and each is as it would be alone."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service import app
from service.domain import limits
from service.domain.errors import BadCredentials
from service.domain.models import User
from service.domain.refresh import RefreshToken
from service.store import sessions, users
from service.store.db import Database
from service.store.sessions import Lifetimes, Session
from service.store.users import Credentials
from tests.conftest import make_settings
from tests.rpc.wire import connected
from tests.store.test_concurrency import somebody

CROWD = 12
FAILURES = "SELECT count(*) FROM login_throttles WHERE subject = ANY ($1)"


@pytest.fixture
def sent() -> list[str]:
    """Every statement of a login, and what Postgres had against one."""
    return []


@pytest.fixture
async def pools(database_url: str, sent: list[str]) -> AsyncIterator[tuple[Database, Database]]:
    settings = make_settings(database_url, pool_acquire_seconds=30)

    def on_query(query: Any) -> None:
        if query.query in (users.LOGIN_CREDENTIALS, sessions.OPEN):
            sent.append(type(query.exception).__name__ if query.exception else query.query)

    async with (
        app.database(settings, on_query=on_query) as one,
        app.database(settings, on_query=on_query) as other,
    ):
        yield one, other


@pytest.fixture
def db(pools: tuple[Database, Database]) -> Database:
    return pools[0]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database_url) as made:
        yield made


@pytest.fixture
async def crowd(db: Database, sent: list[str]) -> list[User]:
    made = [await users.get(db, await somebody(db)) for _ in range(CROWD)]
    await asyncio.sleep(0.1)  # asyncpg tells of a statement some turns after it
    sent.clear()
    return made


def open_session(
    db: Database, user: User, epoch: int = 0, *, client_id: str = "c", scopes: tuple[str, ...] = ()
) -> asyncio.Task[Session]:
    now = UUID(bytes=secrets.token_bytes(16))
    return asyncio.ensure_future(
        sessions.open_session(
            db,
            user,
            epoch,
            token=RefreshToken(user.user_id, now, 0, secrets.token_bytes(32)),
            client_id=client_id,
            scopes=scopes,
            lifetimes=Lifetimes(timedelta(days=1), timedelta(days=2), timedelta(0)),
        )
    )


async def attempts(db: Database, names: list[str]) -> list[Credentials]:
    return await asyncio.gather(*(users.login_credentials(db, name) for name in names))


async def test_sessions_opened_while_one_is_are_one_statement(
    db: Database, crowd: list[User], sent: list[str], connection: asyncpg.Connection
) -> None:
    scopes = [("account", "data.read")[: n % 3] for n in range(CROWD)]

    made = await asyncio.gather(
        *(
            open_session(db, user, client_id=f"client-{n}", scopes=scopes[n])
            for n, user in enumerate(crowd)
        )
    )

    await asyncio.sleep(0.1)
    assert sent == [sessions.OPEN, sessions.OPEN]
    for n, (user, session) in enumerate(zip(crowd, made, strict=True)):
        row = await connection.fetchrow(
            """
            SELECT user_id, client_id, scopes, idle_expire_time,
                   expire_time - create_time AS absolute
              FROM sessions WHERE session_id = $1
            """,
            session.session_id,
        )
        assert row is not None
        assert tuple(row) == (
            user.user_id,
            f"client-{n}",
            list(scopes[n]),
            session.idle_expire_time,
            timedelta(days=2),
        )


async def test_whoever_may_not_log_in_any_more_hurts_no_other(
    db: Database, crowd: list[User], sent: list[str], connection: asyncpg.Connection
) -> None:
    await attempts(db, [user.username for user in crowd])
    await asyncio.sleep(0.1)
    sent.clear()
    disabled, changed, *others = crowd[1:]  # the first is alone
    await connection.execute(
        "UPDATE users SET disable_time = now() WHERE user_id = $1", disabled.user_id
    )
    await connection.execute(
        "UPDATE users SET session_epoch = 1 WHERE user_id = $1", changed.user_id
    )

    opened = await asyncio.gather(
        *(open_session(db, user) for user in crowd), return_exceptions=True
    )

    await asyncio.sleep(0.1)
    assert sent == [sessions.OPEN, sessions.OPEN]
    assert [type(each) for each in opened] == [
        Session,
        BadCredentials,
        BadCredentials,
        *[Session] * len(others),
    ]
    # Nobody's failures are forgotten but of those who got in.
    assert await connection.fetchval(FAILURES, [user.user_id for user in (crowd[0], *others)]) == 0
    assert await connection.fetchval(FAILURES, [disabled.user_id, changed.user_id]) == 2


async def test_sessions_of_one_user_opened_together_all_count(
    db: Database,
    crowd: list[User],
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_USER", 4)
    alone, busy, other = crowd[:3]
    old = [await open_session(db, busy) for _ in range(3)]  # and the one of `somebody`

    fresh = await asyncio.gather(
        open_session(db, alone),
        *(open_session(db, busy) for _ in range(3)),
        open_session(db, other),
    )

    rows = await connection.fetch(
        "SELECT session_id FROM sessions WHERE user_id = $1 AND end_time IS NULL", busy.user_id
    )
    assert {row["session_id"] for row in rows} == {
        old[-1].session_id,
        *(session.session_id for session in fresh[1:4]),
    }
    others = "SELECT count(*) FROM sessions WHERE user_id = $1 AND end_time IS NULL"
    assert await connection.fetchval(others, other.user_id) == 2


async def test_attempts_while_one_is_counted_are_one_statement(
    db: Database, crowd: list[User], sent: list[str]
) -> None:
    names = [user.username for user in crowd]
    names[1], names[2] = "nobody\nat all", " nobody either"

    found = await attempts(db, names)

    await asyncio.sleep(0.1)
    assert sent == [users.LOGIN_CREDENTIALS, users.LOGIN_CREDENTIALS]
    assert [each.user for each in found] == [crowd[0], None, None, *crowd[3:]]
    assert {each.wait_until for each in found} == {None}


async def test_attempts_for_one_name_in_one_statement_are_each_counted(
    db: Database, crowd: list[User], sent: list[str]
) -> None:
    guessed, other = crowd[1].username, crowd[2].username
    beyond = limits.LOGIN_FREE_ATTEMPTS + 1

    found = await attempts(db, [crowd[0].username, *[guessed] * (beyond + 5), other])

    await asyncio.sleep(0.1)
    assert sent == [users.LOGIN_CREDENTIALS, users.LOGIN_CREDENTIALS]
    may = [each.wait_until is None for each in found]
    assert may == [True, *[True] * beyond, *[False] * 5, True]


async def test_two_processes_with_the_same_names_do_not_wait_for_each_other_for_ever(
    pools: tuple[Database, Database], crowd: list[User], sent: list[str]
) -> None:
    """Each takes them in another order; Postgres would end one of two that wait for each other."""
    rng = random.Random(7)

    async def log_in(db: Database, user: User) -> None:
        await users.login_credentials(db, user.username)
        await open_session(db, user)

    for _ in range(30):
        await asyncio.gather(
            *(log_in(db, user) for db in pools for user in rng.sample(crowd, CROWD))
        )

    await asyncio.sleep(0.1)
    assert set(sent) == {users.LOGIN_CREDENTIALS, sessions.OPEN}


async def test_those_who_begin_and_those_who_end_do_not_wait_for_each_other_for_ever(
    pools: tuple[Database, Database], crowd: list[User], sent: list[str]
) -> None:
    """The two statements of a login lock the same rows of the throttle."""
    rng = random.Random(7)

    async def begin(db: Database) -> None:
        for _ in range(30):
            await attempts(db, [user.username for user in rng.sample(crowd, CROWD)])

    async def end(db: Database) -> None:
        for _ in range(30):
            await asyncio.gather(*(open_session(db, user) for user in rng.sample(crowd, CROWD)))

    await asyncio.gather(*(each(db) for db in pools for each in (begin, end)))

    await asyncio.sleep(0.1)
    assert set(sent) == {users.LOGIN_CREDENTIALS, sessions.OPEN}


async def test_a_login_does_not_wait_for_a_session_that_somebody_else_has_locked(
    db: Database,
    crowd: list[User],
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_USER", 1)
    async with connection.transaction():
        await connection.execute(
            "SELECT session_id FROM sessions WHERE user_id = $1 FOR UPDATE", crowd[0].user_id
        )

        await asyncio.wait_for(open_session(db, crowd[0]), 5)


async def test_a_hash_made_anew_does_not_replace_another_password(
    db: Database, crowd: list[User], connection: asyncpg.Connection
) -> None:
    await users.rehash(db, crowd[0], "an older hash", "the older hash made anew")
    await users.rehash(db, crowd[1], "no hash", "made anew")

    stored = "SELECT password_hash FROM users WHERE user_id = $1"
    assert await connection.fetchval(stored, crowd[0].user_id) == "no hash"
    assert await connection.fetchval(stored, crowd[1].user_id) == "made anew"
