"""Whose data it is: the token alone says so, and what is not one's own does not exist."""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc.status_pb2 import Status
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.domain import limits
from tests.conftest import Api, Person, refused
from tests.rpc.wire import code, raw, statements

OK = grpc.StatusCode.OK


def put(api: Api, person: Person, key: str = "k", json: str = "1", **more: Any) -> Any:
    request = pb.PutRecordRequest(collection="c", key=key, json=json, **more)
    return api.data.PutRecord(request, metadata=person.metadata)


def get(api: Api, person: Person, key: str = "k") -> Any:
    request = pb.GetRecordRequest(collection="c", key=key)
    return api.data.GetRecord(request, metadata=person.metadata)


def delete(api: Api, person: Person, key: str = "k", **more: Any) -> Any:
    request = pb.DeleteRecordRequest(collection="c", key=key, **more)
    return api.data.DeleteRecord(request, metadata=person.metadata)


async def all_said(api: Api, call: Any) -> tuple[Any, ...]:
    """Everything a caller learns from a refusal, but for the request id."""
    sent = await statements(api, call)
    why = await refused(call)
    status = Status()
    for key, value in await call.trailing_metadata():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    details = [detail for detail in status.details if not detail.type_url.endswith("RequestInfo")]
    return why.code, why.message, str(details), sent


CALLS: dict[str, Any] = {
    "GetRecord": get,
    "DeleteRecord": delete,
    "DeleteRecord at a revision": lambda api, who: delete(api, who, if_revision=1),
    "PutRecord at a revision": lambda api, who: put(api, who, if_revision=1),
}


@pytest.mark.parametrize("name", CALLS)
async def test_somebody_elses_record_is_like_none_at_all(
    api: Api, ann: Person, bob: Person, name: str
) -> None:
    nothing = await all_said(api, CALLS[name](api, bob))
    await put(api, ann)

    assert await all_said(api, CALLS[name](api, bob)) == nothing
    assert (await get(api, ann)).record.json == "1"


async def test_lists_and_pages_have_only_ones_own(api: Api, ann: Person, bob: Person) -> None:
    await put(api, ann, "hers")
    await put(api, bob, "his")

    listing = pb.ListRecordsRequest(collection="c")
    listed = await api.data.ListRecords(listing, metadata=bob.metadata)
    everything = await api.data.GetUserData(pb.GetUserDataRequest(), metadata=bob.metadata)

    for page in (listed, everything):
        assert [record.key for record in page.records] == ["his"]
    assert everything.user.user_id == bob.user_id
    assert everything.revision == 1


async def test_writes_of_two_users_do_not_meet(api: Api, ann: Person, bob: Person) -> None:
    await put(api, ann, json='"hers"')

    assert await code(put(api, bob, json='"his"', if_absent=True)) is OK
    await delete(api, bob)

    assert (await get(api, ann)).record.json == '"hers"'


async def test_reads_at_the_same_moment_are_answered_to_whoever_asked(
    api: Api, ann: Person, bob: Person
) -> None:
    people = [ann, bob]
    for person in people:
        await put(api, person, json=f'"{person.user_id}"')
    gone = await api.new_user()
    await api.auth.Logout(auth_pb2.LogoutRequest(), metadata=gone.metadata)

    async def ask(number: int) -> None:
        who = people[number % 2]
        if number % 7 == 0:
            assert (await refused(get(api, gone))).reason == "SESSION_REVOKED"
        elif number % 5 == 0:
            answer = await api.auth.GetUser(auth_pb2.GetUserRequest(), metadata=who.metadata)
            assert answer.user.user_id == who.user_id
        elif number % 3 == 0:
            assert (await refused(get(api, who, "none"))).reason == "RECORD_NOT_FOUND"
        else:
            assert (await get(api, who)).record.json == f'"{who.user_id}"'

    for start in range(0, 720, 90):  # as many as one connection takes
        await asyncio.gather(*map(ask, range(start, start + 90)))


async def test_what_was_written_is_read_by_the_next_call(api: Api, ann: Person) -> None:
    async def others() -> None:
        while True:
            await asyncio.gather(*(get(api, ann) for _ in range(5)))

    await put(api, ann, json="0")
    noise = asyncio.ensure_future(others())
    for number in range(100):
        await put(api, ann, json=str(number))
        assert (await get(api, ann)).record.json == str(number)
    noise.cancel()
    with suppress(asyncio.CancelledError):
        await noise


@pytest.mark.parametrize("other", ["somebody", str(uuid4()), "' OR 1=1 --", "a\0b"])
async def test_only_oneself_can_be_got(api: Api, ann: Person, other: str) -> None:
    request = auth_pb2.GetUserRequest(user_id=other)

    why = await refused(api.auth.GetUser(request, metadata=ann.metadata))

    assert (why.code, why.reason) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")


async def test_another_user_is_like_none_at_all(api: Api, ann: Person, bob: Person) -> None:
    none = str(uuid4())
    said = [
        await all_said(
            api,
            api.auth.GetUser(auth_pb2.GetUserRequest(user_id=other), metadata=ann.metadata),
        )
        for other in (bob.user_id, none)
    ]

    # What was asked for is said back; nothing else may differ.
    assert str(said[0]).replace(bob.user_id, none) == str(said[1])


async def test_oneself_can_be_got_by_id_and_without(api: Api, ann: Person) -> None:
    by_id = auth_pb2.GetUserRequest(user_id=ann.user_id)

    answers = [
        await api.auth.GetUser(request, metadata=ann.metadata)
        for request in (by_id, auth_pb2.GetUserRequest())
    ]

    assert [answer.user.username for answer in answers] == [ann.username] * 2


async def test_an_owner_in_the_request_is_not_looked_at(api: Api, ann: Person, bob: Person) -> None:
    await put(api, bob, json='"his"')
    request = pb.GetRecordRequest(collection="c", key="k").SerializeToString()
    owner = bob.user_id.encode()
    smuggled = request + b"".join(
        bytes([number << 3 | 2, len(owner)]) + owner for number in range(3, 16)
    )

    why = await refused(raw(api, "sixfold.data.v1.DataService/GetRecord", smuggled, ann.metadata))

    assert why.reason == "RECORD_NOT_FOUND"


async def test_a_user_at_the_quota_can_replace_and_delete_but_not_add(
    api: Api, ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECORDS_PER_USER", 3)
    for number in range(3):
        await put(api, ann, str(number))

    why = await refused(put(api, ann, "one more"))

    assert (why.code, why.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert why.metadata == {"limit": "3"}
    assert (await refused(put(api, ann, "one more", if_absent=True))).reason == "QUOTA_EXCEEDED"
    assert await code(put(api, ann, "0", json="2")) is OK
    assert await code(put(api, bob)) is OK
    await delete(api, ann, "0")
    assert await code(put(api, ann, "one more")) is OK


async def test_writers_at_once_do_not_pass_the_quota(
    api: Api, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECORDS_PER_USER", 5)

    codes = await asyncio.gather(*(code(put(api, ann, str(number))) for number in range(30)))

    assert sorted(each.name for each in codes) == ["OK"] * 5 + ["RESOURCE_EXHAUSTED"] * 25
