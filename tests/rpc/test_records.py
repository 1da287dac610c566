"""Records over the wire: written, read back, guarded by revisions, told once."""

from uuid import uuid4

import grpc
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import Api, Person, refused


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
