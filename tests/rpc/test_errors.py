"""Errors as clients get them, and logs as operators get them: enough to act on, and no more."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import Api, Person, execute, refused, serving
from tests.rpc.conftest import QUIET, ready
from tests.rpc.wire import code, connected, raw

CANARY = "canary-zebra-quilt-ocarina"
BREAK = (
    """CREATE FUNCTION boom(id uuid) RETURNS boolean LANGUAGE plpgsql
           AS $$ BEGIN RAISE EXCEPTION 'internal_detail of %', id; END $$""",
    """CREATE OR REPLACE VIEW live_sessions AS
           SELECT s.user_id, s.session_id, u.username, u.session_epoch, u.create_time, u.update_time
             FROM sessions s JOIN users u ON u.user_id = s.user_id
            WHERE boom(s.user_id)""",
)
GENERIC = "A fault of ours. Report the request id."


def get(api: Api, ann: Person, *more: tuple[str, str]) -> Any:
    request = pb.GetRecordRequest(collection="c", key="k")
    return api.data.GetRecord(request, metadata=(*ann.metadata, *more))


async def status_of(call: Any) -> Status:
    trailers = dict(await call.trailing_metadata())
    return Status.FromString(trailers["grpc-status-details-bin"])


@pytest.fixture
async def broken(
    new_database: Callable[[], AbstractAsyncContextManager[str]],
) -> AsyncIterator[tuple[Api, Person]]:
    """A server whose database fails in a way nobody foresaw, and somebody logged in there."""
    async with new_database() as url, serving(url, **QUIET) as running:
        await ready(running)
        ann = await running.new_user()
        await execute(url, *BREAK)
        yield running, ann


async def test_what_nobody_foresaw_says_nothing_but_a_request_id(
    broken: tuple[Api, Person], caplog: pytest.LogCaptureFixture
) -> None:
    api, ann = broken
    put = pb.PutRecordRequest(collection="c", key="k", json=f'"{CANARY}"')
    listing = pb.ListRecordsRequest(collection="c")

    for call in (
        get(api, ann),
        api.data.PutRecord(put, metadata=ann.metadata),
        api.data.ListRecords(listing, metadata=ann.metadata),
        api.data.GetUserData(pb.GetUserDataRequest(), metadata=ann.metadata),
    ):
        why = await refused(call)
        assert (why.code, why.reason, why.message) == (
            grpc.StatusCode.INTERNAL,
            "INTERNAL",
            GENERIC,
        )
        said = str(await call.trailing_metadata()) + str(await call.initial_metadata())
        for internal in (
            "internal_detail",
            "boom",
            "live_sessions",
            "SELECT",
            "asyncpg",
            "Traceback",
        ):
            assert internal not in said
        # An operator finds by the id what the caller was not told.
        [logged] = [r for r in caplog.records if r.__dict__.get("request_id") == why.request_id]
        assert logged.levelno == logging.ERROR
        assert logged.exc_info is not None
        assert logged.exc_info[0].__name__ == "RaiseError"  # type: ignore[union-attr]
        assert why.request_id in await api.logged()
    assert CANARY not in caplog.text


@pytest.mark.parametrize("given", ["abc", "A-b_c.d:e", str(uuid4()), "x" * 64])
async def test_a_callers_own_request_id_comes_back_and_is_logged(
    api: Api, ann: Person, given: str
) -> None:
    why = await refused(get(api, ann, ("x-request-id", given)))

    assert why.request_id == given
    assert f'"request_id":"{given}"' in await api.logged()


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "x" * 65, '","severity":"', "{jndi:ldap://x}", "<script>", "%0a"]
)
async def test_an_id_that_could_do_harm_is_not_repeated(api: Api, ann: Person, given: str) -> None:
    why = await refused(get(api, ann, ("x-request-id", given)))

    assert why.request_id != given
    assert len(why.request_id) == 16
    assert int(why.request_id, 16) >= 0


async def test_every_call_has_another_request_id(api: Api, ann: Person) -> None:
    ids = {(await refused(get(api, ann))).request_id for _ in range(20)}

    assert len(ids) == 20


async def test_a_status_has_one_reason_under_our_name_and_the_codes_agree(
    api: Api, ann: Person
) -> None:
    for call in (
        get(api, ann),
        raw(api, "sixfold.data.v1.DataService/GetRecord"),
        raw(api, "sixfold.data.v1.DataService/GetRecord", b"", ann.metadata),
    ):
        status = await status_of(call)

        reasons = [ErrorInfo.FromString(any_.value) for any_ in status.details if any_.Is(INFO)]
        assert [info.domain for info in reasons] == ["sixfold"]
        assert status.code == (await call.code()).value[0]
        assert status.message == await call.details()


INFO = ErrorInfo.DESCRIPTOR


async def test_unauthenticated_names_the_scheme(api: Api) -> None:
    trailers = dict(await raw(api, "sixfold.auth.v1.AuthService/GetUser").trailing_metadata())

    assert trailers["www-authenticate"].startswith("Bearer")


async def test_every_bad_field_is_named_at_once(api: Api, ann: Person) -> None:
    put = pb.PutRecordRequest(collection="a b", key="", json="", if_revision=-1, request_id="x")
    user = auth_pb2.CreateUserRequest(username="", password="", request_id="x")

    bad_put = await refused(api.data.PutRecord(put, metadata=ann.metadata))
    bad_user = await refused(api.auth.CreateUser(user))

    assert bad_put.violations == {
        "collection": "STRING_PATTERN",
        "key": "STRING_MIN_LEN",
        "json": "STRING_MIN_LEN",
        "if_revision": "INT64_GT",
        "request_id": "STRING_UUID",
    }
    assert bad_user.violations.keys() == {"username", "password", "request_id"}


async def test_more_bad_fields_than_fit_are_cut_and_still_an_answer(api: Api) -> None:
    login = auth_pb2.LoginRequest(username="a", password="b", scopes=[f"s{n}" for n in range(100)])

    why = await refused(api.auth.Login(login))

    assert why.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(why.violations) == 20


async def test_an_enum_or_field_from_the_future_is_no_error(api: Api, ann: Person) -> None:
    later = pb.PutRecordRequest(collection="c", key="k", json="1").SerializeToString() + (
        b"\xf8\x07\x63"  # field 127, a number this version does not know
    )

    call = raw(api, "sixfold.data.v1.DataService/PutRecord", later, ann.metadata)

    assert await code(call) is grpc.StatusCode.OK


async def test_no_secret_is_ever_logged_or_said(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(database_url, **QUIET, log_level="debug") as api:
        said, secrets = await every_call(api)
        log = await api.logged()

    async with connected(database_url) as connection:
        secrets += await connection.fetchval("SELECT array_agg(password_hash) FROM users")
    everywhere = log + caplog.text + str([r.__dict__ for r in caplog.records]) + said
    assert [secret for secret in secrets if secret in everywhere] == []
    # The search would find something: it finds what may be there.
    assert "authn_login_fail" in everywhere
    assert '"method":"sixfold.data.v1.DataService/PutRecord"' in log
    for line in log.splitlines():
        assert json.loads(line)["event"] == "call"


async def every_call(api: Api) -> tuple[str, list[str]]:
    """Use every method that takes secrets, well and badly. What errors said, and the secrets."""
    name = f"n-{uuid4().hex}"
    first, second, wrong, data = (f"{CANARY} {word}" for word in ("one", "two", "wrong", "data"))
    create = auth_pb2.CreateUserRequest
    await api.auth.CreateUser(create(username=name, password=first))
    person = await api.login(name, first)
    refresh = auth_pb2.RefreshTokensRequest(refresh_token=person.tokens.refresh_token)
    renewed = (await api.auth.RefreshTokens(refresh)).tokens
    bearer = (("authorization", f"Bearer {renewed.access_token}"),)
    change = auth_pb2.ChangePasswordRequest

    calls: list[Any] = [
        api.auth.CreateUser(create(username=name, password=wrong)),
        api.auth.CreateUser(create(username=f"{name}\nx", password=wrong)),
        api.auth.CreateUser(create(username=f"{name}2", password=wrong * 100)),
        api.auth.Login(auth_pb2.LoginRequest(username=name, password=wrong)),
        api.auth.Login(auth_pb2.LoginRequest(username=wrong, password=wrong)),
        api.auth.ChangePassword(
            change(current_password=wrong, new_password=second), metadata=bearer
        ),
        api.auth.ChangePassword(
            change(current_password=first, new_password=CANARY[:14]), metadata=bearer
        ),
        api.auth.ChangePassword(
            change(current_password=first, new_password=second), metadata=bearer
        ),
        api.auth.RefreshTokens(
            auth_pb2.RefreshTokensRequest(refresh_token=renewed.refresh_token[:-1] + "x")
        ),
        api.auth.GetUser(
            auth_pb2.GetUserRequest(), metadata=(("authorization", f"Basic {CANARY}"),)
        ),
        api.auth.GetUser(
            auth_pb2.GetUserRequest(),
            metadata=(("authorization", f"Bearer {renewed.access_token}x"),),
        ),
        raw(api, "sixfold.auth.v1.AuthService/Login", b"\x0a\xff" + CANARY.encode()),
        *(
            api.data.PutRecord(
                pb.PutRecordRequest(collection="c", key="k", json=text), metadata=bearer
            )
            for text in (
                f'"{data}"',
                f'"{data}',
                f'{{"{data}": 1, "{data}": 2}}',
                f'"{data}\\u0000"',
            )
        ),
        api.data.GetUserData(pb.GetUserDataRequest(page_token=CANARY), metadata=bearer),
        api.auth.Logout(auth_pb2.LogoutRequest(), metadata=bearer),
    ]
    said = ""
    for call in calls:
        await code(call)
        said += str(await call.details()) + str(await call.trailing_metadata())
    tokens = [person.tokens, renewed]
    return said, [
        CANARY,
        name,
        *(each.access_token for each in tokens),
        *(each.access_token.rpartition(".")[2] for each in tokens),
        *(each.refresh_token for each in tokens),
        *(each.refresh_token[60:] for each in tokens),
    ]
