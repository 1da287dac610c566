"""Writers at the same time, through two pools as two processes have them: nothing is lost, nothing
is doubled, and every answer fits one order.
"""

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sixfold.data.v1 import data_pb2 as pb

from service import app
from service.domain import ids
from service.domain.errors import RecordExists, RecordNotFound, RevisionMismatch
from service.domain.models import Caller
from service.domain.refresh import RefreshToken
from service.store import janitor, record_deletes, record_writes, records, sessions, users
from service.store.db import Database
from service.store.record_deletes import Deletion
from service.store.record_writes import Write
from service.store.sessions import Lifetimes
from service.store.write_requests import Request, Written
from tests.conftest import make_settings

DAY = timedelta(days=1)
NO_REQUEST = Request(None, b"")


@pytest.fixture(scope="module")
async def pools(database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Patient ones: what is tested is not how load is shed."""
    settings = make_settings(database_url, pool_acquire_seconds=30)
    async with app.database(settings) as one, app.database(settings) as other:
        yield one, other


@pytest.fixture
async def me(pools: tuple[Database, Database]) -> Caller:
    """Somebody new with a session."""
    return await somebody(pools[0])


async def somebody(db: Database) -> Caller:
    now = datetime.now(UTC)
    user_id = ids.uuid7(now, secrets.token_bytes(10))
    session_id = ids.uuid7(now, secrets.token_bytes(10))
    user = await users.create(db, user_id, f"user-{user_id.hex}", "no hash", None)
    await sessions.open_session(
        db,
        user,
        0,
        token=RefreshToken(user_id, session_id, 0, secrets.token_bytes(32)),
        client_id="default",
        scopes=(),
        lifetimes=Lifetimes(idle=DAY, absolute=DAY, grace=timedelta(0)),
    )
    return Caller(user_id, session_id, "default", frozenset(), now + DAY)


async def written_rows(db: Database, me: Caller) -> tuple[int, int, int]:
    """(the counter's revision, the counter's record count, rows there are)."""
    row = await db.row(
        """
        SELECT revision, record_count, (SELECT count(*) FROM records WHERE user_id = $1) AS rows
          FROM user_counters WHERE user_id = $1
        """,
        me.user_id,
    )
    assert row is not None
    return row["revision"], row["record_count"], row["rows"]


async def read(db: Database, me: Caller, key: str) -> tuple[str, int]:
    """Value and revision of a record in the collection c."""
    record = pb.GetRecordResponse.FromString(await records.get(db, me, "c", key)).record
    return record.json, record.revision


async def test_twenty_writers_of_one_record_lose_no_update(
    pools: tuple[Database, Database], me: Caller
) -> None:
    """Read, add one, write if it is still as read; again if it is not (L-10)."""
    first = await record_writes.put(pools[0], me, Write("c", "n", "0"), NO_REQUEST)
    overtaken: list[int] = []

    async def add(db: Database, times: int) -> int:
        done = 0
        for _ in range(2000):
            if done == times:
                break
            json, revision = await read(db, me, "n")
            write = Write("c", "n", str(int(json) + 1), if_revision=revision)
            try:
                await record_writes.put(db, me, write, NO_REQUEST)
                done += 1
            except RevisionMismatch as error:
                overtaken.append(int(error.metadata["revision"]) - revision)
        return done

    done = await asyncio.gather(*(add(pools[n % 2], 5) for n in range(20)))

    last = await read(pools[0], me, "n")
    assert done == [5] * 20
    assert min(overtaken, default=1) > 0
    assert last == ("100", first.revision + 100)


async def test_revisions_of_one_user_have_no_gaps_under_200_parallel_writes(
    pools: tuple[Database, Database], me: Caller
) -> None:
    async def write(n: int) -> int | None:
        db, key = pools[n % 2], f"k{n % 7}"
        try:
            if n % 5 == 0:
                return (
                    await record_deletes.delete(db, me, Deletion("c", key), NO_REQUEST)
                ).revision
            absent = n % 5 == 1
            put = Write("c", key, str(n), if_absent=absent)
            return (await record_writes.put(db, me, put, NO_REQUEST)).revision
        except (RecordNotFound, RecordExists):
            return None

    answers = await asyncio.gather(*map(write, range(200)))

    revisions = sorted(revision for revision in answers if revision is not None)
    assert len(revisions) >= 120  # the unconditional ones
    assert revisions == list(range(1, len(revisions) + 1))
    counter, count, rows = await written_rows(pools[0], me)
    assert (counter, count) == (revisions[-1], rows)


async def test_of_twenty_that_say_if_absent_exactly_one_writes(
    pools: tuple[Database, Database], me: Caller
) -> None:
    for round_ in range(5):
        puts = [
            record_writes.put(
                pools[n % 2], me, Write("c", f"r{round_}", str(n), if_absent=True), NO_REQUEST
            )
            for n in range(20)
        ]

        answers = await asyncio.gather(*puts, return_exceptions=True)

        won = [n for n, answer in enumerate(answers) if isinstance(answer, Written)]
        assert len(won) == 1
        assert [type(answer) for answer in answers].count(RecordExists) == 19
        assert (await read(pools[0], me, f"r{round_}"))[0] == str(won[0])


@pytest.mark.parametrize("kind", ["put", "if_absent", "if_revision", "delete"])
async def test_one_request_id_raced_by_twenty_is_done_once_and_answered_alike(
    pools: tuple[Database, Database], me: Caller, kind: str
) -> None:
    """D-6, also where the write that won makes the others' precondition false."""
    for _ in range(10):
        before = (await record_writes.put(pools[0], me, Write("c", "k", "0"), NO_REQUEST)).revision
        request = Request(uuid4(), b"the same")
        write = {
            "put": Write("c", "k", "1"),
            "if_absent": Write("c", f"absent{before}", "1", if_absent=True),
            "if_revision": Write("c", "k", "1", if_revision=before),
        }.get(kind)

        answers = await asyncio.gather(
            *(
                record_writes.put(pools[n % 2], me, write, request)
                if write
                else record_deletes.delete(pools[n % 2], me, Deletion("c", "k"), request)
                for n in range(20)
            ),
            return_exceptions=True,
        )

        assert answers == [answers[0]] * 20
        assert isinstance(answers[0], Written)
        assert answers[0].revision == before + 1
        assert (await written_rows(pools[0], me))[0] == before + 1


async def test_a_failed_precondition_is_told_with_a_request_id_as_without(
    pools: tuple[Database, Database], me: Caller
) -> None:
    """The second look that the race above needs must not turn a refusal into something else."""
    await record_writes.put(pools[0], me, Write("c", "k", "0"), NO_REQUEST)
    for request in (NO_REQUEST, Request(uuid4(), b"")):
        with pytest.raises(RecordExists):
            await record_writes.put(pools[0], me, Write("c", "k", "1", if_absent=True), request)
        with pytest.raises(RevisionMismatch):
            await record_writes.put(pools[0], me, Write("c", "k", "1", if_revision=99), request)
        with pytest.raises(RecordNotFound):
            await record_deletes.delete(pools[0], me, Deletion("c", "none"), request)

    assert (await read(pools[0], me, "k"))[0] == "0"


@dataclass(frozen=True)
class Event:
    """One call of a history: what it did or saw, and when it began and ended.

    `revision` is what a write was given, or what a read found; `json` is None for a delete and for
    a record that was not there.
    """

    write: bool
    key: str
    json: str | None
    revision: int | None
    began: float
    ended: float


def fits_one_order(history: Iterable[Event], key: str) -> bool:
    """Whether the calls on one key could have happened one after another, each at some moment
    between its begin and its end.

    The revisions say in which order the writes were, so it remains to place each read behind a
    write: as early as it can be, which leaves the most room to the others.
    """
    events = sorted((e for e in history if e.key == key), key=lambda e: e.began)
    writes = sorted((e for e in events if e.write), key=lambda e: e.revision or 0)
    states: list[Event | None] = [None, *writes]
    placed: list[tuple[float, int]] = []  # (ended, position)
    for event in events:
        earliest = max((place for ended, place in placed if ended < event.began), default=0)
        if event.write:
            place = states.index(event)
            if place <= earliest and earliest > 0:
                return False
        else:
            for place in range(earliest, len(states)):
                state = states[place]
                if state and state.began > event.ended:
                    return False
                if event.json is None and (state is None or state.json is None):
                    break
                if state and (state.json, state.revision) == (event.json, event.revision):
                    break
            else:
                return False
        placed.append((event.ended, place))
    return True


def test_the_checker_refuses_histories_that_fit_no_order() -> None:
    """It has to be able to say no: a stale read, a lost write, a read from the future."""
    one = Event(True, "k", "1", 1, 0, 1)
    two = Event(True, "k", "2", 2, 2, 3)

    def read(json: str | None, revision: int | None, began: float, ended: float) -> Event:
        return Event(False, "k", json, revision, began, ended)

    assert fits_one_order([one, two, read("1", 1, 1.5, 1.6), read("2", 2, 2.5, 2.6)], "k")
    assert fits_one_order([one, two, read("1", 1, 2.5, 2.6)], "k")  # still under way
    assert not fits_one_order([one, two, read("1", 1, 4, 5)], "k")
    assert not fits_one_order([one, two, read(None, None, 4, 5)], "k")
    assert not fits_one_order([one, two, read("2", 2, 0, 1.5)], "k")
    assert not fits_one_order([one, two, read("2", 2, 2.1, 2.2), read("1", 1, 2.3, 2.4)], "k")
    assert not fits_one_order([Event(True, "k", "1", 2, 0, 1), Event(True, "k", "2", 1, 2, 3)], "k")


class Recorder:
    """Makes random calls and writes down each."""

    def __init__(self, me: Caller) -> None:
        self.me = me
        self.history: list[Event] = []
        self.pages: list[records.Page] = []

    async def work(self, db: Database, seed: int, calls: int) -> None:
        chance = random.Random(seed)
        for n in range(calls):
            key, json = chance.choice("abc"), f'"{seed}-{n}"'
            kind = chance.choices(("get", "page", "put", "delete"), (4, 1, 4, 2))[0]
            if kind == "page":
                self.pages.append(await records.page(db, self.me, "c", ("", ""), 100))
                continue
            began = time.monotonic()
            done = await self._call(db, kind, key, json)
            self.history.append(Event(*done, began, time.monotonic()))

    async def _call(
        self, db: Database, kind: str, key: str, json: str
    ) -> tuple[bool, str, str | None, int | None]:
        try:
            if kind == "get":
                return False, key, *await read(db, self.me, key)
            if kind == "delete":
                deleted = await record_deletes.delete(db, self.me, Deletion("c", key), NO_REQUEST)
                return True, key, None, deleted.revision
            put = await record_writes.put(db, self.me, Write("c", key, json), NO_REQUEST)
            return True, key, json, put.revision
        except RecordNotFound:
            return False, key, None, None


async def test_what_twenty_clients_saw_fits_one_order_per_key(
    pools: tuple[Database, Database], me: Caller
) -> None:
    """D-7, without the kills: those are in tests/faults."""
    recorder = Recorder(me)

    await asyncio.gather(*(recorder.work(pools[seed % 2], seed, 60) for seed in range(20)))

    assert len(recorder.history) > 900
    assert {key: fits_one_order(recorder.history, key) for key in "abc"} == dict.fromkeys(
        "abc", True
    )


async def test_a_page_is_the_state_at_its_revision(
    pools: tuple[Database, Database], me: Caller
) -> None:
    """All of it and nothing later: a revision is a point in the user's history, without gaps."""
    recorder = Recorder(me)

    await asyncio.gather(*(recorder.work(pools[seed % 2], seed, 60) for seed in range(20)))

    writes = {event.revision or 0: event for event in recorder.history if event.write}
    assert sorted(writes) == list(range(1, len(writes) + 1))
    states: list[dict[str, tuple[str, int]]] = [{}]
    for revision in range(1, len(writes) + 1):
        event = writes[revision]
        state = {key: found for key, found in states[-1].items() if key != event.key}
        if event.json is not None:
            state[event.key] = (event.json, revision)
        states.append(state)
    assert len(recorder.pages) > 50
    for page in recorder.pages:
        found = {
            record.key: (record.json, record.revision)
            for record in (pb.GetRecordResponse.FromString(each).record for each in page.records)
        }
        assert found == states[page.revision]


@asynccontextmanager
async def sweeping(db: Database) -> AsyncIterator[list[int]]:
    """The janitor, without its minute of rest between two sweeps; how often it swept."""
    swept = [0]

    async def sweep() -> None:
        while True:
            await janitor.sweep(db)
            swept[0] += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(sweep())
    try:
        yield swept
    finally:
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError), outcome


async def test_writers_and_the_janitor_never_deadlock_and_agree_on_the_count(
    pools: tuple[Database, Database], me: Caller
) -> None:
    """Any deadlock would surface here as an exception: nobody retries for it."""

    async def write(n: int) -> None:
        chance = random.Random(n)
        for _ in range(30):
            db, key = chance.choice(pools), f"k{chance.randrange(10)}"
            expire_time = datetime.now(UTC) + timedelta(milliseconds=chance.randrange(1, 40))
            request = Request(uuid4(), hashlib.sha256(key.encode()).digest())
            try:
                if chance.random() < 0.2:
                    await record_deletes.delete(db, me, Deletion("c", key), request)
                else:
                    put = Write("c", key, "1", expire_time=expire_time)
                    await record_writes.put(db, me, put, request)
            except RecordNotFound:
                continue

    async with sweeping(pools[0]) as swept:
        await asyncio.gather(*map(write, range(20)))
        busy = swept[0]
        for _ in range(200):
            if (await written_rows(pools[1], me))[2] == 0:
                break
            await asyncio.sleep(0.05)

    revision, count, rows = await written_rows(pools[1], me)
    assert busy > 5
    assert revision > 300
    assert (count, rows) == (0, 0)


async def test_users_who_happen_to_choose_the_same_request_id_do_not_meet(
    pools: tuple[Database, Database], me: Caller
) -> None:
    you = await somebody(pools[0])
    request = Request(uuid4(), b"the same")

    mine, yours = await asyncio.gather(
        record_writes.put(pools[0], me, Write("c", "k", '"mine"'), request),
        record_writes.put(pools[1], you, Write("c", "k", '"yours"'), request),
    )

    assert (mine.revision, yours.revision) == (1, 1)
    assert (await read(pools[0], me, "k"))[0] == '"mine"'
    assert (await read(pools[0], you, "k"))[0] == '"yours"'
