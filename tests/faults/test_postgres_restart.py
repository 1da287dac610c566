"""Postgres goes and comes back: UNAVAILABLE meanwhile, nothing lost, nothing doubled, no restart.

The server is this file's own and durable, because a crash of one that is not loses commits. All
tests share two processes, which must live to the end.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import Process, execute, process, refused
from tests.faults.load import OK, UNAVAILABLE, Load, Outcome
from tests.faults.postgres import Postgres, postgres_server
from tests.faults.probes import NOT_READY, READY, faults, http_get, truth, until

AWAY = (UNAVAILABLE, "DATABASE_UNAVAILABLE")
PUT = pb.PutRecordRequest(collection="c", key="k", json="1")


@pytest.fixture(scope="module")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    async with postgres_server(tmp_path_factory.mktemp("restart") / "data", durable=True) as server:
        yield server


@pytest.fixture(scope="module")
async def two(postgres: Postgres) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(process(postgres.url)) for _ in range(2)]


@pytest.fixture(autouse=True)
async def still_there(postgres: Postgres, two: list[Process]) -> AsyncIterator[None]:
    """Whatever a test does, no process exits, and all are ready before the next test."""
    yield
    await postgres.start()
    assert [each.child.returncode for each in two] == [None, None]
    for each in two:
        await until(partial(is_ready, each), 5)
        assert faults(each.api) == []


async def is_ready(server: Process) -> bool:
    return await truth(server.api) == READY


async def is_not_ready(server: Process) -> bool:
    return await truth(server.api) == NOT_READY


def describe(failures: list[Outcome]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in failures:
        assert each.why
        what = f"{each.why.code.name} {each.why.reason} {'retry' * bool(each.why.retry_seconds)}"
        found[what] = found.get(what, 0) + 1
    return found


@pytest.mark.parametrize("how", ["fast", "immediate", "kill -9"])
async def test_a_restart_under_load_is_unavailable_meanwhile_and_loses_nothing(
    postgres: Postgres, two: list[Process], how: str
) -> None:
    """F-4. RetryInfo in each refusal, and no other status: not even a deadline, since a server that
    is gone says so at once.
    """
    load = Load([each.api for each in two], readers=4, writers=4)

    async with load.running():
        began = time.monotonic()
        await asyncio.sleep(1)
        down = time.monotonic()
        await postgres.restart(how)
        up = time.monotonic()
        await asyncio.sleep(2.5)
        ended = time.monotonic()

    failures = [each for each in load.outcomes if each.why]
    first_ok = min(e.ended for e in load.outcomes if e.began > up and not e.why)
    last_failure = max((each.ended for each in failures), default=up)
    unknown = await load.settle(two[0].api)
    found = await load.check(two[1].api)
    print(
        f"\n{how}: down {up - down:.2f} s; first OK {first_ok - up:.3f} s after it was up, last "
        f"refusal {last_failure - up:.3f} s after; {load.rate(began, down):.0f} calls/s before; "
        f"{len(failures)} of {len(load.outcomes)} refused; {found} writes found, "
        f"{unknown} were unknown"
    )
    assert load.rate(began, down) > 100
    assert failures
    assert describe(failures).keys() == {"UNAVAILABLE DATABASE_UNAVAILABLE retry"}
    assert first_ok - up < 3
    assert last_failure - up < 2
    assert load.rate(ended - 0.5, ended) > 100


async def test_while_backends_are_terminated_reads_go_on_and_no_write_is_doubled(
    postgres: Postgres, two: list[Process]
) -> None:
    """F-5, every 0.2 s for 3 s."""
    load = Load([each.api for each in two], readers=4, writers=2)
    connection = await asyncpg.connect(postgres.url)
    terminated = 0

    async with load.running():
        began = time.monotonic()
        for _ in range(15):
            terminated += await connection.fetchval(
                """
                SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = 'sixfold'
                """
            )
            await asyncio.sleep(0.2)
        ended = time.monotonic()

    await connection.close()
    reads = [each for each in load.outcomes if not each.write]
    good = sum(not each.why for each in reads) / len(reads)
    writes = [each for each in load.outcomes if each.write]
    unknown = await load.settle(two[0].api)
    found = await load.check(two[1].api)
    print(
        f"\n{terminated} backends terminated: {good:.2%} of {len(reads)} reads OK; "
        f"{found} writes found, {unknown} of {len(writes)} were unknown"
    )
    assert terminated > 30
    assert load.rate(began, ended) > 100
    assert good >= 0.99
    failures = [each for each in load.outcomes if each.why]
    assert describe(failures).keys() <= {"UNAVAILABLE DATABASE_UNAVAILABLE retry"}


async def test_logout_without_a_database_is_never_ok(
    postgres: Postgres, two: list[Process]
) -> None:
    """R-7: an OK here would leave a session alive that its owner believes dead."""
    one, other = two
    ann = await one.api.new_user()
    await postgres.stop()
    for _ in range(3):
        why = await refused(one.api.auth.Logout(auth_pb2.LogoutRequest(), metadata=ann.metadata))
        assert (why.code, why.reason) == AWAY
        assert why.retry_seconds
    await postgres.start()

    for _ in range(2):  # the second finds nothing left to do, and is as good
        await one.api.auth.Logout(auth_pb2.LogoutRequest(), metadata=ann.metadata)

    why = await refused(other.api.data.PutRecord(PUT, metadata=ann.metadata))
    assert why.reason == "SESSION_REVOKED"


async def test_a_refresh_without_a_database_does_not_spend_the_token(
    postgres: Postgres, two: list[Process]
) -> None:
    """I-3."""
    ann = await two[0].api.new_user()
    request = auth_pb2.RefreshTokensRequest(refresh_token=ann.tokens.refresh_token)
    await postgres.stop()
    why = await refused(two[0].api.auth.RefreshTokens(request))
    assert (why.code, why.reason) == AWAY
    await postgres.start()

    refreshed = await two[1].api.auth.RefreshTokens(request)

    assert refreshed.tokens.session_id == ann.tokens.session_id


async def test_a_process_that_starts_before_its_database_waits_for_it(
    postgres: Postgres, two: list[Process]
) -> None:
    """F-15."""
    ann = await two[0].api.new_user()
    await postgres.stop()

    async with process(postgres.url) as early:
        await until(partial(is_not_ready, early), 2)
        why = await refused(early.api.data.PutRecord(PUT, metadata=ann.metadata))
        assert why.code is UNAVAILABLE
        assert why.retry_seconds
        await postgres.start()

        took = await until(partial(is_ready, early), 5)

        print(f"\nready {took:.2f} s after Postgres was up")
        await early.api.data.PutRecord(PUT, metadata=ann.metadata)


async def test_readiness_follows_the_database_and_liveness_does_not(
    postgres: Postgres, two: list[Process]
) -> None:
    """O-10, through both doors."""
    assert await truth(two[0].api) == READY
    assert await http_get(two[0].api.http_port, "/readyz") == (200, "ok")

    await postgres.stop()
    await until(partial(is_not_ready, two[0]), 3)
    reason = await http_get(two[0].api.http_port, "/readyz")
    await asyncio.sleep(1)
    assert await truth(two[0].api) == NOT_READY
    await postgres.start()

    assert reason == (503, "the database is away, or takes no writes")
    await until(partial(is_ready, two[0]), 3)


async def test_a_database_that_takes_no_writes_is_not_ready(
    postgres: Postgres, two: list[Process]
) -> None:
    """H-19: demoted under a running pool, which only looks when it connects."""
    one = two[0]
    ann = await one.api.new_user()
    await execute(
        postgres.url,
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    )
    try:
        await until(partial(is_not_ready, one), 3)
        for _ in range(20):
            why = await refused(one.api.data.PutRecord(PUT, metadata=ann.metadata))
            assert (why.code, why.reason) == AWAY
            assert why.retry_seconds
    finally:
        await execute(
            postgres.url,
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )

    await until(partial(is_ready, one), 3)
    written = await one.api.data.PutRecord(PUT, metadata=ann.metadata)
    assert written.revision == 1
    assert {each.code for each in await burst(one, ann.metadata)} == {OK}


async def burst(server: Process, metadata: tuple[tuple[str, str]]) -> list[Outcome]:
    """Enough parallel writes to use every connection of the pool."""

    async def write(n: int) -> Outcome:
        began = time.monotonic()
        put = pb.PutRecordRequest(collection="burst", key=str(n), json="1")
        await server.api.data.PutRecord(put, metadata=metadata)
        return Outcome(0, True, began, time.monotonic(), None)

    return await asyncio.gather(*map(write, range(40)))
