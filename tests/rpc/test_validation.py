"""The quick checks let nothing through that protovalidate refuses."""

from collections.abc import Iterator
from typing import Any, cast

import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
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
]
# Around every bound, in characters and in bytes of characters of one to four.
LENGTHS = [0, 1, 2, 63, 64, 65, 127, 128, 129, 170, 171, 255, 256, 257, 511, 512, 513, 2048, 2049]
# What ends a line or a text for somebody, and what means something in a pattern.
CHARACTERS: list[str] = [*"aZ0._-~/ \n\r\0\x1f\x7f\x80\u2028é€😀]^\\"]
NUMBERS = [-(2**31), -1, 0, 1, 50, 2**31 - 1]


def varied(message: Message) -> Iterator[Any]:
    """The message with one field after the other set to everything worth trying."""
    for field in message.DESCRIPTOR.fields:
        texts = [many * length for many in CHARACTERS for length in LENGTHS]
        texts += ["a" + last for last in CHARACTERS] + [first + "a" for first in CHARACTERS]
        for value in texts if field.type == field.TYPE_STRING else NUMBERS:
            other: Any = type(message)()
            other.CopyFrom(message)
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
    pool = descriptor_pool.DescriptorPool()
    for known in (descriptor_pb2.DESCRIPTOR, *validate_pb2.DESCRIPTOR.dependencies):
        pool.AddSerializedFile(known.serialized_pb)
    pool.AddSerializedFile(validate_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("m.M"))()


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


@pytest.mark.parametrize(
    "message", [pb.BatchGetRecordsRequest(), pb.PutRecordRequest(), pb.DeleteRecordRequest()]
)
def test_lists_choices_and_optional_fields_are_protovalidates_alone(message: Message) -> None:
    assert quick_checks(message) is None
