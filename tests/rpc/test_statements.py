"""How many SQL statements a call costs: the design's second promise, counted at the driver."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import PASSWORD, Api, Person
from tests.rpc.wire import connected, raw, statements

Call = Callable[[Api, Person], Any]


def put(api: Api, ann: Person, **fields: Any) -> Any:
    named = {"collection": "c", "key": "k", "json": "1"} | fields
    return api.data.PutRecord(pb.PutRecordRequest(**named), metadata=ann.metadata)


def get(api: Api, ann: Person, key: str = "k") -> Any:
    return api.data.GetRecord(pb.GetRecordRequest(collection="c", key=key), metadata=ann.metadata)


def many(api: Api, ann: Person, keys: Sequence[str] = "k") -> Any:
    names = [pb.RecordName(collection="c", key=key) for key in keys]
    return api.data.BatchGetRecords(pb.BatchGetRecordsRequest(names=names), metadata=ann.metadata)


def listing(api: Api, ann: Person, **fields: Any) -> Any:
    return api.data.ListRecords(
        pb.ListRecordsRequest(collection="c", **fields), metadata=ann.metadata
    )


def user_data(api: Api, ann: Person, **fields: Any) -> Any:
    return api.data.GetUserData(pb.GetUserDataRequest(**fields), metadata=ann.metadata)


def delete(api: Api, ann: Person, **fields: Any) -> Any:
    named = {"collection": "c", "key": "k"} | fields
    return api.data.DeleteRecord(pb.DeleteRecordRequest(**named), metadata=ann.metadata)


def create(api: Api, ann: Person, username: str) -> Any:
    request = auth_pb2.CreateUserRequest(username=username, password=PASSWORD)
    return api.auth.CreateUser(request)


def login(api: Api, ann: Person, password: str = PASSWORD) -> Any:
    request = auth_pb2.LoginRequest(username=ann.username, password=password)
    return api.auth.Login(request)


def refresh(api: Api, ann: Person, token: str = "") -> Any:
    token = token or ann.tokens.refresh_token
    return api.auth.RefreshTokens(auth_pb2.RefreshTokensRequest(refresh_token=token))


def change(api: Api, ann: Person, current: str = PASSWORD, new: str = PASSWORD + "!") -> Any:
    request = auth_pb2.ChangePasswordRequest(current_password=current, new_password=new)
    return api.auth.ChangePassword(request, metadata=ann.metadata)


def nobody(api: Api, ann: Person) -> Any:
    request = auth_pb2.LoginRequest(username=f"nobody-{uuid4()}", password=PASSWORD)
    return api.auth.Login(request)


COSTS: dict[str, tuple[int, Call]] = {
    "GetRecord": (1, get),
    "GetRecord of nothing": (1, lambda api, ann: get(api, ann, "other")),
    "BatchGetRecords": (1, lambda api, ann: many(api, ann, ["k", "other", "k"])),
    "BatchGetRecords of nothing": (1, lambda api, ann: many(api, ann, ["other"])),
    "BatchGetRecords, bad names": (0, lambda api, ann: many(api, ann, ["k", ""])),
    "ListRecords": (1, listing),
    "ListRecords, empty token": (1, lambda api, ann: listing(api, ann, page_size=1)),
    "GetUserData": (1, user_data),
    "GetUserData of a collection": (1, lambda api, ann: user_data(api, ann, collection="c")),
    "GetUser": (1, lambda api, ann: raw(api, GET_USER, b"", ann.metadata)),
    "Logout": (1, lambda api, ann: raw(api, LOGOUT, b"", ann.metadata)),
    "PutRecord": (1, put),
    "PutRecord, replacing": (1, lambda api, ann: put(api, ann, json="2")),
    "PutRecord with a request_id": (1, lambda api, ann: put(api, ann, request_id=str(uuid4()))),
    "PutRecord at its revision": (1, lambda api, ann: put(api, ann, if_revision=1)),
    "PutRecord at another revision with a request_id": (
        2,
        lambda api, ann: put(api, ann, if_revision=9, request_id=str(uuid4())),
    ),
    "PutRecord at another revision": (2, lambda api, ann: put(api, ann, if_revision=9)),
    "PutRecord of what is there": (2, lambda api, ann: put(api, ann, if_absent=True)),
    "PutRecord of bad JSON": (0, lambda api, ann: put(api, ann, json="{")),
    "DeleteRecord": (1, delete),
    "DeleteRecord of nothing": (2, lambda api, ann: delete(api, ann, key="other")),
    "Login": (2, login),
    "Login, wrong password": (1, lambda api, ann: login(api, ann, "not the password")),
    "Login, nobody": (1, nobody),
    "CreateUser": (1, lambda api, ann: create(api, ann, f"new-{uuid4()}")),
    "CreateUser, taken": (1, lambda api, ann: create(api, ann, ann.username)),
    "CreateUser, bad name": (0, lambda api, ann: create(api, ann, "a b")),
    "RefreshTokens": (1, refresh),
    "RefreshTokens, forged": (0, lambda api, ann: refresh(api, ann, "sfr1_" + "A" * 112)),
    "ChangePassword": (2, change),
    "ChangePassword, wrong": (1, lambda api, ann: change(api, ann, "not the password")),
    "ChangePassword, too short": (0, lambda api, ann: change(api, ann, new="short")),
    "GetJsonWebKeySet": (0, lambda api, _: raw(api, JWKS)),
    "health": (0, lambda api, _: raw(api, "grpc.health.v1.Health/Check")),
}
GET_USER = "sixfold.auth.v1.AuthService/GetUser"
LOGOUT = "sixfold.auth.v1.AuthService/Logout"
JWKS = "sixfold.auth.v1.AuthService/GetJsonWebKeySet"

LAST_STATEMENTS = """
    SELECT query FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'sixfold'
"""


@pytest.mark.parametrize("name", COSTS)
async def test_a_call_costs_so_many_statements(api: Api, ann: Person, name: str) -> None:
    await put(api, ann)
    cost, call = COSTS[name]

    sent = await statements(api, call(api, ann))

    assert len(sent) == cost, sent


@pytest.mark.parametrize("name", COSTS)
async def test_no_call_sends_a_statement_without_a_constant(
    api: Api, ann: Person, name: str
) -> None:
    await put(api, ann)

    sent = await statements(api, COSTS[name][1](api, ann))

    # RESET, BEGIN, SHOW and the like would be a second round trip that nobody wrote down.
    verbs = {statement.split()[0] for statement in sent}
    assert verbs <= {"SELECT", "WITH", "UPDATE"}


async def test_postgres_saw_nothing_after_the_last_statement(
    api: Api, ann: Person, database_url: str
) -> None:
    await put(api, ann)
    await get(api, ann)

    async with connected(database_url) as connection:
        last = await connection.fetch(LAST_STATEMENTS)

    verbs = {row["query"].split()[0] for row in last}
    assert verbs <= {"SELECT", "WITH", "UPDATE"}


async def test_a_second_use_of_a_refresh_token_costs_one_more(api: Api, ann: Person) -> None:
    await refresh(api, ann)

    sent = await statements(api, refresh(api, ann))

    assert len(sent) == 2


async def test_a_repeated_write_costs_one_statement(api: Api, ann: Person) -> None:
    request_id = str(uuid4())
    await put(api, ann, request_id=request_id)

    sent = await statements(api, put(api, ann, request_id=request_id))

    assert len(sent) == 1


async def test_an_ended_session_costs_one_statement(api: Api, ann: Person) -> None:
    await raw(api, LOGOUT, b"", ann.metadata)

    for call in (get, many, listing, user_data, put, delete):
        assert len(await statements(api, call(api, ann))) == 1, call
