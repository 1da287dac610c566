"""Guessing: after twenty failures in a row a name has to wait, whoever asks and wherever."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2 as pb
from sixfold.data.v1 import data_pb2

from service.domain import limits
from tests.conftest import PASSWORD, Api, Person, execute, refused, serving
from tests.rpc.conftest import QUIET
from tests.rpc.wire import code, statements

FREE = limits.LOGIN_FREE_ATTEMPTS
LIMITED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
BAD = (grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS")
OK = grpc.StatusCode.OK


def guess(api: Api, username: str, password: str = "not the password") -> Any:
    return api.auth.Login(pb.LoginRequest(username=username, password=password))


def change(api: Api, ann: Person, current: str) -> Any:
    request = pb.ChangePasswordRequest(current_password=current, new_password=PASSWORD)
    return api.auth.ChangePassword(request, metadata=ann.metadata)


async def use_up(api: Api, username: str) -> None:
    """All free attempts, and the one whose failure starts the waiting."""
    for _ in range(FREE + 1):
        why = await refused(guess(api, username))
        assert (why.code, why.reason) == BAD


async def waited(database_url: str) -> None:
    """Let every wait be over."""
    await execute(database_url, "UPDATE login_throttles SET retry_time = now()")


@pytest.mark.parametrize("known", [True, False])
async def test_after_twenty_failures_a_name_waits_known_or_not(
    api: Api, ann: Person, known: bool
) -> None:
    name = ann.username if known else f"nobody-{uuid4()}"
    await use_up(api, name)

    why = await refused(guess(api, name))

    assert (why.code, why.reason) == LIMITED
    assert why.retry_seconds is not None
    assert 0 < why.retry_seconds <= 2


async def test_the_right_password_has_to_wait_too_and_works_after(
    api: Api, ann: Person, database_url: str
) -> None:
    await use_up(api, ann.username)
    assert (await refused(guess(api, ann.username, PASSWORD))).reason == "RATE_LIMITED"

    await waited(database_url)

    assert await code(guess(api, ann.username, PASSWORD)) is OK


async def test_each_failure_doubles_the_wait_up_to_fifteen_minutes(
    api: Api, ann: Person, database_url: str
) -> None:
    await use_up(api, ann.username)

    waits = []
    for _ in range(12):
        why = await refused(guess(api, ann.username))
        assert why.retry_seconds is not None
        waits.append(round(why.retry_seconds))
        await waited(database_url)
        assert (await refused(guess(api, ann.username))).reason == "BAD_CREDENTIALS"

    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_a_success_forgets_the_failures(api: Api, ann: Person) -> None:
    for _ in range(3):
        for _ in range(FREE - 1):
            assert (await refused(guess(api, ann.username))).reason == "BAD_CREDENTIALS"

        assert await code(guess(api, ann.username, PASSWORD)) is OK


async def test_changing_a_password_is_no_way_around(api: Api, ann: Person) -> None:
    for _ in range(FREE + 1):
        assert (await refused(change(api, ann, "not the password"))).reason == "BAD_CREDENTIALS"

    why = await refused(change(api, ann, PASSWORD))

    assert (why.code, why.reason) == LIMITED
    assert (await refused(guess(api, ann.username, PASSWORD))).reason == "RATE_LIMITED"


async def test_all_spellings_share_one_count(api: Api, ann: Person) -> None:
    for _ in range(FREE + 1):
        assert (await refused(guess(api, ann.username.upper()))).reason == "BAD_CREDENTIALS"

    assert (await refused(guess(api, ann.username))).reason == "RATE_LIMITED"


async def test_all_servers_share_one_count(api: Api, ann: Person, database_url: str) -> None:
    await use_up(api, ann.username)

    async with serving(database_url, **QUIET) as other:
        assert (await refused(guess(other, ann.username))).reason == "RATE_LIMITED"


async def test_others_and_open_sessions_are_unaffected(api: Api, ann: Person, bob: Person) -> None:
    await use_up(api, ann.username)

    assert await code(guess(api, bob.username, PASSWORD)) is OK
    reading = api.data.GetUserData(data_pb2.GetUserDataRequest(), metadata=ann.metadata)
    assert await code(reading) is OK
    refresh = pb.RefreshTokensRequest(refresh_token=ann.tokens.refresh_token)
    assert await code(api.auth.RefreshTokens(refresh)) is OK


@pytest.mark.parametrize("servers", [1, 2])
async def test_fifty_guesses_at_once_are_no_more_than_in_turn(
    api: Api, database_url: str, ann: Person, servers: int
) -> None:
    async with serving(database_url, **QUIET) as other:
        asked = [(api, other)[number % servers] for number in range(50)]

        refusals = await asyncio.gather(*(refused(guess(each, ann.username)) for each in asked))

    counted = Counter(why.reason for why in refusals)
    assert counted == {"BAD_CREDENTIALS": FREE + 1, "RATE_LIMITED": 50 - FREE - 1}


async def test_twenty_right_passwords_at_once_all_log_in(api: Api, ann: Person) -> None:
    for _ in range(5):
        codes = await asyncio.gather(
            *(code(guess(api, ann.username, PASSWORD)) for _ in range(FREE))
        )

        assert set(codes) == {OK}


async def test_impossible_names_do_not_share_a_count(api: Api) -> None:
    await use_up(api, "no name \0")

    assert (await refused(guess(api, "no name \0"))).reason == "RATE_LIMITED"
    assert (await refused(guess(api, "a slip of the pen"))).reason == "BAD_CREDENTIALS"


async def test_what_has_to_wait_is_not_hashed(api: Api, ann: Person) -> None:
    await use_up(api, ann.username)

    sent = await statements(api, guess(api, ann.username, PASSWORD))

    # Nothing follows the guard: a right password would have opened a session.
    assert len(sent) == 1


async def test_a_full_hash_queue_says_so_at_once_and_data_calls_go_on(database_url: str) -> None:
    async with serving(
        database_url, **QUIET, hash_threads=1, hash_queue=1, argon2_time_cost=10,
        argon2_memory_kib=65536,
    ) as small:  # fmt: skip
        ann = await small.new_user()

        flood = [asyncio.ensure_future(guess(small, f"n{n}").code()) for n in range(20)]
        why = None
        while why is None or why.reason != "OVERLOADED":
            why = await refused(guess(small, "one-more"))
        reading = small.data.GetUserData(data_pb2.GetUserDataRequest(), metadata=ann.metadata)
        answered = await code(reading)
        busy = [call for call in flood if not call.done()]
        codes = Counter([await call for call in flood])

    assert why.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert why.retry_seconds == 1
    assert answered is OK
    assert busy  # the answer came while hashes were still waiting
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] >= 17
