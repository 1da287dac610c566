"""Domain value ↔ message, a line each."""

import hashlib
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.domain.errors import InvalidArgument, Violation
from service.domain.models import Record, User
from service.store.write_requests import Request


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time on the wire, to the microsecond Postgres keeps."""
    if time is None:
        return None
    # Whole seconds apart: a float of both rounds up beyond the year 2242.
    seconds = int(time.replace(microsecond=0).timestamp())
    return Timestamp(seconds=seconds, nanos=time.microsecond * 1000)


def time(message: Message, field: str) -> datetime | None:
    """The time in an optional field; None when it is not set. Raises InvalidArgument."""
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    try:
        return value.ToDatetime(UTC)
    except ValueError:
        rule = "must be a time between the years 1 and 9999, with 0 to 999,999,999 nanoseconds"
        raise InvalidArgument(Violation(field, "TIMESTAMP_INVALID", rule)) from None


def user(value: User) -> auth_pb2.User:
    """A user on the wire."""
    return auth_pb2.User(
        user_id=str(value.user_id),
        username=value.username,
        create_time=timestamp(value.create_time),
        update_time=timestamp(value.update_time),
    )


def record(value: Record) -> data_pb2.Record:
    """A record on the wire."""
    return data_pb2.Record(
        collection=value.collection,
        key=value.key,
        json=value.json,
        revision=value.revision,
        create_time=timestamp(value.create_time),
        update_time=timestamp(value.update_time),
        expire_time=timestamp(value.expire_time),
    )


def request(message: data_pb2.PutRecordRequest | data_pb2.DeleteRecordRequest) -> Request:
    """What makes a retry recognisable: its id, and a hash over everything it asks for."""
    asked = type(message).__name__.encode() + message.SerializeToString(deterministic=True)
    return Request(uuid(message.request_id), hashlib.sha256(asked).digest())


def uuid(text: str) -> UUID | None:
    """An optional UUID field."""
    return UUID(text) if text else None
