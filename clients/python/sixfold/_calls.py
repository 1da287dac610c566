"""One flow per method of the clients: request, call, value."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from sixfold import _convert, _health, models
from sixfold._flows import Flow, Send, Sleep, authorized, renew
from sixfold._session import Credentials, Session
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2
from sixfold.errors import AlreadyExists, Conflict, NotFound, Unavailable

BATCH_SIZE: Final = 100  # the most names that the service takes at once
UPDATE_TRIES: Final = 10
# A write takes milliseconds, so the losers of a race come back spread over tens of them.
UPDATE_BACKOFF: Final = (0.01, 0.25)
READY_POLL_SECONDS: Final = 0.1


def create_user(session: Session, username: str, password: str) -> Flow[models.User]:
    request = auth_pb2.CreateUserRequest(
        username=username, password=password, request_id=session.new_id()
    )
    reply = yield Send("auth.CreateUser", request)
    return _convert.user(reply.user)


def me(session: Session) -> Flow[models.User]:
    reply = yield from authorized(session, "auth.GetUser", auth_pb2.GetUserRequest())
    return _convert.user(reply.user)


def change_password(
    session: Session, current: str, new: str, *, keep_other_sessions: bool
) -> Flow[None]:
    request = auth_pb2.ChangePasswordRequest(
        current_password=current, new_password=new, keep_other_sessions=keep_other_sessions
    )
    yield from authorized(session, "auth.ChangePassword", request)
    if session.credentials and session.credentials.password == current:
        session.credentials = Credentials(session.credentials.username, new)


def refresh(session: Session) -> Flow[models.Tokens]:
    yield from renew(session, session.access_token)
    return session.require()


def keys() -> Flow[models.KeySet]:
    reply = yield Send("auth.GetJsonWebKeySet", auth_pb2.GetJsonWebKeySetRequest())
    return _convert.keys(reply)


def user_data(
    session: Session, collection: str | None, page_size: int, page_token: str
) -> Flow[models.UserData]:
    request = data_pb2.GetUserDataRequest(
        collection=collection or "", page_size=page_size, page_token=page_token
    )
    reply = yield from authorized(session, "data.GetUserData", request)
    return _convert.page(reply)


def list_page(
    session: Session, collection: str, page_size: int, page_token: str
) -> Flow[tuple[tuple[models.Record, ...], str]]:
    request = data_pb2.ListRecordsRequest(
        collection=collection, page_size=page_size, page_token=page_token
    )
    reply = yield from authorized(session, "data.ListRecords", request)
    return tuple(map(_convert.record, reply.records)), reply.next_page_token


def get(session: Session, collection: str, key: str) -> Flow[models.Record]:
    request = data_pb2.GetRecordRequest(collection=collection, key=key)
    reply = yield from authorized(session, "data.GetRecord", request)
    return _convert.record(reply.record)


def get_many(
    session: Session, names: Iterable[tuple[str, str]]
) -> Flow[dict[tuple[str, str], models.Record]]:
    found = {}
    left = list(dict.fromkeys(names))
    while left:
        asked, left = left[:BATCH_SIZE], left[BATCH_SIZE:]
        request = data_pb2.BatchGetRecordsRequest(
            names=[data_pb2.RecordName(collection=collection, key=key) for collection, key in asked]
        )
        reply = yield from authorized(session, "data.BatchGetRecords", request)
        for record in map(_convert.record, reply.records):
            found[record.collection, record.key] = record
        left[:0] = [(name.collection, name.key) for name in reply.unread]
    return found


def put(
    session: Session,
    collection: str,
    key: str,
    value: Any,
    *,
    if_revision: int | None = None,
    if_absent: bool = False,
    expire_time: datetime | None = None,
    request_id: str | None = None,
) -> Flow[models.Written]:
    if if_absent and if_revision is not None:
        raise ValueError("if_revision and if_absent cannot both hold: give one of them")
    request = data_pb2.PutRecordRequest(
        collection=collection,
        key=key,
        json=models.encode(value),
        if_revision=if_revision,
        expire_time=_convert.timestamp(expire_time) if expire_time else None,
        request_id=request_id or session.new_id(),
    )
    if if_absent:
        request.if_absent = True
    reply = yield from authorized(session, "data.PutRecord", request)
    return _convert.written(reply)


def delete(
    session: Session, collection: str, key: str, *, if_revision: int | None, allow_missing: bool
) -> Flow[int]:
    request = data_pb2.DeleteRecordRequest(
        collection=collection,
        key=key,
        if_revision=if_revision or 0,
        allow_missing=allow_missing,
        request_id=session.new_id(),
    )
    reply = yield from authorized(session, "data.DeleteRecord", request)
    revision: int = reply.revision
    return revision


def update(
    session: Session, collection: str, key: str, fn: Callable[[Any], Any]
) -> Flow[models.Written]:
    first, most = UPDATE_BACKOFF
    for left in reversed(range(UPDATE_TRIES)):
        try:
            record = yield from get(session, collection, key)
        except NotFound:
            record = None
        value = fn(record.value if record else None)
        at = record.revision if record else None
        try:
            return (
                yield from put(
                    session, collection, key, value, if_revision=at, if_absent=record is None
                )
            )
        except (Conflict, AlreadyExists):
            if not left:
                raise
        backoff = min(most, first * 2 ** (UPDATE_TRIES - 1 - left))
        yield Sleep(backoff * session.chance())
    raise AssertionError("unreachable: the last try returns or raises")


def ready() -> Flow[None]:
    while True:
        try:
            if _health.serving((yield Send("health.Check", _health.REQUEST, wait_for_ready=True))):
                return
        except (Unavailable, NotFound):
            pass  # no process yet, or one that has not looked at its database yet
        yield Sleep(READY_POLL_SECONDS)
