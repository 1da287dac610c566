"""Many records in one answer: in the order asked, of one instant, and never too large to arrive."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.domain import limits
from tests.conftest import PASSWORD, Api, Person, execute, refused
from tests.rpc.test_records import expire, in_an_hour
from tests.rpc.wire import statements

Name = tuple[str, str]
KIB = 1024
MIB = 1024 * KIB
YEAR_9999 = 253_402_300_799


def put(
    api: Api, ann: Person, key: str, json: str = "1", collection: str = "c", **more: Any
) -> Any:
    request = pb.PutRecordRequest(collection=collection, key=key, json=json, **more)
    return api.data.PutRecord(request, metadata=ann.metadata)


async def get(api: Api, ann: Person, key: str, collection: str = "c") -> pb.Record:
    request = pb.GetRecordRequest(collection=collection, key=key)
    return (await api.data.GetRecord(request, metadata=ann.metadata)).record


def batch(api: Api, ann: Person, *names: str | Name) -> Any:
    """Names without a collection are in "c"."""
    pairs = [("c", name) if isinstance(name, str) else name for name in names]
    request = pb.BatchGetRecordsRequest(
        names=[pb.RecordName(collection=collection, key=key) for collection, key in pairs]
    )
    return api.data.BatchGetRecords(request, metadata=ann.metadata)


def keys(found: Sequence[pb.Record | pb.RecordName]) -> list[str]:
    return [each.key for each in found]


async def test_each_record_is_what_get_record_returns(api: Api, ann: Person) -> None:
    await put(api, ann, "a", '{"n": 1.10, "s": "é"}')
    await put(api, ann, "b", "null", expire_time=in_an_hour())
    await put(api, ann, "a", "2")
    await put(api, ann, "🦊", '""', collection="d")

    answer = await batch(api, ann, "a", "b", ("d", "🦊"))

    assert list(answer.records) == [
        await get(api, ann, "a"),
        await get(api, ann, "b"),
        await get(api, ann, "🦊", "d"),
    ]
    assert not answer.missing
    assert not answer.unread


async def test_records_and_missing_names_are_in_the_order_asked(api: Api, ann: Person) -> None:
    for key in "abcd":
        await put(api, ann, key)

    answer = await batch(api, ann, "y", "c", "a", ("d", "a"), "d", "x", "b")

    assert keys(answer.records) == ["c", "a", "d", "b"]
    missing = [(name.collection, name.key) for name in answer.missing]
    assert missing == [("c", "y"), ("d", "a"), ("c", "x")]


async def test_nothing_at_all_is_no_error(api: Api, ann: Person) -> None:
    answer = await batch(api, ann, "a", "b")

    assert keys(answer.missing) == ["a", "b"]
    assert not answer.records


async def test_a_name_given_twice_is_answered_twice(api: Api, ann: Person) -> None:
    await put(api, ann, "a")

    answer = await batch(api, ann, "a", "x", "a", "x")

    assert list(answer.records) == [await get(api, ann, "a")] * 2
    assert keys(answer.missing) == ["x", "x"]


async def test_a_hundred_records_come_in_one_statement(api: Api, ann: Person) -> None:
    names = [f"k{number}" for number in range(limits.BATCH_SIZE_MAX)]
    await asyncio.gather(*(put(api, ann, key) for key in names))
    call = batch(api, ann, *reversed(names))

    sent = await statements(api, call)

    assert len(sent) == 1
    assert keys((await call).records) == names[::-1]


@pytest.mark.parametrize("count", [0, limits.BATCH_SIZE_MAX + 1])
async def test_no_name_and_one_too_many_are_refused(api: Api, ann: Person, count: int) -> None:
    call = batch(api, ann, *["k"] * count)

    assert await statements(api, call) == []
    why = await refused(call)
    assert why.code is grpc.StatusCode.INVALID_ARGUMENT
    assert why.violations == {"names": "REPEATED_MAX_ITEMS" if count else "REPEATED_MIN_ITEMS"}


async def test_every_bad_name_is_told_by_its_place(api: Api, ann: Person) -> None:
    call = batch(api, ann, "good", ("a b", "k"), "", ("c", "a\n"), ("", "é" * 257))

    assert await statements(api, call) == []
    assert (await refused(call)).violations == {
        "names[1].collection": "STRING_PATTERN",
        "names[2].key": "STRING_MIN_LEN",
        "names[3].key": "STRING_PATTERN",
        "names[4].collection": "STRING_PATTERN",
        "names[4].key": "STRING_MAX_BYTES",
    }


async def test_the_longest_names_there_are_can_all_be_asked_for(api: Api, ann: Person) -> None:
    names = [("c" * 128, "🦊" * 127 + f"{n:04}") for n in range(limits.BATCH_SIZE_MAX)]
    await put(api, ann, names[7][1], collection=names[7][0])

    answer = await batch(api, ann, *names)

    assert keys(answer.records) == [names[7][1]]
    assert len(answer.missing) == limits.BATCH_SIZE_MAX - 1


async def test_names_are_taken_literally(api: Api, ann: Person) -> None:
    odd = ["%", "_", "\\", '"', "{a,b}", "NULL", "null", " ", "a/b", "'; DROP TABLE records; --"]
    for number, key in enumerate(odd):
        await put(api, ann, key, str(number))

    answer = await batch(api, ann, *odd, "a", "b", "x")

    assert [record.json for record in answer.records] == list(map(str, range(len(odd))))
    assert keys(answer.missing) == ["a", "b", "x"]


async def test_somebody_elses_records_are_like_none_at_all(
    api: Api, ann: Person, bob: Person
) -> None:
    await put(api, bob, "his")
    nothing = await batch(api, bob, "hers", "his", ("d", "hers"))
    await put(api, ann, "hers")
    await put(api, ann, "hers", collection="d")

    assert await batch(api, bob, "hers", "his", ("d", "hers")) == nothing
    assert keys(nothing.records) == ["his"]


async def test_an_expired_record_is_missing(api: Api, ann: Person, database_url: str) -> None:
    await put(api, ann, "a", expire_time=in_an_hour())
    await put(api, ann, "b")

    await expire(database_url)
    answer = await batch(api, ann, "a", "b")

    assert (keys(answer.records), keys(answer.missing)) == (["b"], ["a"])


async def test_an_ended_session_reads_nothing_and_costs_one_statement(
    api: Api, ann: Person
) -> None:
    await put(api, ann, "a")
    await api.auth.Logout(auth_pb2.LogoutRequest(), metadata=ann.metadata)
    call = batch(api, ann, "a", "x")

    assert len(await statements(api, call)) == 1
    assert (await refused(call)).reason == "SESSION_REVOKED"


async def test_a_token_that_cannot_read_cannot_read_many(api: Api, ann: Person) -> None:
    login = auth_pb2.LoginRequest(
        username=ann.username, password=PASSWORD, scopes=["account", "data.write"]
    )
    tokens = (await api.auth.Login(login)).tokens

    why = await refused(batch(api, Person(ann.username, ann.user_id, tokens), "a"))

    assert (why.reason, why.metadata) == ("SCOPE_MISSING", {"scope": "data.read"})


async def test_a_batch_ends_at_one_mebibyte_and_says_what_is_left(api: Api, ann: Person) -> None:
    names = [f"k{number:02}" for number in range(20)]
    for key in names:
        await put(api, ann, key, '"' + "x" * (250 * KIB) + '"')
    asked: list[str] = [*names[:10], "none", *names[10:]]

    seen, rounds = [], 0
    while asked:
        answer = await batch(api, ann, *asked)
        assert answer.ByteSize() < MIB + 300 * KIB
        assert keys(answer.missing) == (["none"] if not rounds else [])
        seen += keys(answer.records)
        asked = keys(answer.unread)
        rounds += 1

    assert seen == names
    assert rounds == 4


async def test_the_largest_batch_still_arrives(api: Api, ann: Person) -> None:
    largest = '"' + "x" * (limits.VALUE_BYTES - 2) + '"'
    for number in range(5):
        await put(api, ann, f"k{number}", largest)

    answer = await batch(api, ann, *[f"k{number % 5}" for number in range(limits.BATCH_SIZE_MAX)])

    assert keys(answer.records) == ["k0", "k1", "k2", "k3"]
    assert len(answer.unread) == limits.BATCH_SIZE_MAX - 4


async def test_what_follows_a_full_answer_is_unread_however_small(
    api: Api, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_BYTES", 10)
    await put(api, ann, "long", '"xxxxxxxxxxxxxxxxxxxx"')
    await put(api, ann, "short")

    first = await batch(api, ann, "short", "long", "none", "short")
    second = await batch(api, ann, "long", "short")

    assert (keys(first.records), keys(first.unread)) == (["short", "long"], ["short"])
    assert keys(first.missing) == ["none"]
    assert (keys(second.records), keys(second.unread)) == (["long"], ["short"])


async def test_all_of_a_batch_is_of_one_instant(api: Api, ann: Person) -> None:
    """A writer raises b, then a: whoever reads them at one instant finds b equal or one ahead,
    wherever they stand in the request.
    """
    await put(api, ann, "b", "0")
    await put(api, ann, "a", "0")

    async def write() -> None:
        for number in range(1, 300):
            await put(api, ann, "b", str(number))
            await put(api, ann, "a", str(number))

    writing = asyncio.ensure_future(write())
    seen = set()
    while not writing.done():
        first, second, third = (await batch(api, ann, "a", "b", "a")).records
        assert first == third
        ahead = int(second.json) - int(first.json)
        assert ahead in (0, 1)
        seen.add(ahead)
    await writing

    assert seen == {0, 1}


async def test_what_was_written_is_in_the_next_batch(api: Api, ann: Person) -> None:
    for number in range(50):
        await put(api, ann, "a", str(number))
        assert (await batch(api, ann, "a")).records[0].json == str(number)


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00.000001Z",
        "2000-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999998Z",
    ],
)
async def test_times_are_exact_to_the_microsecond_in_any_year(
    api: Api, ann: Person, database_url: str, moment: str
) -> None:
    last = Timestamp(seconds=YEAR_9999, nanos=999_999_000)
    await put(api, ann, "a", expire_time=last)
    made = f"UPDATE records SET create_time = '{moment}' WHERE user_id = '{ann.user_id}'"
    await execute(database_url, made)

    (record,) = (await batch(api, ann, "a")).records

    assert record.create_time.ToJsonString() == moment
    assert record.expire_time == last
    assert record == await get(api, ann, "a")


@pytest.mark.parametrize("count", [limits.BATCH_SIZE_MAX + 1, 160_000])
async def test_of_too_many_bad_names_only_the_first_fault_is_told(
    api: Api, ann: Person, count: int
) -> None:
    """Or one message would hold up everybody for seconds."""
    request = pb.BatchGetRecordsRequest(names=[pb.RecordName()] * count)

    why = await refused(api.data.BatchGetRecords(request, metadata=ann.metadata))

    assert why.violations == {"names": "REPEATED_MAX_ITEMS"}


async def test_of_too_many_bad_scopes_only_the_first_fault_is_told(api: Api) -> None:
    request = auth_pb2.LoginRequest(username="", password="", scopes=["?"] * 100_000)

    why = await refused(api.auth.Login(request))

    assert why.violations == {"username": "STRING_MIN_LEN"}
