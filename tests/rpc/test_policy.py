"""The policy tables: nothing is missing from them, and the server does what they say."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2
from sixfold.errors.v1 import errors_pb2

from service import app, policies
from service.domain.errors import DomainError
from service.rpc import interceptors, policy
from service.rpc.server import Door
from service.store.db import Database
from service.store.keyring import Keyring
from tests.conftest import PASSWORD, Api, Person, make_settings, refused, serving
from tests.rpc.wire import code, raw, statements

PRIVATE = sorted(policy.SCOPES)
PUBLIC = sorted(name for name in policy.PUBLIC if name.startswith("sixfold."))
SCOPED = sorted((name, scope) for name, scope in policy.SCOPES.items() if scope)
GARBAGE = b"\xff\xff\xff"  # a varint without an end: no protobuf message at all

Kind = Callable[..., "grpc.RpcMethodHandler[Any, Any]"]
KINDS: list[Kind] = [
    grpc.unary_unary_rpc_method_handler,
    grpc.unary_stream_rpc_method_handler,
    grpc.stream_unary_rpc_method_handler,
    grpc.stream_stream_rpc_method_handler,
]


def all_subclasses(base: type[DomainError]) -> set[type[DomainError]]:
    direct = set(base.__subclasses__())
    return direct.union(*map(all_subclasses, direct))


def in_contract() -> set[str]:
    services = [
        *auth_pb2.DESCRIPTOR.services_by_name.values(),
        *data_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    return {
        f"{service.full_name}/{method.name}" for service in services for method in service.methods
    }


def test_every_domain_error_has_a_row() -> None:
    assert policy.STATUS.keys() == all_subclasses(DomainError)


def test_the_reasons_are_those_of_the_contract() -> None:
    values = errors_pb2.ErrorReason.DESCRIPTOR.values
    names = {value.name.removeprefix("ERROR_REASON_") for value in values}

    assert {reason for _, reason in policy.STATUS.values()} == names - {"UNSPECIFIED"}


def test_every_error_says_something_to_people() -> None:
    assert [error for error in policy.STATUS if not error.__doc__] == []


def test_every_method_of_the_contract_has_exactly_one_row() -> None:
    ours = {name for name in policy.PUBLIC if name.startswith("sixfold.")}

    assert ours | policy.SCOPES.keys() == in_contract()
    assert ours & policy.SCOPES.keys() == set()


def test_the_scopes_are_those_a_login_can_ask_for() -> None:
    assert set(policy.SCOPES.values()) - {""} == set(policy.ALL_SCOPES)


async def test_every_row_is_a_method_that_answers(database_url: str) -> None:
    named = (policy.PUBLIC | policy.SCOPES.keys()) - {policy.UNKNOWN}

    async with serving(database_url, reflection=True) as api:
        unknown = []
        for method in sorted(named):
            # One message and one answer look the same on the wire for every kind of method.
            make: Any = api.channel.stream_stream(f"/{method}")
            call = make(iter([b""]))
            try:
                await call.read()
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    unknown.append(method)
            call.cancel()

    assert unknown == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_method_without_a_row_cannot_be_mounted(pool: Database, kind: Kind) -> None:
    token_policy = policies.token(make_settings("postgresql://h/d"))
    auth = interceptors.auth(token_policy, Keyring(pool, bytes(32)), app.utc_now)
    door = Door([auth], [auth])

    with pytest.raises(LookupError):
        door.add_registered_method_handlers(
            policy.DATA, {"Forgotten": kind(print, Empty.FromString)}
        )


@pytest.mark.parametrize("method", PRIVATE)
async def test_without_a_token_nothing_private_answers(api: Api, method: str) -> None:
    why = await refused(raw(api, method))

    assert (why.code, why.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


def bearer(token: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {token}"),)


NOT_TOKENS: dict[str, Callable[[Person], Any]] = {
    "garbage": lambda _: bearer("garbage"),
    "three parts of garbage": lambda _: bearer(f"a.b.{'c' * 86}"),
    "the refresh token": lambda ann: bearer(ann.tokens.refresh_token),
    "two entries": lambda ann: ann.metadata * 2,
    "Basic": lambda _: (("authorization", "Basic YW5uOnB3"),),
    "the token as Basic": lambda ann: (("authorization", f"Basic {ann.tokens.access_token}"),),
    "the token alone": lambda ann: (("authorization", ann.tokens.access_token),),
    "an empty bearer": lambda _: (("authorization", "Bearer "),),
    "nothing after the scheme": lambda _: (("authorization", "Bearer"),),
    "an empty entry": lambda _: (("authorization", ""),),
    "Bearer twice": lambda ann: bearer(f"Bearer {ann.tokens.access_token}"),
    "two tokens": lambda ann: bearer(f"{ann.tokens.access_token},{ann.tokens.access_token}"),
    "two spaces": lambda ann: bearer(f" {ann.tokens.access_token}"),
}


@pytest.mark.parametrize("name", NOT_TOKENS)
async def test_what_is_not_one_access_token_is_refused_everywhere(
    api: Api, ann: Person, name: str
) -> None:
    for method in PRIVATE:
        why = await refused(raw(api, method, metadata=NOT_TOKENS[name](ann)))

        assert (why.code, why.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"), method


@pytest.mark.parametrize("key", ["authorization-bin", "x-authorization", "cookie", "token"])
async def test_a_token_in_another_entry_is_none(api: Api, ann: Person, key: str) -> None:
    text = f"Bearer {ann.tokens.access_token}"
    metadata = ((key, text.encode() if key.endswith("-bin") else text),)

    for method in PRIVATE:
        assert (await refused(raw(api, method, metadata=metadata))).reason == "TOKEN_MISSING"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
async def test_the_scheme_may_be_in_any_case(api: Api, ann: Person, scheme: str) -> None:
    metadata = (("authorization", f"{scheme} {ann.tokens.access_token}"),)

    assert await code(raw(api, f"{policy.AUTH}/GetUser", metadata=metadata)) is grpc.StatusCode.OK


@pytest.mark.parametrize(("method", "scope"), SCOPED)
async def test_a_token_without_the_scope_is_told_which(
    api: Api, ann: Person, method: str, scope: str
) -> None:
    scopes = [name for name in policy.ALL_SCOPES if name != scope]
    login = auth_pb2.LoginRequest(username=ann.username, password=PASSWORD, scopes=scopes)
    narrow = (await api.auth.Login(login)).tokens.access_token

    why = await refused(raw(api, method, GARBAGE, bearer(narrow)))

    assert (why.code, why.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert why.metadata == {"scope": scope}


async def test_any_session_may_end_itself_whatever_its_scopes(api: Api, ann: Person) -> None:
    login = auth_pb2.LoginRequest(username=ann.username, password=PASSWORD, scopes=["data.read"])
    narrow = bearer((await api.auth.Login(login)).tokens.access_token)

    await api.auth.Logout(auth_pb2.LogoutRequest(), metadata=narrow)

    assert (await refused(raw(api, f"{policy.DATA}/GetUserData", b"", narrow))).reason == (
        "SESSION_REVOKED"
    )


@pytest.mark.parametrize(
    "path",
    [
        f"{policy.DATA}/GetRecords",
        f"{policy.DATA}/getrecord",
        f"{policy.DATA}/",
        f"{policy.DATA}/GetRecord/",
        "sixfold.data.v2.DataService/GetRecord",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.channelz.v1.Channelz/GetServers",
        f"/{policy.DATA}/GetRecord",
        f"{policy.DATA}%2FGetRecord",
        f"../{policy.DATA}/GetRecord",
        policy.UNKNOWN,
        "",
    ],
)
async def test_what_is_not_there_is_unimplemented_with_and_without_a_token(
    api: Api, ann: Person, path: str
) -> None:
    codes = {await code(raw(api, path)), await code(raw(api, path, metadata=ann.metadata))}

    assert codes == {grpc.StatusCode.UNIMPLEMENTED}


@pytest.mark.parametrize("method", PRIVATE + PUBLIC)
async def test_bytes_that_are_no_message_are_a_bad_argument(
    api: Api, ann: Person, method: str
) -> None:
    why = await refused(raw(api, method, GARBAGE, ann.metadata))

    assert why.code is grpc.StatusCode.INVALID_ARGUMENT
    assert why.violations == {"": "MALFORMED"}


@pytest.mark.parametrize("method", PRIVATE)
async def test_bytes_are_looked_at_only_after_the_token(api: Api, method: str) -> None:
    call = raw(api, method, GARBAGE)

    assert await statements(api, call) == []
    assert await code(call) is grpc.StatusCode.UNAUTHENTICATED
