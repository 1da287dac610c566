"""Records on the wire, which no message of the generated code writes: the bytes are the same."""

import pytest
from sixfold.data.v1 import data_pb2 as pb

from service.rpc import convert


@pytest.mark.parametrize("size", [1, 120, 127, 128, 2**14 - 10, 2**14, 2**14 + 1, 262_144])
def test_a_record_is_written_as_its_message_would_be(size: int) -> None:
    message = pb.Record(collection="c", key="k", json="1" * size, revision=7)

    written = convert.record(message.SerializeToString())

    assert written == pb.GetRecordResponse(record=message).SerializeToString()


def test_several_are_a_batch() -> None:
    names = [("c", "0"), ("c", "no"), ("c", "full"), ("c", "1")]
    records = [pb.Record(collection="c", key=key, json="1", revision=7) for key in "01"]
    first, second = (record.SerializeToString() for record in records)

    written = convert.batch(names, [first, None, b"", second])

    response = pb.BatchGetRecordsResponse.FromString(written)
    assert list(response.records) == records
    assert [name.key for name in response.unread] == ["full"]
    assert [name.key for name in response.missing] == ["no"]
