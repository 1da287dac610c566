"""Domain value ↔ message, a line each."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.domain.errors import InvalidArgument, Violation
from service.domain.models import Record, User
from service.store.records import EPOCH as POSTGRES_EPOCH
from service.store.records import Answer
from service.store.write_requests import Request

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_2000: Final = int(POSTGRES_EPOCH.timestamp())


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


def record(value: Record, into: data_pb2.Record) -> None:
    """A record on the wire. In place: to make a message and have it copied costs twice as much."""
    into.collection = value.collection
    into.key = value.key
    into.json = value.json
    into.revision = value.revision
    _set(into.create_time, value.create_time)
    _set(into.update_time, value.update_time)
    if value.expire_time is not None:
        # The first and the last instant there are come back from asyncpg without a time zone.
        into.expire_time.FromDatetime(value.expire_time)


def batch(
    names: Iterable[tuple[str, str]], answers: Iterable[Answer | None]
) -> data_pb2.BatchGetRecordsResponse:
    """What there is of each name, on the wire. Set field by field and in place: a hundred messages
    made first and copied in cost three times as much.
    """
    response = data_pb2.BatchGetRecordsResponse()
    add = response.records.add
    for (collection, key), answer in zip(names, answers, strict=True):
        if answer is None:
            response.missing.add(collection=collection, key=key)
            continue
        json, revision, create_time, update_time, expire_time = answer
        if json is None:
            response.unread.add(collection=collection, key=key)
            continue
        found = add()
        found.collection = collection
        found.key = key
        found.json = json
        found.revision = revision
        _set_microseconds(found.create_time, create_time)
        _set_microseconds(found.update_time, update_time)
        if expire_time is not None:
            found.expire_time.FromDatetime(expire_time)
    return response


def _set_microseconds(stamp: Timestamp, since_2000: int) -> None:
    seconds, rest = divmod(since_2000, 1_000_000)
    stamp.seconds = _2000 + seconds
    stamp.nanos = rest * 1000


def request(message: data_pb2.PutRecordRequest | data_pb2.DeleteRecordRequest) -> Request:
    """What makes a retry recognisable: its id, and a hash over everything it asks for."""
    asked = type(message).__name__.encode() + message.SerializeToString(deterministic=True)
    return Request(uuid(message.request_id), hashlib.sha256(asked).digest())


def uuid(text: str) -> UUID | None:
    """An optional UUID field."""
    return UUID(text) if text else None
