"""Making users: which passwords are taken, that all of each counts, and that a retry makes one."""

import asyncio
import logging
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2 as pb

from tests.conftest import PASSWORD, Api, Person, refused
from tests.rpc.wire import code, connected, statements

OK = grpc.StatusCode.OK
WORDS = "zebra quilt ocarina vexed plumb jigsaw fjord "
LONG = (WORDS * 6)[:256]
EMOJI = "🦊🐙🦉🐝🦕🐳🦚🐌🦔🐫🦩🐿🦭🪲🦑"  # 15 code points of 4 bytes, but one


def create(api: Api, password: str = PASSWORD, username: str = "", **more: Any) -> Any:
    username = username or f"name-{uuid4().hex[:12]}"
    return api.auth.CreateUser(pb.CreateUserRequest(username=username, password=password, **more))


def login(api: Api, username: str, password: str) -> Any:
    return api.auth.Login(pb.LoginRequest(username=username, password=password))


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        (LONG[:14], "PASSWORD_TOO_SHORT"),
        (LONG[:15], ""),
        (LONG[:64], ""),
        (LONG, ""),
        (LONG + "x", "PASSWORD_TOO_LONG"),
        (EMOJI, ""),
        (EMOJI[:14], "PASSWORD_TOO_SHORT"),
        (EMOJI * 17, "PASSWORD_COMMON"),  # one piece, repeated
        (EMOJI + LONG[: 256 - 15], ""),
        (EMOJI + LONG[: 257 - 15], "PASSWORD_TOO_LONG"),
        # Combining marks count once they are composed: 14 letters with accents are 14.
        ("".join(f"{letter}\u0301" for letter in "aeiouyclnrszgk"), "PASSWORD_TOO_SHORT"),
        ("".join(f"{letter}\u0301" for letter in "aeiouyclnrszgkw"), ""),
        # A tilde through a letter has no composed form, so each counts twice.
        ("".join(f"{letter}\u0334" for letter in "zebraqui"), ""),
        ("".join(f"{letter}\u0334" for letter in "zebraqu"), "PASSWORD_TOO_SHORT"),
        ("password1234567", "PASSWORD_COMMON"),
        ("aaaaaaaaaaaaaaaaaaaa", "PASSWORD_COMMON"),
        ("abcdefghijklmnopqrstuvwxyz", "PASSWORD_COMMON"),
        ("sixfold sixfold sixfold", "PASSWORD_COMMON"),
    ],
)  # fmt: skip
async def test_a_password_is_counted_in_code_points(api: Api, password: str, reason: str) -> None:
    call = create(api, password)

    if not reason:
        assert await code(call) is OK
    else:
        why = await refused(call)
        assert (why.code, why.violations) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            {"password": reason},
        )


async def test_a_password_may_not_be_the_username(api: Api) -> None:
    name = "wolfgang-amadeus-m"

    why = await refused(create(api, "Wolfgang-Amadeus-M!", name))

    assert why.violations == {"password": "PASSWORD_COMMON"}


@pytest.mark.parametrize("password", ["y" * 1025, "é" * 513, "🦊" * 257])
async def test_beyond_1024_bytes_nothing_is_hashed_counted_or_said(
    api: Api, ann: Person, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    change = pb.ChangePasswordRequest(current_password=password, new_password=password)
    calls = [
        create(api, password),
        login(api, ann.username, password),
        api.auth.ChangePassword(change, metadata=ann.metadata),
    ]

    with caplog.at_level(logging.DEBUG):
        for call in calls:
            assert await statements(api, call) == []
            why = await refused(call)
            assert set(why.violations.values()) == {"STRING_MAX_BYTES"}
            assert password[:20] not in str(why)
            assert password[:20] not in str(await call.trailing_metadata())

    assert password[:20] not in await api.logged()
    assert password[:20] not in caplog.text


@pytest.mark.parametrize(
    ("password", "other"),
    [
        (LONG[:72], LONG[:72] + "x"),
        (LONG[:100] + "a", LONG[:100] + "b"),
        ("é" * 36 + "zebra quilt a", "é" * 36 + "zebra quilt b"),
        (LONG[:20], LONG[:20] + " "),
        (" " + LONG[:20], LONG[:20]),
        (LONG[:20], LONG[:20].upper()),
        (LONG[:30], LONG[:30].replace(" ", "  ")),
        ("zebra\0quilt ocarina", "zebra"),
        ("zebra quilt ﬁne ocarina", "zebra quilt fine ocarina"),
    ],
)
async def test_passwords_that_differ_anywhere_are_different(
    api: Api, password: str, other: str
) -> None:
    name = (await create(api, password)).user.username

    assert (await refused(login(api, name, other))).reason == "BAD_CREDENTIALS"
    assert await code(login(api, name, password)) is OK


@pytest.mark.parametrize(
    ("password", "typed"),
    [
        ("zoé fjord quilt jigsaw", "zoe\u0301 fjord quilt jigsaw"),
        ("zebra quilt\u00a0ocarina", "zebra quilt ocarina"),
        ("zebra quilt\u3000ocarina", "zebra quilt ocarina"),
    ],
)
async def test_what_keyboards_differ_in_does_not_matter(
    api: Api, password: str, typed: str
) -> None:
    name = (await create(api, password)).user.username

    assert await code(login(api, name, typed)) is OK


async def test_a_retry_finds_the_user_it_made(api: Api) -> None:
    request = pb.CreateUserRequest(
        username=f"Name-{uuid4().hex[:12]}", password=PASSWORD, request_id=str(uuid4())
    )

    first = await api.auth.CreateUser(request)
    second = await api.auth.CreateUser(request)

    assert second == first


async def test_a_retry_with_another_password_is_another_request(api: Api) -> None:
    again: dict[str, Any] = {"username": f"n-{uuid4().hex}", "request_id": str(uuid4())}
    await create(api, **again)

    why = await refused(create(api, PASSWORD + "!", **again))

    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert await code(login(api, again["username"], PASSWORD)) is OK


@pytest.mark.parametrize("request_id", ["", str(uuid4())])
async def test_another_request_for_the_name_finds_it_taken(api: Api, request_id: str) -> None:
    name = f"n-{uuid4().hex}"
    await create(api, username=name, request_id=str(uuid4()))

    why = await refused(create(api, username=name, request_id=request_id))

    assert (why.code, why.reason) == (grpc.StatusCode.ALREADY_EXISTS, "USERNAME_TAKEN")


async def test_ten_tries_at_once_make_one_user(api: Api, database_url: str) -> None:
    again: dict[str, Any] = {"username": f"n-{uuid4().hex}", "request_id": str(uuid4())}

    answers = await asyncio.gather(*(create(api, **again) for _ in range(10)))

    assert len({answer.user.user_id for answer in answers}) == 1
    async with connected(database_url) as connection:
        orphans = await connection.fetchval(
            "SELECT count(*) FROM user_counters FULL JOIN users USING (user_id)"
            " WHERE username = $1 OR username IS NULL",
            again["username"],
        )
    assert orphans == 1


async def test_ten_users_at_once_cannot_share_a_name(api: Api) -> None:
    name = f"n-{uuid4().hex}"

    codes = await asyncio.gather(*(code(create(api, username=name)) for _ in range(10)))

    assert sorted(each.name for each in codes) == ["ALREADY_EXISTS"] * 9 + ["OK"]


async def test_a_request_id_makes_one_user_whatever_the_name(api: Api) -> None:
    request_id = str(uuid4())
    await create(api, request_id=request_id)

    why = await refused(create(api, request_id=request_id))

    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_request_id_is_no_way_around_the_guard_of_passwords(api: Api) -> None:
    name, request_id = f"name-{uuid4().hex[:12]}", str(uuid4())
    await create(api, username=name, request_id=request_id)

    reasons = []
    for number in range(30):
        guess = create(api, f"{PASSWORD} {number}", username=name, request_id=request_id)
        reasons.append((await refused(guess)).reason)

    assert reasons[:20] == ["REQUEST_ID_REUSED"] * 20
    assert reasons[-1] == "RATE_LIMITED"
