"""Records on the wire: what one leaves in the message that writes the next."""

import subprocess
import sys

import pytest
from sixfold.data.v1 import data_pb2 as pb

from service.domain.models import NEVER, Record
from service.rpc import convert

PLAIN: Record = "c", "plain", "1", (1, 0, 0, NEVER)
EXPIRING: Record = "c", "expiring", "2", (2, 1_000_001, 2_000_002, 3_000_003)


def written(*records: Record) -> list[pb.Record]:
    response = pb.ListRecordsResponse.FromString(b"".join(map(convert.record, records)))
    return list(response.records)


def test_a_record_has_nothing_of_the_one_before() -> None:
    first, second, third = written(PLAIN, EXPIRING, PLAIN)

    assert first == third
    assert (first.key, first.HasField("expire_time")) == ("plain", False)
    assert second.expire_time.ToJsonString() == "2000-01-01T00:00:03.000003Z"


def test_a_record_that_cannot_be_written_spoils_none_after_it() -> None:
    with pytest.raises(UnicodeEncodeError):
        convert.record(("c", "k", "\ud800", (1, 0, 0, 1)))

    assert [record.key for record in written(PLAIN)] == ["plain"]


def test_what_was_written_is_not_kept() -> None:
    """A message keeps the memory of all values it ever had: 300 MiB of them here."""
    script = """
import resource
from service.rpc import convert
from service.domain.models import NEVER

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

convert.record(("c", "k", "1" * 2**16, (1, 0, 0, NEVER)))
before = peak()
for n in range(4800):
    convert.record(("c", "k", "1" * 2**16, (1, 0, 0, NEVER)))
assert peak() < 1.5 * before, (before, peak())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
