"""Sessions that go on: refresh tokens rotate, survive a lost answer, and betray a thief."""

import asyncio
import base64
import logging
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2 as pb
from sixfold.data.v1 import data_pb2

from tests.conftest import Api, Person, Refusal, refused, serving
from tests.rpc.conftest import QUIET
from tests.rpc.wire import connected, later, statements

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
DAY = 24 * 3600
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def refreshing(api: Api, token: str, **fields: Any) -> Any:
    return api.auth.RefreshTokens(pb.RefreshTokensRequest(refresh_token=token, **fields))


async def refresh(api: Api, tokens: pb.Tokens, **fields: Any) -> pb.Tokens:
    answer: pb.RefreshTokensResponse = await refreshing(api, tokens.refresh_token, **fields)
    return answer.tokens


async def why_dead(api: Api, tokens: pb.Tokens) -> str:
    """Why a data call with these tokens is refused; empty when it is not."""
    metadata = (("authorization", f"Bearer {tokens.access_token}"),)
    call = api.data.GetUserData(data_pb2.GetUserDataRequest(), metadata=metadata)
    return "" if await call.code() is grpc.StatusCode.OK else (await refused(call)).reason


def as_said(why: Refusal) -> tuple[grpc.StatusCode, str]:
    return why.code, why.reason


async def test_each_refresh_gives_new_tokens_of_the_same_session(api: Api, ann: Person) -> None:
    child = await refresh(api, ann.tokens)
    grandchild = await refresh(api, child)

    line = [ann.tokens, child, grandchild]
    assert len({tokens.refresh_token for tokens in line}) == 3
    assert len({tokens.access_token for tokens in line}) == 3
    assert {tokens.session_id for tokens in line} == {ann.tokens.session_id}
    assert [await why_dead(api, tokens) for tokens in line] == ["", "", ""]


async def test_every_login_is_another_session(api: Api, ann: Person) -> None:
    again = await api.login(ann.username)

    assert again.tokens.session_id != ann.tokens.session_id
    assert again.user_id == ann.user_id


async def test_a_grandparent_ends_the_session_and_its_data_calls(
    api: Api, ann: Person, caplog: pytest.LogCaptureFixture
) -> None:
    newest = await refresh(api, await refresh(api, ann.tokens))

    why = await refused(refreshing(api, ann.tokens.refresh_token))

    assert as_said(why) == (UNAUTHENTICATED, "SESSION_REVOKED")
    assert await why_dead(api, newest) == "SESSION_REVOKED"
    assert as_said(await refused(refreshing(api, newest.refresh_token))) == as_said(why)
    [event] = [record for record in caplog.records if record.getMessage() == "authn_token_reuse"]
    assert event.levelno == logging.CRITICAL
    assert event.__dict__["fields"]["user_id"] == ann.user_id


async def test_a_theft_ends_one_session_and_not_the_users_others(api: Api, ann: Person) -> None:
    other = await api.login(ann.username)
    await refresh(api, await refresh(api, ann.tokens))

    await refused(refreshing(api, ann.tokens.refresh_token))

    assert await why_dead(api, other.tokens) == ""


async def test_a_parent_within_the_grace_gives_the_same_successor(api: Api, ann: Person) -> None:
    first = await refresh(api, ann.tokens)
    second = await refresh(api, ann.tokens)

    assert second.refresh_token == first.refresh_token
    assert (await refresh(api, second)).session_id == ann.tokens.session_id


async def test_a_parent_after_the_grace_ends_the_session(
    api: Api, ann: Person, database_url: str
) -> None:
    child = await refresh(api, ann.tokens)
    await later(database_url, 31)

    why = await refused(refreshing(api, ann.tokens.refresh_token))

    assert as_said(why) == (UNAUTHENTICATED, "SESSION_REVOKED")
    assert await why_dead(api, child) == "SESSION_REVOKED"


async def test_without_a_grace_a_parent_ends_the_session_at_once(database_url: str) -> None:
    async with serving(database_url, **QUIET, refresh_grace_seconds=0) as strict:
        ann = await strict.new_user()
        child = await refresh(strict, ann.tokens)

        why = await refused(refreshing(strict, ann.tokens.refresh_token))

        assert why.reason == "SESSION_REVOKED"
        assert await why_dead(strict, child) == "SESSION_REVOKED"


async def test_the_same_request_gives_the_same_successor_long_after_the_grace(
    api: Api, ann: Person, database_url: str
) -> None:
    request_id = str(uuid4())
    child = await refresh(api, ann.tokens, request_id=request_id)
    await later(database_url, DAY)

    again = await refresh(api, ann.tokens, request_id=request_id)

    assert again.refresh_token == child.refresh_token


async def test_another_request_after_the_grace_is_a_theft(
    api: Api, ann: Person, database_url: str
) -> None:
    await refresh(api, ann.tokens, request_id=str(uuid4()))
    await later(database_url, DAY)

    why = await refused(refreshing(api, ann.tokens.refresh_token, request_id=str(uuid4())))

    assert why.reason == "SESSION_REVOKED"


async def test_the_same_request_is_no_excuse_once_the_successor_was_used(
    api: Api, ann: Person
) -> None:
    request_id = str(uuid4())
    child = await refresh(api, ann.tokens, request_id=request_id)
    await refresh(api, child)

    why = await refused(refreshing(api, ann.tokens.refresh_token, request_id=request_id))

    assert why.reason == "SESSION_REVOKED"


async def test_fifty_parallel_refreshes_at_two_servers_make_one_successor(
    api: Api, database_url: str
) -> None:
    async with serving(database_url, **QUIET) as other:
        for _ in range(4):
            ann = await api.new_user()

            answers = await asyncio.gather(
                *(refresh(server, ann.tokens) for server in (api, other) * 25)
            )

            assert len({tokens.refresh_token for tokens in answers}) == 1
            assert len({tokens.access_token for tokens in answers}) == 50
            assert await why_dead(other, await refresh(other, answers[0])) == ""


async def test_a_wrong_client_is_refused_and_spends_nothing(api: Api, ann: Person) -> None:
    why = await refused(refreshing(api, ann.tokens.refresh_token, client_id="another"))

    assert as_said(why) == (UNAUTHENTICATED, "TOKEN_INVALID")
    child = await refresh(api, ann.tokens)
    assert (await refresh(api, child)).session_id == ann.tokens.session_id


async def test_a_wrong_client_with_a_spent_token_ends_nothing(api: Api, ann: Person) -> None:
    newest = await refresh(api, await refresh(api, ann.tokens))

    why = await refused(refreshing(api, ann.tokens.refresh_token, client_id="another"))

    assert as_said(why) == (UNAUTHENTICATED, "TOKEN_INVALID")
    assert await why_dead(api, newest) == ""


def tampered(token: str) -> dict[str, str]:
    """Texts that are almost this refresh token; all but one character, or its form."""
    turned = {}
    for index in range(len(token)):
        # Half the alphabet away: another value, whichever bits of a byte the character holds.
        old = token[index]
        new = ALPHABET[(ALPHABET.index(old) + 32) % 64]
        turned[f"character {index}"] = token[:index] + new + token[index + 1 :]
    sealed = base64.urlsafe_b64decode(token.removeprefix("sfr1_"))
    body, tag = sealed[:-16], sealed[-16:]
    again = {
        "forged secret": body[:36] + bytes(32) + tag,
        "no tag": body,
        "tag of zeros": body + bytes(16),
        "next generation": body[:35] + bytes([body[35] + 1]) + body[36:] + tag,
        "a byte more": sealed + b"\0",
        "a byte less": sealed[:-1],
    }
    return turned | {
        "truncated": token[:-4],
        "no prefix": token.removeprefix("sfr1_"),
        "another prefix": token.replace("sfr1_", "sfr2_"),
        "prefix alone": "sfr1_",
        "one character": "x",
        "not ASCII": token[:-1] + "é",
        "newline": token + "\n",
        **{name: "sfr1_" + base64.urlsafe_b64encode(data).decode() for name, data in again.items()},
    }


async def test_a_tampered_token_is_refused_without_a_statement_and_ends_nothing(
    api: Api, ann: Person
) -> None:
    for name, text in tampered(ann.tokens.refresh_token).items():
        call = refreshing(api, text)

        assert await statements(api, call) == [], name
        assert as_said(await refused(call)) == (UNAUTHENTICATED, "TOKEN_INVALID"), name

    assert (await refresh(api, ann.tokens)).session_id == ann.tokens.session_id


async def test_an_access_token_is_no_refresh_token(api: Api, ann: Person) -> None:
    long = await refused(refreshing(api, ann.tokens.access_token))
    short = await refused(refreshing(api, ann.tokens.access_token[:512]))

    assert long.violations == {"refresh_token": "STRING_MAX_LEN"}
    assert as_said(short) == (UNAUTHENTICATED, "TOKEN_INVALID")
    assert (await refresh(api, ann.tokens)).session_id == ann.tokens.session_id


async def test_an_idle_session_ends(api: Api, ann: Person, database_url: str) -> None:
    await later(database_url, 14 * DAY + 1)

    why = await refused(refreshing(api, ann.tokens.refresh_token))

    assert as_said(why) == (UNAUTHENTICATED, "SESSION_REVOKED")


async def test_a_session_in_use_ends_at_its_absolute_lifetime(
    api: Api, ann: Person, database_url: str
) -> None:
    tokens = ann.tokens
    for _ in range(9):
        await later(database_url, 10 * DAY - 60)
        tokens = await refresh(api, tokens)
    assert await why_dead(api, tokens) == ""

    await later(database_url, 600)
    why = await refused(refreshing(api, tokens.refresh_token))

    assert why.reason == "SESSION_REVOKED"
    assert await why_dead(api, tokens) == "SESSION_REVOKED"


async def test_the_idle_lifetime_never_passes_the_absolute_one(database_url: str) -> None:
    async with serving(
        database_url, **QUIET, session_idle_seconds=60, session_seconds=100
    ) as brief:
        ann = await brief.new_user()
        await later(database_url, 55)

        tokens = await refresh(brief, ann.tokens)

        whole = ann.tokens.refresh_token_expire_time.ToDatetime()
        left = tokens.refresh_token_expire_time.ToDatetime() - whole
        assert -25 < left.total_seconds() < -10  # 45 s are left of 100, not 60


async def test_only_a_hash_of_the_refresh_token_is_stored(
    api: Api, ann: Person, database_url: str
) -> None:
    secret = base64.urlsafe_b64decode(ann.tokens.refresh_token.removeprefix("sfr1_"))[36:68]

    async with connected(database_url) as connection:
        dump = await connection.fetchval("SELECT string_agg(s::text, ' ') FROM sessions s")
    assert isinstance(dump, str)

    assert ann.tokens.session_id in dump
    assert secret.hex() not in dump
    assert ann.tokens.refresh_token not in dump
