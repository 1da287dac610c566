"""Deadlines: nothing waits longer than its caller, and nothing is left behind by those who went."""

import asyncio
import http.client
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
import jwt
import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.domain import keys
from service.store.db import Database
from tests.conftest import Api, Person, refused, serving
from tests.faults.probes import waiting_for_a_lock
from tests.rpc.conftest import QUIET, ready
from tests.rpc.wire import code, connected, raw, statements

DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
OK = grpc.StatusCode.OK

BUSY = """
    SELECT state, wait_event, query FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'sixfold' AND state <> 'idle'
"""


def put(api: Api, ann: Person, key: str = "k", **how: Any) -> Any:
    request = pb.PutRecordRequest(collection="c", key=key, json="1")
    return api.data.PutRecord(request, metadata=ann.metadata, **how)


def get(api: Api, ann: Person, **how: Any) -> Any:
    request = pb.GetRecordRequest(collection="c", key="k")
    return api.data.GetRecord(request, metadata=ann.metadata, **how)


@asynccontextmanager
async def locked(database_url: str, person: Person) -> AsyncIterator[None]:
    """Somebody else is in the middle of a write for this user, and stays there."""
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(
            "SELECT FROM user_counters WHERE user_id = $1 FOR UPDATE", person.user_id
        )
        yield


HASHES = "sixfold_hash_queue_length"
IDLE = 'sixfold_database_pool_connections{state="idle"}'
IN_USE = 'sixfold_database_pool_connections{state="in_use"}'


async def gauge(api: Api, name: str) -> int:
    """What Prometheus is told."""

    def ask() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    found = re.search(re.escape(name) + " ([0-9.]+)", await asyncio.to_thread(ask))
    assert found is not None
    return int(float(found[1]))


async def settled(api: Api, database_url: str) -> None:
    """Return once no statement runs and no connection is out of the pool."""
    async with connected(database_url) as connection:
        for _ in range(200):
            busy = await connection.fetch(BUSY)
            in_use = await gauge(api, IN_USE)
            if not busy and not in_use:
                return
            await asyncio.sleep(0.05)
    raise AssertionError(f"{in_use} connections in use, busy with {busy}")


async def test_a_statement_ends_with_its_callers_deadline(
    api: Api, ann: Person, database_url: str
) -> None:
    async with locked(database_url, ann):
        call = put(api, ann, timeout=0.3)

        assert await code(call) is DEADLINE_EXCEEDED
        await settled(api, database_url)

    # What was told to have failed does not happen after all.
    assert (await refused(get(api, ann))).reason == "RECORD_NOT_FOUND"
    assert (await put(api, ann)).revision == 1


async def test_others_go_on_while_one_users_writes_wait(
    api: Api, ann: Person, bob: Person, database_url: str
) -> None:
    async with locked(database_url, ann):
        waiting = [put(api, ann, timeout=1) for _ in range(5)]

        assert await code(put(api, bob)) is OK
        assert (await refused(get(api, ann))).reason == "RECORD_NOT_FOUND"

        assert {await code(call) for call in waiting} == {DEADLINE_EXCEEDED}


@pytest.mark.parametrize("timeout", [None, 60])
async def test_the_server_bounds_a_call_that_brings_no_deadline_or_a_long_one(
    database_url: str, timeout: float | None
) -> None:
    # One connection, so that nine wait for it: in turn, Postgres' own timeout would need 10 s.
    brief = {"deadline_seconds": 1, "max_deadline_seconds": 1}
    async with serving(
        database_url, **QUIET, **brief, pool_size=1, pool_acquire_seconds=60
    ) as server:
        ann = await server.new_user()

        async with locked(database_url, ann), asyncio.timeout(6):
            calls = [put(server, ann, timeout=timeout) for _ in range(10)]
            refusals = [await refused(call) for call in calls]

        await settled(server, database_url)

    assert {(why.code, why.reason) for why in refusals} == {
        (DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    }


async def test_a_deadline_too_short_to_answer_in_runs_no_statement(api: Api, ann: Person) -> None:
    told = len(await api.logged())

    for _ in range(20):
        call = get(api, ann, timeout=0.015)
        assert await statements(api, call) == []
        assert await code(call) is DEADLINE_EXCEEDED
    await asyncio.sleep(0.1)

    # And the server has seen at least some of them.
    assert '"reason":"DEADLINE_EXCEEDED"' in (await api.logged())[told:]


async def test_a_stranger_with_no_time_left_is_still_a_stranger(api: Api) -> None:
    call = raw(api, "sixfold.data.v1.DataService/GetUserData")
    assert (await refused(call)).reason == "TOKEN_MISSING"


async def test_two_hundred_callers_who_leave_take_no_connection_along(
    api: Api, ann: Person, database_url: str
) -> None:
    chance = random.Random(6)

    async def leave(number: int) -> None:
        call = put(api, ann, f"k{number % 5}") if number % 2 else get(api, ann)
        await asyncio.sleep(chance.random() / 100)
        call.cancel()

    for start in range(0, 200, 50):
        await asyncio.gather(*map(leave, range(start, start + 50)))

    await settled(api, database_url)
    assert await gauge(api, IDLE) > 0
    assert [await code(put(api, ann)) for _ in range(20)] == [OK] * 20


async def leave_at(call: asyncio.Task[Any], answer: int) -> None:
    """Cancel a task in the moment between an answer of Postgres, by number, and its next step."""
    seen = 0
    while not call.done():
        await asyncio.sleep(0)
        waiting = getattr(call, "_fut_waiter", None)
        if waiting is not None and waiting.done():
            if seen == answer:
                call.cancel()
            seen += 1


@pytest.mark.parametrize("answer", range(4))
async def test_leaving_at_any_answer_of_postgres_leaves_no_lock(
    pool: Database, database_url: str, answer: int
) -> None:
    await pool.row("SELECT 1 AS one")  # connected from here on
    # A text of its own, so that the statement is prepared here and now.
    statement = f"UPDATE login_throttles SET failures = 0 WHERE bucket = -1 -- {answer}"
    call = asyncio.ensure_future(pool.write(statement))

    await leave_at(call, answer)
    await asyncio.gather(call, return_exceptions=True)

    async with connected(database_url) as connection:
        assert await connection.fetch(BUSY) == []
    assert await pool.row("SELECT 1 AS one") is not None


async def test_callers_who_leave_a_blocked_statement_unblock_it(
    api: Api, ann: Person, database_url: str
) -> None:
    async with locked(database_url, ann):
        calls = [put(api, ann, timeout=30) for _ in range(20)]
        await asyncio.sleep(0.3)

        for call in calls:
            call.cancel()

        await settled(api, database_url)

    # None of the twenty was written after all.
    assert (await put(api, ann)).revision == 1


async def test_callers_who_leave_the_hash_queue_leave_it_empty(database_url: str) -> None:
    # Slow enough that the queue is seen before it is through.
    async with serving(database_url, **QUIET, hash_threads=1, argon2_time_cost=10) as slow:
        await ready(slow)
        ann = await slow.new_user()
        login = auth_pb2.LoginRequest(username=ann.username, password="not the password")
        calls = [slow.auth.Login(login) for _ in range(15)]
        async with asyncio.timeout(10):
            while not await gauge(slow, HASHES):
                await asyncio.sleep(0)

        for call in calls:
            call.cancel()

        async with asyncio.timeout(10):
            while await gauge(slow, HASHES):
                await asyncio.sleep(0.05)
        await settled(slow, database_url)
        assert (await slow.login(ann.username)).user_id == ann.user_id


async def test_a_full_pool_sheds_load_and_knows_strangers_all_the_same(
    database_url: str,
) -> None:
    async with serving(database_url, **QUIET, pool_size=1, pool_acquire_seconds=0.2) as small:
        await ready(small)
        ann = await small.new_user()
        strange = jwt.encode({}, keys.generate(), "ES256", {"typ": "at+jwt", "kid": str(uuid4())})
        unknown_key = (("authorization", f"Bearer {strange}"),)

        async with locked(database_url, ann), asyncio.timeout(15):
            blocked = put(small, ann, timeout=12)
            await waiting_for_a_lock(database_url, 1)
            overloaded = await refused(get(small, ann))
            invalid = await refused(raw(small, "sixfold.data.v1.DataService/GetUserData"))
            strangers = [
                raw(small, "sixfold.data.v1.DataService/GetUserData", b"", unknown_key)
                for _ in range(60)
            ]
            reasons = {(await refused(call)).reason for call in strangers}
            assert not blocked.done()
            blocked.cancel()

        await settled(small, database_url)
        assert await code(put(small, ann)) is OK

    assert overloaded.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (overloaded.reason, overloaded.retry_seconds) == ("OVERLOADED", 1)
    assert invalid.reason == "TOKEN_MISSING"
    assert reasons == {"TOKEN_INVALID"}


async def test_looking_for_an_unknown_key_waits_for_nobody_for_long(
    api: Api, ann: Person, database_url: str
) -> None:
    strange = jwt.encode({}, keys.generate(), "ES256", {"typ": "at+jwt", "kid": str(uuid4())})
    unknown_key = (("authorization", f"Bearer {strange}"),)

    async with connected(database_url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE signing_keys IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(10):
            call = raw(api, "sixfold.data.v1.DataService/GetUserData", b"", unknown_key)
            why = await refused(call)

    assert why.reason == "TOKEN_INVALID"
    await settled(api, database_url)
