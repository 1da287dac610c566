"""Writes in one statement are each as they would be by themselves, and hurt no other."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sixfold.data.v1 import data_pb2 as pb

from service import app
from service.domain import limits
from service.domain.errors import (
    InvalidArgument,
    QuotaExceeded,
    RecordExists,
    RequestIdReused,
    SessionRevoked,
)
from service.domain.models import Caller
from service.store import record_deletes, record_writes, records, sessions, shared_puts
from service.store.db import Database
from service.store.record_deletes import Deletion
from service.store.record_writes import Write
from service.store.write_requests import Request, Written
from tests.conftest import make_settings
from tests.rpc.wire import connected
from tests.store.test_concurrency import NO_REQUEST, somebody, written_rows

CROWD = 12


@pytest.fixture
def sent() -> list[str]:
    """Every write of `db`, by which statement."""
    return []


@pytest.fixture
async def db(database_url: str, sent: list[str]) -> AsyncIterator[Database]:
    settings = make_settings(database_url, pool_acquire_seconds=30)

    def on_query(query: Any) -> None:
        if query.query in (record_writes.PUT, shared_puts.PUT):
            sent.append(query.query)

    async with app.database(settings, on_query=on_query) as made:
        yield made


@pytest.fixture
async def crowd(db: Database) -> list[Caller]:
    return [await somebody(db) for _ in range(CROWD)]


async def at_once(
    db: Database, crowd: list[Caller], *first: Write, request: Request = NO_REQUEST
) -> list[Written | BaseException]:
    """Each writes, and the first one after another begins so do all others: it runs alone, and they
    in one statement. `first` are what the second, third and so on write.
    """
    writes = [Write("c", "k", "1"), *first]
    writes += [Write("c", "k", "1")] * (len(crowd) - len(writes))
    return await asyncio.gather(
        *(
            record_writes.put(db, me, write, request)
            for me, write in zip(crowd, writes, strict=True)
        ),
        return_exceptions=True,
    )


async def get(db: Database, me: Caller, key: str = "k") -> pb.Record:
    return pb.GetRecordResponse.FromString(await records.get(db, me, "c", key)).record


def revisions(answers: list[Written | BaseException]) -> list[object]:
    """Each write's, or the type of what it raised."""
    return [each.revision if isinstance(each, Written) else type(each) for each in answers]


async def test_all_that_come_while_one_runs_are_one_statement(
    db: Database, crowd: list[Caller], sent: list[str]
) -> None:
    ids = [Request(uuid4(), b"hash") for _ in crowd]
    expires = datetime.now(UTC) + timedelta(hours=1)
    writes = [Write("c", f"k{n}", f'{{"n": {n}}}', expire_time=expires) for n in range(CROWD)]

    written = await asyncio.gather(*(map(record_writes.put, [db] * CROWD, crowd, writes, ids)))

    await asyncio.sleep(0.01)  # asyncpg tells of a statement some turns after it
    assert sent == [shared_puts.PUT, shared_puts.PUT]
    for n, me in enumerate(crowd):
        record = await get(db, me, f"k{n}")
        assert (record.json, record.revision) == (f'{{"n": {n}}}', 1)
        assert record.expire_time.ToDatetime(UTC) == expires
        assert record.create_time.ToDatetime(UTC) == written[n].create_time
        assert record.update_time.ToDatetime(UTC) == written[n].update_time
        assert await written_rows(db, me) == (1, 1, 1)


async def test_an_overwritten_record_keeps_its_first_time_and_an_expired_one_does_not(
    db: Database, crowd: list[Caller], database_url: str
) -> None:
    before = await at_once(db, crowd)
    async with connected(database_url) as connection:
        await connection.execute(
            "UPDATE records SET expire_time = now() - interval '1 second' WHERE user_id = $1",
            crowd[1].user_id,
        )

    after = await at_once(db, crowd)

    kept = [
        isinstance(one, Written) and isinstance(two, Written) and one.create_time == two.create_time
        for one, two in zip(before, after, strict=True)
    ]
    assert kept == [True, False, *[True] * (CROWD - 2)]
    assert revisions(after) == [2] * CROWD
    assert [await written_rows(db, me) for me in crowd] == [(2, 1, 1)] * CROWD


async def test_a_user_whom_another_process_writes_for_holds_up_nobody(
    db: Database, crowd: list[Caller], database_url: str
) -> None:
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(
            "SELECT FROM user_counters WHERE user_id = $1 FOR UPDATE", crowd[5].user_id
        )
        puts = [
            asyncio.ensure_future(record_writes.put(db, me, Write("c", "k", "1"), NO_REQUEST))
            for me in crowd
        ]
        done, waiting = await asyncio.wait(puts, timeout=2)
        await connection.execute(
            "UPDATE user_counters SET revision = 41 WHERE user_id = $1", crowd[5].user_id
        )

    assert (len(done), waiting) == (CROWD - 1, {puts[5]})
    assert (await puts[5]).revision == 42


async def test_what_cannot_be_written_is_refused_alone(
    db: Database, crowd: list[Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    await at_once(db, crowd)
    await sessions.end(db, crowd[1])
    monkeypatch.setattr(limits, "RECORDS_PER_USER", 1)

    answers = await at_once(
        db,
        crowd,
        Write("c", "k", "2"),  # of an ended session
        Write("c", "one too many", "2"),
        Write("c", "k", "2", if_absent=True),
        Write("c", "k", '"\\ud800"'),  # which Postgres cannot keep
    )

    assert revisions(answers) == [
        2,
        SessionRevoked,
        QuotaExceeded,
        RecordExists,
        InvalidArgument,
        *[2] * (CROWD - 5),
    ]
    assert [(await get(db, me)).revision for me in crowd[2:]] == [1, 1, 1, *[2] * (CROWD - 5)]


async def test_a_request_id_is_done_once_in_company_too(db: Database, crowd: list[Caller]) -> None:
    request = Request(uuid4(), b"hash")
    first = await at_once(db, crowd, request=request)

    again = await at_once(db, crowd, request=request)
    other = await at_once(db, crowd, request=replace(request, request_hash=b"another"))

    assert again == first
    assert revisions(first) == [1] * CROWD
    assert revisions(other) == [RequestIdReused] * CROWD


async def test_large_values_and_conditions_share_nothing(
    db: Database, crowd: list[Caller], sent: list[str]
) -> None:
    large = '"' + "x" * shared_puts.LARGEST + '"'
    long_in_postgres = "[" + ",".join(["1e300"] * 50) + "]"
    answers = await at_once(
        db,
        crowd[:4],
        Write("c", "k", large),
        Write("c", "k", "1", if_absent=True),
        Write("c", "k", long_in_postgres),
    )

    assert revisions(answers) == [1, 1, 1, 1]
    await asyncio.sleep(0.01)
    assert sorted(sent) == sorted([shared_puts.PUT, *[record_writes.PUT] * 3])


async def test_what_is_lent_company_is_bounded_as_postgres_writes_it() -> None:
    few = "[" + ",".join(["1e300"] * 30) + "]"

    assert shared_puts.is_small(few)
    assert shared_puts.is_small('{"id": "3e0f9e4e-7e1e-4e6e-8e2e-5e9e1e0e3e7e"}')
    assert not shared_puts.is_small("[" + ",".join(["1E300"] * 60) + "]")
    assert not shared_puts.is_small('"' + "x" * shared_puts.LARGEST + '"')


async def test_a_write_that_waits_for_another_process_holds_up_no_other_user(
    db: Database, crowd: list[Caller], database_url: str
) -> None:
    """However many of them there are, and whoever comes after them, alone."""
    async with connected(database_url) as connection, connection.transaction():
        for me in crowd[:8]:
            await connection.execute(
                "SELECT FROM user_counters WHERE user_id = $1 FOR UPDATE", me.user_id
            )
        stuck = []
        for me in crowd[:8]:
            put = record_writes.put(db, me, Write("c", "k", "1"), NO_REQUEST)
            stuck.append(asyncio.ensure_future(put))
            await asyncio.sleep(0.03)
        async with asyncio.timeout(2):
            for _ in range(5):
                await record_writes.put(db, crowd[9], Write("c", "k", "1"), NO_REQUEST)
        assert not any(each.done() for each in stuck)

    assert revisions(await asyncio.gather(*stuck)) == [1] * 8


async def test_a_cancelled_write_hurts_no_other(db: Database, crowd: list[Caller]) -> None:
    puts = [
        asyncio.ensure_future(record_writes.put(db, me, Write("c", "k", "1"), NO_REQUEST))
        for me in crowd
    ]
    await asyncio.sleep(0)
    puts[3].cancel()

    answers = await asyncio.gather(*puts, return_exceptions=True)

    assert [type(each) for each in answers].count(Written) == CROWD - 1
    assert (await record_writes.put(db, crowd[3], Write("c", "k", "2"), NO_REQUEST)).revision <= 2


async def test_many_users_in_two_processes_lose_no_write_and_no_revision(
    db: Database, database_url: str, crowd: list[Caller]
) -> None:
    chance = random.Random(7)
    made: dict[Caller, list[Written]] = {me: [] for me in crowd}

    async def work(pool: Database) -> None:
        for n in range(60):
            me, key = chance.choice(crowd[:6]), chance.choice("abc")
            if chance.random() < 0.2:
                deletion = Deletion("c", key, allow_missing=True)
                gone = await record_deletes.delete(pool, me, deletion, NO_REQUEST)
                if gone.revision:
                    made[me].append(gone)
            else:
                made[me].append(
                    await record_writes.put(pool, me, Write("c", key, str(n)), NO_REQUEST)
                )

    async with app.database(make_settings(database_url, pool_acquire_seconds=30)) as other:
        await asyncio.gather(*(work(pool) for pool in (db, other) for _ in range(12)))

    for me in crowd[:6]:
        assert sorted(each.revision for each in made[me]) == list(range(1, len(made[me]) + 1))
        last = max(each.revision for each in made[me])
        revision, count, rows = await written_rows(db, me)
        assert (revision, count) == (last, rows)
