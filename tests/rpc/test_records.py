"""Records over the wire: written, read back, guarded by revisions, told once, gone when due."""

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.data.v1 import data_pb2 as pb

from service.store import janitor
from service.store.db import Database
from tests.conftest import Api, Person, execute, refused
from tests.rpc.wire import code

OK = grpc.StatusCode.OK
YEAR_9999 = 253_402_300_799


def put(api: Api, ann: Person, key: str = "k", json: str = "1", **more: Any) -> Any:
    request = pb.PutRecordRequest(collection="c", key=key, json=json, **more)
    return api.data.PutRecord(request, metadata=ann.metadata)


def get(api: Api, ann: Person, key: str = "k") -> Any:
    return api.data.GetRecord(pb.GetRecordRequest(collection="c", key=key), metadata=ann.metadata)


def delete(api: Api, ann: Person, key: str = "k", **more: Any) -> Any:
    request = pb.DeleteRecordRequest(collection="c", key=key, **more)
    return api.data.DeleteRecord(request, metadata=ann.metadata)


def user_data(api: Api, ann: Person) -> Any:
    return api.data.GetUserData(pb.GetUserDataRequest(), metadata=ann.metadata)


def listing(api: Api, ann: Person) -> Any:
    return api.data.ListRecords(pb.ListRecordsRequest(collection="c"), metadata=ann.metadata)


async def expire(database_url: str) -> None:
    """Let every record that is to expire be due."""
    await execute(
        database_url, "UPDATE records SET expire_time = now() WHERE expire_time IS NOT NULL"
    )


def in_an_hour() -> Timestamp:
    moment = Timestamp()
    moment.GetCurrentTime()
    return Timestamp(seconds=moment.seconds + 3600, nanos=123_456_000)


async def test_a_record_that_was_put_is_read_back(api: Api, ann: Person) -> None:
    put = pb.PutRecordRequest(collection="notes", key="first", json='{"n": 1.10, "s": "é"}')

    written = await api.data.PutRecord(put, metadata=ann.metadata)
    read = await api.data.GetRecord(
        pb.GetRecordRequest(collection="notes", key="first"), metadata=ann.metadata
    )

    assert read.record.json == '{"n": 1.10, "s": "é"}'
    assert read.record.revision == written.revision == 1


async def test_a_request_id_is_done_once_and_answered_alike(api: Api, ann: Person) -> None:
    put = pb.PutRecordRequest(collection="c", key="k", json="1", request_id=str(uuid4()))

    first = await api.data.PutRecord(put, metadata=ann.metadata)
    second = await api.data.PutRecord(put, metadata=ann.metadata)

    assert second == first


async def test_a_request_id_for_something_else_is_refused(api: Api, ann: Person) -> None:
    put = pb.PutRecordRequest(collection="c", key="k", json="1", request_id=str(uuid4()))
    await api.data.PutRecord(put, metadata=ann.metadata)

    put.json = "2"
    why = await refused(api.data.PutRecord(put, metadata=ann.metadata))

    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_stale_revision_is_refused_with_the_current_one(api: Api, ann: Person) -> None:
    put = pb.PutRecordRequest(collection="c", key="k", json="1")
    first = await api.data.PutRecord(put, metadata=ann.metadata)
    second = await api.data.PutRecord(put, metadata=ann.metadata)

    put.if_revision = first.revision
    why = await refused(api.data.PutRecord(put, metadata=ann.metadata))

    assert (why.code, why.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert why.metadata == {"revision": str(second.revision)}


async def test_if_absent_refuses_what_is_there(api: Api, ann: Person) -> None:
    put = pb.PutRecordRequest(collection="c", key="k", json="1", if_absent=True)
    await api.data.PutRecord(put, metadata=ann.metadata)

    why = await refused(api.data.PutRecord(put, metadata=ann.metadata))

    assert (why.code, why.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RECORD_EXISTS")


async def test_if_revision_of_what_is_not_there_is_refused_with_zero(api: Api, ann: Person) -> None:
    why = await refused(put(api, ann, if_revision=1))

    assert (why.reason, why.metadata) == ("REVISION_MISMATCH", {"revision": "0"})


@pytest.mark.parametrize(
    ("precondition", "rule"),
    [
        ({"if_revision": 0}, {"if_revision": "INT64_GT"}),
        ({"if_revision": -1}, {"if_revision": "INT64_GT"}),
        ({"if_absent": False}, {"if_absent": "BOOL_CONST"}),
    ],
)
async def test_a_precondition_that_means_nothing_is_refused(
    api: Api, ann: Person, precondition: dict[str, Any], rule: dict[str, str]
) -> None:
    why = await refused(put(api, ann, **precondition))

    assert why.violations == rule


async def test_of_fifty_writers_at_one_revision_one_succeeds(api: Api, ann: Person) -> None:
    first = await put(api, ann)

    codes = await asyncio.gather(
        *(code(put(api, ann, json=str(n), if_revision=first.revision)) for n in range(50))
    )

    assert sorted(each.name for each in codes) == ["ABORTED"] * 49 + ["OK"]
    assert (await get(api, ann)).record.revision == first.revision + 1


async def test_of_fifty_makers_of_one_record_one_succeeds(api: Api, ann: Person) -> None:
    codes = await asyncio.gather(
        *(code(put(api, ann, json=str(n), if_absent=True)) for n in range(50))
    )

    assert sorted(each.name for each in codes) == ["ALREADY_EXISTS"] * 49 + ["OK"]


async def test_of_fifty_repetitions_at_once_one_is_written(api: Api, ann: Person) -> None:
    request_id = str(uuid4())

    answers = await asyncio.gather(*(put(api, ann, request_id=request_id) for _ in range(50)))

    assert {answer.revision for answer in answers} == {1}
    assert (await user_data(api, ann)).revision == 1


async def test_revisions_have_no_gaps_whatever_is_written_at_once(api: Api, ann: Person) -> None:
    for n in range(10):
        await put(api, ann, f"old {n}")

    calls = [put(api, ann, f"new {n}") for n in range(20)]
    calls += [put(api, ann, "shared", json=str(n)) for n in range(20)]
    calls += [delete(api, ann, f"old {n}") for n in range(10)]
    calls += [put(api, ann, "refused", if_revision=1) for _ in range(10)]
    answers = await asyncio.gather(*calls, return_exceptions=True)

    done = sorted(answer.revision for answer in answers if not isinstance(answer, BaseException))
    assert done == list(range(11, 61))
    assert (await user_data(api, ann)).revision == 60


async def test_of_two_records_the_larger_revision_is_the_later(api: Api, ann: Person) -> None:
    await asyncio.gather(*(put(api, ann, f"k{n}") for n in range(30)))

    records = sorted((await user_data(api, ann)).records, key=lambda record: record.revision)

    times = [record.update_time.ToNanoseconds() for record in records]
    assert times == sorted(times)


async def test_writing_again_keeps_the_time_of_making(api: Api, ann: Person) -> None:
    first = await put(api, ann)
    second = await put(api, ann, json="2")

    record = (await get(api, ann)).record

    assert record.create_time == first.create_time == second.create_time
    assert record.update_time == second.update_time
    assert first.create_time == first.update_time
    assert second.update_time.ToNanoseconds() > second.create_time.ToNanoseconds()


async def test_a_request_id_is_not_spent_by_a_refusal(api: Api, ann: Person) -> None:
    request_id = str(uuid4())
    assert await code(put(api, ann, if_revision=1, request_id=request_id)) is not OK

    await put(api, ann)

    answer = await put(api, ann, if_revision=1, request_id=request_id)
    assert answer.revision == 2


async def test_a_request_id_is_the_callers_own(api: Api, ann: Person, bob: Person) -> None:
    request_id = str(uuid4())
    await put(api, ann, json="1", request_id=request_id)

    await put(api, bob, json="2", request_id=request_id)

    assert (await get(api, bob)).record.json == "2"


@pytest.mark.parametrize("request_id", ["1", "x" * 36, f"{{{uuid4()}}}", f"urn:uuid:{uuid4()}"])
async def test_a_request_id_is_a_uuid(api: Api, ann: Person, request_id: str) -> None:
    assert (await refused(put(api, ann, request_id=request_id))).violations == {
        "request_id": "STRING_UUID"
    }


async def test_a_deleted_record_is_gone(api: Api, ann: Person) -> None:
    await put(api, ann)

    answer = await delete(api, ann)

    assert answer.revision == 2
    assert (await refused(get(api, ann))).reason == "RECORD_NOT_FOUND"
    assert list((await listing(api, ann)).records) == []


async def test_deleting_what_is_not_there_fails_unless_allowed(api: Api, ann: Person) -> None:
    why = await refused(delete(api, ann))
    allowed = await delete(api, ann, allow_missing=True)

    assert (why.code, why.reason) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND")
    assert allowed.revision == 0
    assert (await user_data(api, ann)).revision == 0


async def test_only_the_revision_that_was_meant_is_deleted(api: Api, ann: Person) -> None:
    await put(api, ann)
    await put(api, ann, json="2")

    why = await refused(delete(api, ann, if_revision=1, allow_missing=True))

    assert (why.code, why.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert why.metadata == {"revision": "2"}
    assert (await delete(api, ann, if_revision=2)).revision == 3


async def test_a_delete_is_done_once_per_request_id(api: Api, ann: Person) -> None:
    request_id = str(uuid4())
    await put(api, ann)
    first = await delete(api, ann, request_id=request_id)
    await put(api, ann)

    again = await delete(api, ann, request_id=request_id)

    assert again == first
    assert await code(get(api, ann)) is OK


async def test_a_put_and_a_delete_cannot_share_a_request_id(api: Api, ann: Person) -> None:
    request_id = str(uuid4())
    await put(api, ann, request_id=request_id)

    assert (await refused(delete(api, ann, request_id=request_id))).reason == "REQUEST_ID_REUSED"


async def test_a_record_made_again_is_new(api: Api, ann: Person) -> None:
    first = await put(api, ann)
    await delete(api, ann)

    again = await put(api, ann, if_absent=True)

    assert again.create_time.ToNanoseconds() > first.create_time.ToNanoseconds()


async def test_a_record_says_when_it_expires_until_it_is_written_without(
    api: Api, ann: Person
) -> None:
    moment = in_an_hour()
    await put(api, ann, expire_time=moment)
    assert (await get(api, ann)).record.expire_time == moment

    await put(api, ann)

    assert not (await get(api, ann)).record.HasField("expire_time")


async def test_a_record_can_expire_at_the_last_instant_there_is(api: Api, ann: Person) -> None:
    last = Timestamp(seconds=253_402_300_799, nanos=999_999_000)
    await put(api, ann, expire_time=last)

    assert (await get(api, ann)).record.expire_time == last


async def test_an_expired_record_is_gone_from_every_call(
    api: Api, ann: Person, database_url: str
) -> None:
    await put(api, ann, expire_time=in_an_hour())
    await put(api, ann, "kept")

    await expire(database_url)

    assert (await refused(get(api, ann))).reason == "RECORD_NOT_FOUND"
    for page in (await listing(api, ann), await user_data(api, ann)):
        assert [record.key for record in page.records] == ["kept"]
    assert (await refused(delete(api, ann))).reason == "RECORD_NOT_FOUND"
    why = await refused(put(api, ann, if_revision=1))
    assert (why.reason, why.metadata) == ("REVISION_MISMATCH", {"revision": "0"})


async def test_an_expired_record_can_be_made_anew(api: Api, ann: Person, database_url: str) -> None:
    first = await put(api, ann, expire_time=in_an_hour())
    await expire(database_url)

    again = await put(api, ann, if_absent=True)

    assert again.create_time == again.update_time
    assert again.create_time.ToNanoseconds() > first.create_time.ToNanoseconds()
    assert (await get(api, ann)).record.create_time == again.create_time


async def test_a_record_expires_by_itself_when_it_said(api: Api, ann: Person) -> None:
    moment = Timestamp()
    moment.FromMilliseconds(now() // 1_000_000 + 3_000)
    await put(api, ann, expire_time=moment)
    assert await code(get(api, ann)) is OK

    async with asyncio.timeout(20):
        while await code(get(api, ann)) is OK:
            await asyncio.sleep(0.1)

    assert Timestamp().ToNanoseconds() < moment.ToNanoseconds() <= now()


def now() -> int:
    moment = Timestamp()
    moment.GetCurrentTime()
    return moment.ToNanoseconds()


async def test_sweeping_expired_records_makes_room_and_no_revision(
    api: Api, ann: Person, database_url: str, pool: Database
) -> None:
    await put(api, ann, expire_time=in_an_hour())
    await put(api, ann, "kept")
    await expire(database_url)

    await janitor.sweep(pool)

    assert (await user_data(api, ann)).revision == 2
    assert (await put(api, ann)).revision == 3


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=1),
        Timestamp(seconds=-1),
        Timestamp(seconds=-(2**62)),
        Timestamp(seconds=YEAR_9999 + 1),
        Timestamp(seconds=2**62),
        Timestamp(seconds=YEAR_9999, nanos=-1),
        Timestamp(seconds=YEAR_9999, nanos=1_000_000_000),
    ],
    ids=str,
)
async def test_a_time_that_is_past_or_none_at_all_is_refused(
    api: Api, ann: Person, moment: Timestamp
) -> None:
    why = await refused(put(api, ann, expire_time=moment))

    assert why.code is grpc.StatusCode.INVALID_ARGUMENT
    assert why.violations.keys() == {"expire_time"}


async def test_the_last_moment_there_is_can_be_kept(api: Api, ann: Person) -> None:
    last = Timestamp(seconds=YEAR_9999, nanos=999_999_000)

    await put(api, ann, expire_time=last)

    assert (await get(api, ann)).record.expire_time == last


async def test_that_there_was_nothing_to_delete_is_told_again(api: Api, ann: Person) -> None:
    request_id = str(uuid4())
    delete = pb.DeleteRecordRequest(
        collection="c", key="k", allow_missing=True, request_id=request_id
    )
    first = await api.data.DeleteRecord(delete, metadata=ann.metadata)
    put = pb.PutRecordRequest(collection="c", key="k", json="1")
    await api.data.PutRecord(put, metadata=ann.metadata)

    again = await api.data.DeleteRecord(delete, metadata=ann.metadata)

    assert (first.revision, again.revision) == (0, 0)
    get = pb.GetRecordRequest(collection="c", key="k")
    assert (await api.data.GetRecord(get, metadata=ann.metadata)).record.json == "1"
