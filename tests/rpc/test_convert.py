"""Records on the wire, which no message of the generated code writes: the bytes are the same."""

import pytest
from google.protobuf.message import Message
from sixfold.data.v1 import data_pb2 as pb

from service.domain.models import Record
from service.rpc import convert

STAMPS = pb.Record(revision=7).SerializeToString()


def record(collection: str, key: str, json: str) -> Record:
    return collection.encode(), key.encode(), json.encode(), STAMPS


@pytest.mark.parametrize("size", [1, 127, 128, 2**14 - 1, 2**14, 2**14 + 1, 262_144])
def test_a_record_is_written_as_its_message_would_be(size: int) -> None:
    long, key = "c" * min(size, 128), "ü" * min(size, 256)
    message = pb.Record(collection=long, key=key, json="1" * size, revision=7)

    written = convert.record(record(long, key, "1" * size))

    assert written == pb.GetRecordResponse(record=message).SerializeToString()


def test_several_are_a_page_and_a_batch() -> None:
    records = [record("c", str(number), "1") for number in range(3)]
    expected: list[Message] = [
        pb.Record(collection="c", key=str(number), json="1", revision=7) for number in range(3)
    ]

    written = convert.batch([*records, (b"c", b"full", b"", STAMPS), (b"c", b"no", b"", b"")])

    response = pb.BatchGetRecordsResponse.FromString(written)
    assert list(response.records) == expected
    assert [name.key for name in response.unread] == ["full"]
    assert [name.key for name in response.missing] == ["no"]
