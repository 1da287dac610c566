"""Records on the wire, which no message of the generated code writes: it reads them."""

from sixfold.data.v1 import data_pb2 as pb

from service.rpc import convert


def test_several_are_a_batch() -> None:
    names = [("c", "0"), ("c", "no"), ("c", "full"), ("c", "1")]
    records = [pb.Record(collection="c", key=key, json="1", revision=7) for key in "01"]
    first, second = (pb.GetRecordResponse(record=each).SerializeToString() for each in records)

    written = convert.batch(names, [first, None, b"", second])

    response = pb.BatchGetRecordsResponse.FromString(written)
    assert list(response.records) == records
    assert [name.key for name in response.unread] == ["full"]
    assert [name.key for name in response.missing] == ["no"]
