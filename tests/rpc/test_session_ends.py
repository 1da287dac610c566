"""Sessions that end: by logout, by a changed password, by an operator, by newer sessions. All of
them at the very next call, at every server.
"""

import asyncio
from typing import Any

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2 as pb
from sixfold.data.v1 import data_pb2

from service import admin
from service.domain import limits
from tests.conftest import PASSWORD, Api, Person, make_settings, refused, serving
from tests.rpc.conftest import QUIET
from tests.rpc.wire import code

NEW = "another secret for ann to keep"
OK = grpc.StatusCode.OK


def reading(api: Api, person: Person) -> Any:
    return api.data.GetUserData(data_pb2.GetUserDataRequest(), metadata=person.metadata)


def refreshing(api: Api, person: Person) -> Any:
    request = pb.RefreshTokensRequest(refresh_token=person.tokens.refresh_token)
    return api.auth.RefreshTokens(request)


def logout(api: Api, person: Person) -> Any:
    return api.auth.Logout(pb.LogoutRequest(), metadata=person.metadata)


def change(api: Api, person: Person, old: str = PASSWORD, new: str = NEW, **more: Any) -> Any:
    request = pb.ChangePasswordRequest(current_password=old, new_password=new, **more)
    return api.auth.ChangePassword(request, metadata=person.metadata)


async def lives(api: Api, person: Person) -> bool:
    """Whether both tokens are of use. Asks for data first: a refresh leaves something behind."""
    data, refresh = await code(reading(api, person)), await code(refreshing(api, person))
    assert (data is OK) == (refresh is OK), (data, refresh)
    return data is OK


async def revoked(api: Api, person: Person) -> set[str]:
    """Why everything that takes a token is refused."""
    metadata = person.metadata
    named: dict[str, Any] = {"collection": "c", "key": "k"}
    calls: list[Any] = [
        reading(api, person),
        refreshing(api, person),
        change(api, person),
        api.auth.GetUser(pb.GetUserRequest(), metadata=metadata),
        api.data.GetRecord(data_pb2.GetRecordRequest(**named), metadata=metadata),
        api.data.BatchGetRecords(data_pb2.BatchGetRecordsRequest(names=[named]), metadata=metadata),
        api.data.ListRecords(data_pb2.ListRecordsRequest(collection="c"), metadata=metadata),
        api.data.DeleteRecord(data_pb2.DeleteRecordRequest(**named), metadata=metadata),
        *(
            api.data.PutRecord(data_pb2.PutRecordRequest(json="1", **more), metadata=metadata)
            for more in (named, named | {"if_revision": 1}, named | {"if_absent": True})
        ),
    ]
    return {(await refused(call)).reason for call in calls}


async def test_a_logout_holds_at_the_next_call_of_every_kind(api: Api, ann: Person) -> None:
    assert await code(reading(api, ann)) is OK

    await logout(api, ann)

    assert await revoked(api, ann) == {"SESSION_REVOKED"}


async def test_a_logout_holds_at_another_server_at_once(api: Api, database_url: str) -> None:
    async with serving(database_url, **QUIET) as other:
        for _ in range(20):
            ann = await api.new_user()
            assert await code(reading(other, ann)) is OK

            await logout(api, ann)

            assert (await refused(reading(other, ann))).reason == "SESSION_REVOKED"


async def test_logging_out_twice_is_no_error(api: Api, ann: Person) -> None:
    await logout(api, ann)

    assert await code(logout(api, ann)) is OK


async def test_a_logout_leaves_the_users_other_sessions(api: Api, ann: Person) -> None:
    other = await api.login(ann.username)

    await logout(api, ann)

    assert await lives(api, other)


async def test_a_logout_leaves_other_users(api: Api, ann: Person, bob: Person) -> None:
    await logout(api, ann)

    assert await lives(api, bob)


async def test_a_changed_password_ends_the_other_sessions_and_keeps_this(
    api: Api, ann: Person
) -> None:
    other = await api.login(ann.username)

    await change(api, ann)

    assert await revoked(api, other) == {"SESSION_REVOKED"}
    assert await lives(api, ann)


async def test_a_changed_password_can_keep_the_other_sessions(api: Api, ann: Person) -> None:
    other = await api.login(ann.username)

    await change(api, ann, keep_other_sessions=True)

    assert await lives(api, other)
    assert await lives(api, ann)


async def test_only_the_new_password_logs_in(api: Api, ann: Person) -> None:
    await change(api, ann)

    old = pb.LoginRequest(username=ann.username, password=PASSWORD)
    assert (await refused(api.auth.Login(old))).reason == "BAD_CREDENTIALS"
    assert await lives(api, await api.login(ann.username, NEW))


async def test_a_wrong_current_password_changes_nothing(api: Api, ann: Person) -> None:
    other = await api.login(ann.username)

    why = await refused(change(api, ann, old="not the password"))

    assert (why.code, why.reason) == (grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS")
    assert await lives(api, ann)
    assert await lives(api, other)
    assert await lives(api, await api.login(ann.username))


async def test_a_bad_new_password_changes_nothing(api: Api, ann: Person) -> None:
    why = await refused(change(api, ann, new="too short"))

    assert why.violations == {"new_password": "PASSWORD_TOO_SHORT"}
    assert await lives(api, await api.login(ann.username))


async def test_a_login_that_races_a_password_change_does_not_survive_it(
    api: Api, ann: Person
) -> None:
    passwords = [PASSWORD, NEW]
    for _ in range(10):
        old, new = passwords
        login = pb.LoginRequest(username=ann.username, password=old)

        racing = [asyncio.ensure_future(outcome(api.auth.Login(login))) for _ in range(4)]
        await change(api, ann, old=old, new=new)
        opened = [answer for answer in await asyncio.gather(*racing) if answer is not None]

        people = [Person(ann.username, ann.user_id, answer.tokens) for answer in opened]
        assert [await lives(api, person) for person in people] == [False] * len(people)
        assert await code(reading(api, ann)) is OK
        passwords.reverse()


async def outcome(call: Any) -> Any:
    """The answer, or None for a refusal."""
    return await call if await call.code() is OK else None


async def test_two_password_changes_at_once_make_one(api: Api, ann: Person) -> None:
    other = await api.login(ann.username)

    codes = await asyncio.gather(
        code(change(api, ann, new=NEW + " 1")), code(change(api, other, new=NEW + " 2"))
    )

    assert sorted(each is OK for each in codes) == [False, True]
    assert await lives(api, ann) == (codes[0] is OK)
    assert await lives(api, other) == (codes[1] is OK)


async def test_a_disabled_user_is_out_everywhere_at_once(
    api: Api, ann: Person, bob: Person, database_url: str
) -> None:
    other = await api.login(ann.username)

    await admin.user_disable(make_settings(database_url), ann.username)

    assert await revoked(api, ann) == {"SESSION_REVOKED"}
    assert await revoked(api, other) == {"SESSION_REVOKED"}
    login = pb.LoginRequest(username=ann.username, password=PASSWORD)
    assert (await refused(api.auth.Login(login))).reason == "BAD_CREDENTIALS"
    assert await lives(api, bob)


async def test_the_login_after_the_hundredth_ends_the_oldest(api: Api, ann: Person) -> None:
    others = [await api.login(ann.username) for _ in range(limits.SESSIONS_PER_USER - 1)]
    assert await code(reading(api, ann)) is OK

    newest = await api.login(ann.username)

    assert await revoked(api, ann) == {"SESSION_REVOKED"}
    assert await lives(api, others[0])
    assert await lives(api, newest)


async def test_sessions_that_have_ended_do_not_count(
    api: Api, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_USER", 3)
    ended = [await api.login(ann.username) for _ in range(2)]
    await logout(api, ended[0])
    await change(api, ann)

    again = [await api.login(ann.username, NEW) for _ in range(2)]

    assert [await lives(api, person) for person in (ann, *ended, *again)] == [
        True,
        False,
        False,
        True,
        True,
    ]


async def test_a_password_change_can_be_repeated_when_its_answer_was_lost(
    api: Api, ann: Person
) -> None:
    request = pb.ChangePasswordRequest(current_password=PASSWORD, new_password=PASSWORD + "!")
    await api.auth.ChangePassword(request, metadata=ann.metadata)

    await api.auth.ChangePassword(request, metadata=ann.metadata)

    assert (await api.login(ann.username, PASSWORD + "!")).user_id == ann.user_id
