"""What a right answer is: one function per call. Each raises Wrong, or grpc's own error."""

import base64
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
from sixfold.auth.v1 import auth_pb2 as auth
from sixfold.auth.v1 import auth_pb2_grpc
from sixfold.data.v1 import data_pb2 as data
from sixfold.data.v1 import data_pb2_grpc

from bench import calls

TIMEOUT: Final = 20.0  # a busy machine makes logins wait; the server's own limit is 30
CONNECTIONS: Final = 4  # below the server's 100 streams on each at 128 in flight


class Wrong(Exception):
    """An answer that is not what was asked for."""


@dataclass
class Person:
    """Somebody of the cast, and what an answer to them must hold."""

    number: int
    username: str
    user_id: str = ""
    session_id: str = ""
    access_token: str = ""
    refresh_token: str = ""
    revision: int = 0
    records: list[data.Record] = field(default_factory=list)
    batch: list[data.Record] = field(default_factory=list)

    @property
    def metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self.access_token}"),)


class Api:
    """Stubs of one server, on a few connections that take turns."""

    def __init__(self, target: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(target, options) for _ in range(CONNECTIONS)]
        self._auth = itertools.cycle(list(map(auth_pb2_grpc.AuthServiceStub, channels)))
        self._data = itertools.cycle(list(map(data_pb2_grpc.DataServiceStub, channels)))
        self._echo: itertools.cycle[Any] = itertools.cycle(
            [each.unary_unary(calls.ECHO.path) for each in channels]
        )

    @property
    def auth(self) -> Any:
        return next(self._auth)

    @property
    def data(self) -> Any:
        return next(self._data)

    async def knock(self) -> int:
        answer = await self.auth.GetJsonWebKeySet(auth.GetJsonWebKeySetRequest(), timeout=TIMEOUT)
        return len(answer.keys)

    async def echo(self, message: bytes, who: Person) -> Any:
        return await next(self._echo)(message, metadata=who.metadata, timeout=TIMEOUT)


def right(holds: bool, answer: object) -> None:
    """Raises Wrong, with the beginning of the answer."""
    if not holds:
        raise Wrong(str(answer)[:300])


async def echo(api: Api, who: Person) -> None:
    message = data.GetRecordResponse(record=who.records[0]).SerializeToString()
    answer = await api.echo(message, who)
    right(answer == message, answer)


async def get_record(api: Api, who: Person) -> None:
    expected = random.choice(who.records)
    request = data.GetRecordRequest(collection=expected.collection, key=expected.key)
    answer = await api.data.GetRecord(request, metadata=who.metadata, timeout=TIMEOUT)
    right(answer.record == expected, answer)


async def batch_get_records(api: Api, who: Person) -> None:
    expected = random.sample(who.batch, len(who.batch))
    names = [data.RecordName(collection=each.collection, key=each.key) for each in expected]
    request = data.BatchGetRecordsRequest(names=names)
    answer = await api.data.BatchGetRecords(request, metadata=who.metadata, timeout=TIMEOUT)
    right(list(answer.records) == expected and not answer.missing, answer)


async def get_user_data(api: Api, who: Person) -> None:
    request = data.GetUserDataRequest(collection=calls.COLLECTION)
    answer = await api.data.GetUserData(request, metadata=who.metadata, timeout=TIMEOUT)
    right(list(answer.records) == who.records and not answer.next_page_token, answer)
    right(answer.user.user_id == who.user_id and answer.user.username == who.username, answer)
    right(answer.revision == who.records[-1].revision, answer)


async def put_record(api: Api, who: Person) -> None:
    before = who.revision
    answer = await api.data.PutRecord(calls.WRITTEN, metadata=who.metadata, timeout=TIMEOUT)
    right(answer.revision > before and answer.HasField("update_time"), answer)
    who.revision = max(who.revision, answer.revision)


async def login(api: Api, who: Person) -> None:
    request = auth.LoginRequest(username=who.username, password=calls.PASSWORD)
    answer = await api.auth.Login(request, timeout=TIMEOUT)
    right(answer.user.user_id == who.user_id and bool(answer.tokens.refresh_token), answer)
    told = claims(answer.tokens.access_token)
    right(told["sub"] == who.user_id and told["sid"] == answer.tokens.session_id, answer)


async def refresh_tokens(api: Api, who: Person) -> None:
    request = auth.RefreshTokensRequest(refresh_token=who.refresh_token)
    tokens = (await api.auth.RefreshTokens(request, timeout=TIMEOUT)).tokens
    right(tokens.session_id == who.session_id, tokens)
    right(tokens.refresh_token not in ("", who.refresh_token), tokens)
    right(claims(tokens.access_token)["sid"] == who.session_id, tokens)
    who.refresh_token = tokens.refresh_token


def claims(token: str) -> dict[str, Any]:
    """What an access token says, unverified: the server verifies its own in other calls."""
    body = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return decoded


CHECKS: Final[dict[str, Callable[[Api, Person], Awaitable[None]]]] = {
    "echo": echo,
    "GetRecord": get_record,
    "BatchGetRecords": batch_get_records,
    "GetUserData": get_user_data,
    "PutRecord": put_record,
    "Login": login,
    "RefreshTokens": refresh_tokens,
}
