"""The quick checks let nothing through that protovalidate refuses."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.rpc.validation import is_plainly_good, quick_checks

GOOD: list[Message] = [
    pb.GetRecordRequest(collection="notes", key="a/b c"),
    pb.GetUserDataRequest(collection="notes", page_size=50, page_token="token"),
    pb.GetUserDataRequest(),
    pb.ListRecordsRequest(collection="notes"),
    auth_pb2.GetUserRequest(user_id="me"),
    auth_pb2.LogoutRequest(),
    pb.PutRecordRequest(collection="notes", key="a/b c", json="1"),
]
# Around every bound, in characters and in bytes of characters of one to four.
LENGTHS = [0, 1, 2, 63, 64, 65, 127, 128, 129, 170, 171, 255, 256, 257, 511, 512, 513, 2048, 2049]
# What ends a line or a text for somebody, and what means something in a pattern.
CHARACTERS: list[str] = [*"aZ0._-~/ \n\r\0\x1f\x7f\x80\u2028é€😀]^\\"]
NUMBERS = [-(2**31), -1, 0, 1, 50, 2**31 - 1]
VALUES: dict[int, Sequence[Any]] = {
    FieldDescriptor.TYPE_INT32: NUMBERS,
    FieldDescriptor.TYPE_INT64: NUMBERS,
    FieldDescriptor.TYPE_BOOL: [False, True],
    FieldDescriptor.TYPE_MESSAGE: [Timestamp(), Timestamp(seconds=1), Timestamp(nanos=-1)],
}


def varied(message: Message) -> Iterator[Any]:
    """The message with one field after the other set to everything worth trying."""
    for field in message.DESCRIPTOR.fields:
        texts = [many * length for many in CHARACTERS for length in LENGTHS]
        texts += ["a" + last for last in CHARACTERS] + [first + "a" for first in CHARACTERS]
        if field.type == field.TYPE_STRING and field.name == "json":
            texts += ["1" * length for length in (65_535, 65_536, 65_537, 262_144, 262_145)]
        for value in VALUES.get(field.type, texts):
            other: Any = type(message)()
            other.CopyFrom(message)
            if isinstance(value, Message):
                getattr(other, field.name).CopyFrom(value)
            else:
                setattr(other, field.name, value)
            yield other


@pytest.mark.parametrize("message", GOOD, ids=lambda message: type(message).__name__)
def test_what_is_plainly_good_breaks_no_rule(message: Message) -> None:
    checks = quick_checks(message)
    assert checks is not None
    assert is_plainly_good(message, checks)

    for other in varied(message):
        if is_plainly_good(other, checks):
            protovalidate.validate(other)


def made(field: dict[str, Any], message_rule: str = "") -> Message:
    """A message of one field that is not in any proto of ours."""
    rules = validate_pb2.FieldRules(**field)
    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="m", syntax="proto3")
    kind = file.message_type.add(name="M")
    text = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    one = kind.field.add(name="one", number=1, type=text, label=1)
    one.options.Extensions[cast(Any, validate_pb2.field)].CopyFrom(rules)
    if message_rule:
        kind.options.Extensions[cast(Any, validate_pb2.message)].cel_expression.append(message_rule)
    return message_of(file, "m.M")


def message_of(file: descriptor_pb2.FileDescriptorProto, name: str) -> Message:
    pool = descriptor_pool.DescriptorPool()
    for known in (descriptor_pb2.DESCRIPTOR, *validate_pb2.DESCRIPTOR.dependencies):
        pool.AddSerializedFile(known.serialized_pb)
    pool.AddSerializedFile(validate_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


StringRules = validate_pb2.StringRules


@pytest.mark.parametrize(
    ("field", "quick"),
    [
        pytest.param({"string": StringRules(max_len=5)}, True, id="a bound"),
        pytest.param({"string": StringRules(pattern="^[a-z]{1,5}$")}, True, id="a set, so often"),
        pytest.param({"string": StringRules(pattern="^[a-z]{0,9}$", min_len=5)}, False, id="both"),
        pytest.param({"string": StringRules(min_len=3, max_bytes=8)}, False, id="no room"),
        pytest.param({"string": StringRules(pattern="^[!--a]*$", max_len=5)}, False, id="odd set"),
        pytest.param({"string": StringRules(pattern="^a+$", max_len=5)}, False, id="no set"),
        pytest.param({"string": StringRules(max_len=5, prefix="a")}, False, id="another rule"),
        pytest.param({"string": StringRules(min_len=5)}, False, id="without end"),
        pytest.param({"string": StringRules(max_len=5), "required": True}, False, id="required"),
    ],
)
def test_rules_that_are_more_than_a_set_and_bounds_are_protovalidates_alone(
    field: dict[str, Any], quick: bool
) -> None:
    assert (quick_checks(made(field)) is not None) is quick


def test_rules_about_a_whole_message_are_protovalidates_alone() -> None:
    assert quick_checks(made({"string": StringRules(max_len=5)}, "this.one != 'a'")) is None


def test_lists_are_protovalidates_alone() -> None:
    assert quick_checks(pb.BatchGetRecordsRequest()) is None


@pytest.mark.parametrize(
    "more",
    [
        pb.PutRecordRequest(if_revision=0),
        pb.PutRecordRequest(if_absent=False),
        pb.PutRecordRequest(expire_time=Timestamp(seconds=1)),
        pb.PutRecordRequest(request_id="no UUID"),
    ],
)
def test_fields_that_may_be_absent_are_protovalidates_when_they_are_there(
    more: pb.PutRecordRequest,
) -> None:
    request = pb.PutRecordRequest(collection="notes", key="a", json="1")
    checks = quick_checks(request)
    assert checks is not None
    assert is_plainly_good(request, checks)

    request.MergeFrom(more)

    assert not is_plainly_good(request, checks)


def test_a_choice_that_must_be_made_is_protovalidates_alone() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="o.proto", package="o", syntax="proto3")
    kind = file.message_type.add(name="M")
    kind.field.add(name="one", number=1, type=FieldDescriptor.TYPE_BOOL, label=1, oneof_index=0)
    choice = kind.oneof_decl.add(name="choice")
    choice.options.Extensions[cast(Any, validate_pb2.oneof)].required = True

    assert quick_checks(message_of(file, "o.M")) is None
