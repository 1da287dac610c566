"""Domain value ↔ message, a line each."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.domain.errors import InvalidArgument, Violation
from service.domain.models import Record, User
from service.store.records import Page
from service.store.write_requests import Request

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time on the wire, to the microsecond Postgres keeps."""
    if time is None:
        return None
    stamp = Timestamp()
    _set_time(stamp, time)
    return stamp


def _set_time(into: Timestamp, time: datetime) -> None:
    # In integers: a float of seconds and microseconds rounds up beyond the year 2242.
    since = time - EPOCH
    into.seconds = since.days * 86_400 + since.seconds
    into.nanos = since.microseconds * 1000


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


def set_user(into: auth_pb2.User, value: User) -> None:
    """A user on the wire: in the message it is a field of, because setting that copies."""
    into.user_id = str(value.user_id)
    into.username = value.username
    _set_time(into.create_time, value.create_time)
    _set_time(into.update_time, value.update_time)


def page(value: Page, rest: data_pb2.GetUserDataResponse | data_pb2.ListRecordsResponse) -> bytes:
    """The response with a page's records and the `rest`."""
    return b"".join((*value.records, rest.SerializeToString()))


def batch(names: Iterable[tuple[str, str]], found: Sequence[Record | None]) -> bytes:
    """A BatchGetRecordsResponse with what there is of each name."""
    rest = data_pb2.BatchGetRecordsResponse()
    for (collection, key), value in zip(names, found, strict=True):
        if not value:
            where = rest.missing if value is None else rest.unread
            where.add(collection=collection, key=key)
    return b"".join((*filter(None, found), rest.SerializeToString()))


def request(message: data_pb2.PutRecordRequest | data_pb2.DeleteRecordRequest) -> Request:
    """What makes a retry recognisable: its id, and a hash over everything it asks for."""
    asked = type(message).__name__.encode() + message.SerializeToString(deterministic=True)
    return Request(uuid(message.request_id), hashlib.sha256(asked).digest())


def uuid(text: str) -> UUID | None:
    """An optional UUID field."""
    return UUID(text) if text else None
