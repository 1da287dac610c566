"""Message ↔ value: the only place that knows both."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from sixfold import models
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2


def user(message: auth_pb2.User) -> models.User:
    return models.User(
        message.user_id, message.username, _time(message.create_time), _time(message.update_time)
    )


def tokens(message: auth_pb2.Tokens) -> models.Tokens:
    return models.Tokens(
        access_token=message.access_token,
        access_token_expire_time=_time(message.access_token_expire_time),
        refresh_token=message.refresh_token,
        refresh_token_expire_time=_time(message.refresh_token_expire_time),
        session_id=message.session_id,
        scopes=tuple(message.scopes),
    )


def keys(message: auth_pb2.GetJsonWebKeySetResponse) -> models.KeySet:
    names = [field.name for field in auth_pb2.JsonWebKey.DESCRIPTOR.fields]
    return models.KeySet(
        tuple({name: getattr(key, name) for name in names} for key in message.keys),
        message.max_age.ToTimedelta(),
    )


def record(message: data_pb2.Record) -> models.Record:
    return models.Record(
        collection=message.collection,
        key=message.key,
        json=message.json,
        revision=message.revision,
        create_time=_time(message.create_time),
        update_time=_time(message.update_time),
        expire_time=_time(message.expire_time) if message.HasField("expire_time") else None,
    )


def written(message: data_pb2.PutRecordResponse) -> models.Written:
    return models.Written(message.revision, _time(message.create_time), _time(message.update_time))


def page(message: data_pb2.GetUserDataResponse) -> models.UserData:
    return models.UserData(
        user(message.user),
        message.revision,
        tuple(map(record, message.records)),
        message.next_page_token,
    )


def timestamp(moment: datetime) -> Timestamp:
    """Raises ValueError for a naive datetime: protobuf would take it for UTC, silently."""
    if moment.tzinfo is None:
        raise ValueError("expire_time has no time zone: use an aware datetime")
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
