"""Domain value ↔ message, a line each."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.domain.errors import InvalidArgument, Violation
from service.domain.models import NEVER, Record, User
from service.store.records import Page
from service.store.write_requests import Request

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Where Postgres counts from, in microseconds since EPOCH.
_2000: Final = 946_684_800_000_000
# asyncpg writes the last moment that a datetime can be as infinity.
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) - _2000


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time on the wire, to the microsecond Postgres keeps."""
    return None if time is None else _set(Timestamp(), time)


def _set(stamp: Timestamp, time: datetime) -> Timestamp:
    # In integers: a float of seconds and microseconds rounds up beyond the year 2242.
    since = time - EPOCH
    stamp.seconds = since.days * 86_400 + since.seconds
    stamp.nanos = since.microseconds * 1000
    return stamp


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


class _FieldWriter:
    """Writes a record as a response's first field, which it is in all of them: alone, or one of
    several. Fields that follow each other are a message, so what reads records is answered in
    bytes. One message serves many records, because half of what a record costs is to make the
    objects that stand for its parts; not for ever, as it keeps the memory of every value it had.
    """

    __slots__ = ("_created", "_expires", "_into", "_response", "_room", "_updated")

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._response = data_pb2.GetRecordResponse()
        self._into = into = self._response.record
        self._created, self._updated = into.create_time, into.update_time
        self._expires = False
        self._room = 64 * 1024  # bytes to write before the next one

    def __call__(self, value: Record) -> bytes:
        if self._room < 0:
            self._renew()
        into, created, updated = self._into, self._created, self._updated
        into.collection, into.key, into.json, stamps = value
        into.revision, create_time, update_time, expire_time = stamps
        created.seconds, rest = divmod(create_time + _2000, 1_000_000)
        created.nanos = rest * 1000
        updated.seconds, rest = divmod(update_time + _2000, 1_000_000)
        updated.nanos = rest * 1000
        if expire_time != NEVER:
            expires = into.expire_time
            expires.seconds, rest = divmod(min(expire_time, _LAST) + _2000, 1_000_000)
            expires.nanos = rest * 1000
            self._expires = True
        elif self._expires:
            into.ClearField("expire_time")
            self._expires = False
        written = self._response.SerializeToString()
        self._room -= len(written)
        return written


_first_field: Final = _FieldWriter()


def record(value: Record) -> bytes:
    """A GetRecordResponse, as bytes."""
    return _first_field(value)


def page(value: Page, rest: data_pb2.GetUserDataResponse | data_pb2.ListRecordsResponse) -> bytes:
    """The response with a page's records and the `rest`, as bytes."""
    return b"".join((*map(_first_field, value.records), rest.SerializeToString()))


def batch(values: Iterable[Record]) -> bytes:
    """A BatchGetRecordsResponse with what there is of each name, as bytes."""
    rest = data_pb2.BatchGetRecordsResponse()
    fields = []
    for value in values:
        collection, key, json, (revision, *_) = value
        if json:
            fields.append(_first_field(value))
        elif revision:
            rest.unread.add(collection=collection, key=key)
        else:
            rest.missing.add(collection=collection, key=key)
    fields.append(rest.SerializeToString())
    return b"".join(fields)


def request(message: data_pb2.PutRecordRequest | data_pb2.DeleteRecordRequest) -> Request:
    """What makes a retry recognisable: its id, and a hash over everything it asks for."""
    asked = type(message).__name__.encode() + message.SerializeToString(deterministic=True)
    return Request(uuid(message.request_id), hashlib.sha256(asked).digest())


def uuid(text: str) -> UUID | None:
    """An optional UUID field."""
    return UUID(text) if text else None
