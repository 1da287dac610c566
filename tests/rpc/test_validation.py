"""The quick checks let nothing through that protovalidate refuses."""

import random
from typing import Any

import protovalidate
import pytest
from google.protobuf.message import Message
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.rpc.validation import is_plainly_good, quick_checks

QUICK: list[type[Message]] = [
    pb.GetRecordRequest,
    pb.GetUserDataRequest,
    pb.ListRecordsRequest,
    auth_pb2.GetUserRequest,
    auth_pb2.LogoutRequest,
]
# Around every bound, and what ends a line or a text for somebody.
LENGTHS = [0, 1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 511, 512, 513, 2047, 2048, 2049]
CHARACTERS: list[str] = [*"aZ0._-~/ \n\r\0\x1f\x7f\x80\u2028é€😀]^\\"]
NUMBERS = [-(2**31), -1, 0, 1, 50, 2**31 - 1]


def text() -> str:
    most = CHARACTERS[:6] if random.random() < 0.5 else CHARACTERS
    last = random.choice(["", *CHARACTERS]) if random.random() < 0.5 else ""
    filler: str = random.choice(most) * random.choice(LENGTHS)
    return filler + last


def example(kind: type[Message]) -> Any:
    message = kind()
    for field in message.DESCRIPTOR.fields:
        is_text = field.type == field.TYPE_STRING
        setattr(message, field.name, text() if is_text else random.choice(NUMBERS))
    return message


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.__name__)
def test_what_is_plainly_good_breaks_no_rule(kind: type[Message]) -> None:
    random.seed(7)
    checks = quick_checks(kind())
    assert checks is not None
    good = 0
    for _ in range(3_000):
        message = example(kind)
        if is_plainly_good(message, checks):
            good += 1
            protovalidate.validate(message)

    assert good > 100  # or nothing was tried


def test_what_callers_send_is_plainly_good() -> None:
    for message in (
        pb.GetRecordRequest(collection="notes", key="a/b c"),
        pb.GetUserDataRequest(collection="notes", page_size=50, page_token="token"),
        pb.GetUserDataRequest(),
    ):
        checks = quick_checks(message)
        assert checks is not None
        assert is_plainly_good(message, checks)


@pytest.mark.parametrize(
    "kind", [pb.BatchGetRecordsRequest, pb.PutRecordRequest, pb.DeleteRecordRequest]
)
def test_other_rules_are_protovalidates_alone(kind: type[Message]) -> None:
    assert quick_checks(kind()) is None
