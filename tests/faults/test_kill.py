"""Any process answers any call, and kill -9 of one is noticed by its calls in flight at most."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import Process, process, refused
from tests.faults.load import OK, UNAVAILABLE, Load

REVOKED = (grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")


@pytest.fixture
async def three(database_url: str) -> AsyncIterator[list[Process]]:
    """Three processes on one Postgres, which know nothing of each other."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(process(database_url)) for _ in range(3)]


async def test_a_user_does_not_notice_which_process_answers_or_dies(three: list[Process]) -> None:
    """The demo's promise, step by step."""
    first, second, third = three
    ann = await first.api.new_user()
    put = pb.PutRecordRequest(collection="notes", key="first", json='"kept"')
    written = await second.api.data.PutRecord(put, metadata=ann.metadata)

    first.child.kill()
    assert await first.stopped() == -signal.SIGKILL

    refreshed = await third.api.auth.RefreshTokens(
        auth_pb2.RefreshTokensRequest(refresh_token=ann.tokens.refresh_token)
    )
    fresh = (("authorization", f"Bearer {refreshed.tokens.access_token}"),)
    read = await third.api.data.GetUserData(pb.GetUserDataRequest(), metadata=fresh)
    assert [(r.key, r.json, r.revision) for r in read.records] == [
        ("first", '"kept"', written.revision)
    ]
    get = pb.GetRecordRequest(collection="notes", key="first")
    assert (await second.api.data.GetRecord(get, metadata=fresh)).record.json == '"kept"'

    await third.api.auth.Logout(auth_pb2.LogoutRequest(), metadata=fresh)

    for metadata in (fresh, ann.metadata):  # the new token, and the one from before the refresh
        why = await refused(second.api.data.GetRecord(get, metadata=metadata))
        assert (why.code, why.reason) == REVOKED
        why = await refused(second.api.data.PutRecord(put, metadata=metadata))
        assert (why.code, why.reason) == REVOKED
    again = auth_pb2.RefreshTokensRequest(refresh_token=refreshed.tokens.refresh_token)
    why = await refused(second.api.auth.RefreshTokens(again))
    assert (why.code, why.reason) == REVOKED


async def test_a_logout_at_one_process_is_obeyed_by_another_at_the_very_next_call(
    three: list[Process],
) -> None:
    """R-12: 100 times of 100, without a wait. B has verified each token before, so a memo of
    signatures, if there is one, is warm.
    """
    a, b, _ = three
    ann = await a.api.new_user()
    get = pb.GetUserDataRequest()
    obeyed = 0

    for _ in range(100):
        session = await a.api.login(ann.username)
        await b.api.data.GetUserData(get, metadata=session.metadata)
        await a.api.auth.Logout(auth_pb2.LogoutRequest(), metadata=session.metadata)
        why = await refused(b.api.data.GetUserData(get, metadata=session.metadata))
        obeyed += (why.code, why.reason) == REVOKED

    assert obeyed == 100
    await b.api.data.GetUserData(get, metadata=ann.metadata)  # the other session lives on


async def test_kill_9_under_load_is_unavailable_there_and_nothing_elsewhere(
    database_url: str, three: list[Process]
) -> None:
    """F-1, and the history: what was acknowledged is found, nothing is doubled."""
    load = Load([each.api for each in three], readers=3, writers=3)

    async with load.running():
        began = time.monotonic()
        await asyncio.sleep(1.5)
        killed = time.monotonic()
        three[0].child.kill()
        await asyncio.sleep(1.5)
        three[1].child.kill()
        second_killed = time.monotonic()
        await asyncio.sleep(1)

    assert load.rate(began, killed) > 100
    assert {each.code for each in load.outcomes if each.ended < killed} == {OK}
    survivor = [each for each in load.outcomes if each.server == 2]
    assert {each.code for each in survivor} == {OK}
    assert {e.code for e in load.outcomes if e.server == 1 and e.ended < second_killed} == {OK}
    assert {each.code for each in load.outcomes} == {OK, UNAVAILABLE}
    unknown = await load.settle(three[2].api)
    found = await load.check(three[2].api)
    print(f"\nkill -9: {found} writes found, {unknown} were unknown; {load.codes()}")
    assert unknown > 0

    async with process(database_url) as replacement:
        await load.check(replacement.api)
