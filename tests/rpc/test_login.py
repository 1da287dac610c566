"""Login: one answer for every way to be wrong, one name for every spelling, hashes that age."""

import asyncio
import logging
import unicodedata
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2 as pb

from service import admin
from tests.conftest import PASSWORD, Api, Person, make_settings, refused, serving
from tests.rpc.conftest import QUIET
from tests.rpc.wire import code, connected, statements

OK = grpc.StatusCode.OK
WRONG = "not the password of anybody"
EAGER = {"argon2_memory_kib": 8192, "argon2_time_cost": 2}  # what hashes cost from tomorrow on


def login(api: Api, username: str, password: str = PASSWORD, **more: Any) -> Any:
    return api.auth.Login(pb.LoginRequest(username=username, password=password, **more))


def create(api: Api, username: str, password: str = PASSWORD, **more: Any) -> Any:
    return api.auth.CreateUser(pb.CreateUserRequest(username=username, password=password, **more))


def fresh_name() -> str:
    return f"name-{uuid4().hex[:12]}"


async def stored_hash(database_url: str, username: str) -> str:
    async with connected(database_url) as connection:
        found = await connection.fetchval(
            "SELECT password_hash FROM users WHERE username = $1", username
        )
    assert isinstance(found, str)
    return found


async def test_a_user_that_was_made_logs_in(api: Api) -> None:
    name = fresh_name()
    made = await create(api, name)

    answer = await login(api, name)

    assert answer.user == made.user
    assert answer.user.username == name
    assert list(answer.tokens.scopes) == ["account", "data.read", "data.write"]


async def test_a_login_is_allowed_what_it_asked_for(api: Api, ann: Person) -> None:
    answer = await login(api, ann.username, scopes=["data.read"])

    assert list(answer.tokens.scopes) == ["data.read"]


@pytest.mark.parametrize(
    "scopes", [["admin"], ["data.read", "data.read"], [""], ["data.read "], ["account"] * 9]
)
async def test_a_scope_there_is_not_is_refused(api: Api, ann: Person, scopes: list[str]) -> None:
    why = await refused(login(api, ann.username, scopes=scopes))

    assert why.code is grpc.StatusCode.INVALID_ARGUMENT


async def answers_to_the_wrong(api: Api, ann: Person, database_url: str) -> dict[str, Any]:
    """One call for every way to be wrong about a name or a password."""
    disabled = await api.new_user()
    await admin.user_disable(make_settings(database_url), disabled.username)
    return {
        "wrong password": lambda: login(api, ann.username, WRONG),
        "unknown user": lambda: login(api, fresh_name()),
        "disabled user": lambda: login(api, disabled.username),
        "disabled user, wrong password": lambda: login(api, disabled.username, WRONG),
        "no possible name": lambda: login(api, f"not a name {uuid4()}"),
        "a name with NUL": lambda: login(api, f"a\0{uuid4()}"),
        "short password": lambda: login(api, ann.username, "x"),
    }


async def test_every_way_to_be_wrong_looks_alike(api: Api, ann: Person, database_url: str) -> None:
    calls = await answers_to_the_wrong(api, ann, database_url)

    seen = {}
    for name, call in calls.items():
        made = call()
        sent = await statements(api, made)
        why = await refused(made)
        # What may differ: the request id, in the status' details, and the date, which Envoy tells.
        raw = {
            key: value
            for key, value in await made.trailing_metadata()
            if "status" not in key and key != "date"
        }
        seen[name] = (why.code, why.reason, why.message, str(why.metadata), str(raw), str(sent))

    assert len(set(seen.values())) == 1, seen
    assert seen["wrong password"][:2] == (grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS")


async def test_every_way_to_be_wrong_takes_as_long(
    api: Api, ann: Person, database_url: str
) -> None:
    calls = await answers_to_the_wrong(api, ann, database_url)

    async def duration(call: Any) -> float:
        start = perf_counter()
        await code(call())
        return perf_counter() - start

    # In turn, so that a busy moment of the machine is everybody's.
    rounds = [[await duration(call) for call in calls.values()] for _ in range(10)]

    medians = dict(zip(calls, map(median, zip(*rounds, strict=True)), strict=True))
    # Without a hash a call takes a tenth of one with it.
    assert min(medians.values()) > max(medians.values()) / 2, medians


@pytest.mark.parametrize(
    ("kept", "spelled"),
    [
        ("anna", "ANNA"),
        ("anna", "ａｎｎａ"),
        ("zoé", unicodedata.normalize("NFD", "zoé")),
        ("zoé", "ZOÉ"),
        ("åsa", "\u212bsa"),  # ANGSTROM SIGN
        ("ｶﾅ", "カナ"),
        ("σοφια", "ΣΟΦΙΑ"),
    ],
)
async def test_all_spellings_of_a_name_are_one_account(api: Api, kept: str, spelled: str) -> None:
    tail = uuid4().hex[:8]
    made = await create(api, kept + tail)

    answer = await login(api, spelled + tail)
    why = await refused(create(api, spelled + tail))

    assert answer.user == made.user
    assert (why.code, why.reason) == (grpc.StatusCode.ALREADY_EXISTS, "USERNAME_TAKEN")


@pytest.mark.parametrize("other", ["strasse", "аnna", "anna.", "anna\u0301"])
async def test_names_that_only_look_alike_are_others(api: Api, other: str) -> None:
    tail = uuid4().hex[:8]
    for name in ("straße", "anna"):
        await create(api, tail + name)

    assert await code(create(api, tail + other)) is OK


@pytest.mark.parametrize("name", ["a b", "a\tb", "a\nb", "a\u200bb", "♥", "a\u0000b", "\ufeffa"])
async def test_what_is_no_name_makes_no_user_and_is_unknown_at_login(api: Api, name: str) -> None:
    why = await refused(create(api, name))

    assert why.violations == {"username": "USERNAME_INVALID"}
    assert (await refused(login(api, name))).reason == "BAD_CREDENTIALS"


@pytest.mark.parametrize("length", [0, 65, 1000])
async def test_a_name_of_impossible_length_is_a_bad_argument(api: Api, length: int) -> None:
    for method in (create, login):
        assert (await refused(method(api, "n" * length))).violations.keys() == {"username"}


@pytest.mark.parametrize("flag", [False, True])
async def test_sign_up_can_be_off_and_logging_in_goes_on(database_url: str, flag: bool) -> None:
    async with serving(database_url, **QUIET, sign_up=flag) as server:
        settings = make_settings(database_url)
        name = fresh_name()
        await admin.user_create(settings, name, PASSWORD)

        made = create(server, fresh_name())

        assert (await made.code() is OK) == flag
        if not flag:
            why = await refused(made)
            assert (why.code.name, why.reason) == ("PERMISSION_DENIED", "SIGN_UP_DISABLED")
        assert await code(login(server, name)) is OK


async def test_a_login_rehashes_once_when_the_cost_has_changed(
    api: Api, ann: Person, database_url: str
) -> None:
    before = await stored_hash(database_url, ann.username)

    async with serving(database_url, **QUIET, **EAGER) as server:
        assert await code(login(server, ann.username, WRONG)) is not OK
        untouched = await stored_hash(database_url, ann.username)
        await login(server, ann.username)
        after = await stored_hash(database_url, ann.username)
        await login(server, ann.username)

    assert untouched == before
    assert "$m=7168,t=1,p=1$" in before
    assert "$m=8192,t=2,p=1$" in after
    assert await stored_hash(database_url, ann.username) == after


async def test_ten_logins_at_once_rehash_and_all_succeed(
    api: Api, ann: Person, database_url: str
) -> None:
    async with serving(database_url, **QUIET, **EAGER) as server:
        codes = await asyncio.gather(*(code(login(server, ann.username)) for _ in range(10)))
        after = await stored_hash(database_url, ann.username)

        assert set(codes) == {OK}
        assert "$m=8192,t=2,p=1$" in after
        assert await code(login(server, ann.username)) is OK
        assert await stored_hash(database_url, ann.username) == after


async def test_a_rehash_does_not_undo_a_password_change(
    api: Api, ann: Person, database_url: str
) -> None:
    new = "quite another one for ann"
    change = pb.ChangePasswordRequest(current_password=PASSWORD, new_password=new)

    async with serving(database_url, **QUIET, **EAGER) as server:
        await asyncio.gather(
            *(code(login(server, ann.username)) for _ in range(4)),
            api.auth.ChangePassword(change, metadata=ann.metadata),
        )

    assert await code(login(api, ann.username, new)) is OK
    assert await code(login(api, ann.username)) is not OK


async def test_logins_are_on_record_with_the_user_and_without_the_name(
    api: Api, ann: Person, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sixfold.security"):
        await login(api, ann.username)
        await code(login(api, ann.username, WRONG))
        await code(login(api, unknown := fresh_name()))

    said = [(r.getMessage(), r.__dict__["fields"]["user_id"]) for r in caplog.records]
    assert said == [
        ("authn_login_success", ann.user_id),
        ("authn_login_fail", ann.user_id),
        ("authn_login_fail", None),
    ]
    assert unknown not in caplog.text
