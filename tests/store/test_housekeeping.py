"""What is due goes, however much there is; what is alive stays."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from service import app
from service.domain.models import User
from service.store import janitor, sessions, users
from service.store.db import Database
from service.store.lanes import Lanes
from tests.conftest import make_settings
from tests.store.test_concurrency import somebody

MANY = 3 * janitor.BATCH + 7
ANN, BOB = UUID(int=1), UUID(int=2)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def test_one_sweep_takes_all_that_is_due(
    pool: Database, connection: asyncpg.Connection
) -> None:
    me = await somebody(pool)
    await connection.execute(
        """INSERT INTO write_requests
           SELECT $1, gen_random_uuid(), 'h', 1, now(), now() - make_interval(hours => 48 * (n % 2))
             FROM generate_series(1, $2::integer) AS n""",
        me.user_id,
        2 * MANY,
    )
    await connection.execute(
        """INSERT INTO records (user_id, collection, key, json, revision, create_time, update_time,
                                expire_time)
           SELECT $1, 'c', n::text, '1', n, now(), now(),
                  CASE WHEN n % 2 = 0 THEN now() - interval '1 second' END
             FROM generate_series(1, $2::integer) AS n""",
        me.user_id,
        2 * MANY,
    )
    await connection.execute(
        "UPDATE user_counters SET record_count = $2 WHERE user_id = $1", me.user_id, 2 * MANY
    )

    await janitor.sweep(pool)

    assert await connection.fetchval("SELECT count(*) FROM write_requests") == MANY
    assert await connection.fetchval("SELECT count(*) FROM records") == MANY
    assert await connection.fetchval("SELECT max(record_count) FROM user_counters") == MANY


async def test_logins_and_a_password_change_of_one_user_do_not_deadlock(pool: Database) -> None:
    for _ in range(15):
        me = await somebody(pool)
        user = await users.get(pool, me)
        epoch = (await users.caller_credentials(pool, me)).session_epoch

        results = await asyncio.gather(
            *(somebody_again(pool, user, epoch) for _ in range(6)),
            users.change_password(pool, me, epoch, "new", keep_other_sessions=True),
            return_exceptions=True,
        )

        assert {type(each).__name__ for each in results} <= {
            "Session",
            "NoneType",
            "BadCredentials",
        }


async def somebody_again(db: Database, user: User, epoch: int) -> sessions.Session:
    import secrets
    from datetime import timedelta

    from service.domain.refresh import RefreshToken

    return await sessions.open_session(
        db,
        user,
        epoch,
        token=RefreshToken(user.user_id, UUID(bytes=secrets.token_bytes(16)), 0, b"s" * 32),
        client_id="default",
        scopes=(),
        lifetimes=sessions.Lifetimes(timedelta(days=1), timedelta(days=2), timedelta(seconds=30)),
    )


async def test_a_database_with_another_isolation_by_default_is_no_different(
    database_url: str, connection: asyncpg.Connection
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    try:
        async with app.database(make_settings(database_url)) as fresh:
            row = await fresh.row("SELECT current_setting('transaction_isolation') AS level")
    finally:
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_isolation")

    assert row is not None
    assert row["level"] == "read committed"


async def test_a_user_who_writes_a_lot_waits_for_itself_alone() -> None:
    lanes, inside, go = Lanes(), {ANN: 0, BOB: 0}, asyncio.Event()

    async def write(user_id: UUID) -> None:
        async with lanes.of(user_id):
            inside[user_id] += 1
            await go.wait()

    tasks = [asyncio.ensure_future(write(ANN)) for _ in range(10)]
    tasks.append(asyncio.ensure_future(write(BOB)))
    await asyncio.sleep(0.01)
    at_first = dict(inside)
    tasks[0].cancel()
    tasks[9].cancel()
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert at_first == {ANN: 1, BOB: 1}
    assert inside[ANN] == 9
    assert lanes._lanes == {}
