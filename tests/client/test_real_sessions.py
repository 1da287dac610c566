"""What a real server sees of a client whose tokens end: one renewal, however many calls wait."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sixfold
from sixfold import errors
from sixfold.auth.v1 import auth_pb2

from service import app
from tests.client.real import (
    Connect,
    both_clients,
    counting,
    credentials,
    end_session,
    target,
)
from tests.conftest import PASSWORD, Api, Person, serving

pytestmark = both_clients

WRONG = "not the password of anybody"


class Clock:
    """The server's clock, which a test can put forward."""

    ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
async def api(database_url: str, clock: Clock) -> AsyncIterator[Api]:
    """A server whose access tokens live a minute, and where no spent refresh token is forgiven."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "utc_now", clock)
        async with serving(
            database_url, access_token_seconds=60, refresh_grace_seconds=0
        ) as running:
            yield running


async def fifty_calls(client: sixfold.AsyncClient) -> None:
    await asyncio.gather(*(client.me() for _ in range(50)))


async def session_of(client: sixfold.AsyncClient) -> sixfold.Tokens:
    """The tokens of a client that has been used."""
    await client.me()
    assert client.tokens is not None
    return client.tokens


async def test_fifty_first_calls_log_in_once(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api), **credentials(ann)) as client, counting(api) as counts:
        await fifty_calls(client)

    assert counts == {"Login": 1, "GetUser": 50}


async def test_a_token_is_renewed_before_it_ends(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        first = await session_of(client)
        async with counting(api) as early:
            client._session.monotonic = lambda: time.monotonic() + 43
            await fifty_calls(client)
        async with counting(api) as late:
            client._session.monotonic = lambda: time.monotonic() + 53
            await fifty_calls(client)
        second = await session_of(client)

    assert early == {"GetUser": 50}
    assert late == {"RefreshTokens": 1, "GetUser": 50}  # nobody was refused
    assert second.session_id == first.session_id
    assert second.refresh_token != first.refresh_token


async def test_an_expired_token_is_renewed_once_for_fifty_calls(
    api: Api, connect: Connect, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        first = await session_of(client)
        monkeypatch.setattr(clock, "ahead", timedelta(minutes=5))
        async with counting(api) as counts:
            await fifty_calls(client)
        second = await session_of(client)

    assert counts["RefreshTokens"] == 1
    assert counts["Login"] == 0
    assert second.session_id == first.session_id


async def test_a_refused_token_is_renewed_once_for_fifty_calls(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        tokens = await session_of(client)
        client._session.tokens = replace(tokens, access_token=tokens.access_token[:-8] + "AAAAAAAA")
        async with counting(api) as counts:
            await fifty_calls(client)

    assert counts["RefreshTokens"] == 1
    assert counts["Login"] == 0


async def test_an_ended_session_logs_in_again_once(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        first = await session_of(client)
        await end_session(api, first)
        async with counting(api) as counts:
            await fifty_calls(client)
        second = await session_of(client)

    assert counts["Login"] == 1
    assert counts["RefreshTokens"] == 0  # it is as dead as the access token
    assert second.session_id != first.session_id


async def test_an_ended_session_without_a_password_stays_ended(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api)) as client:
        await client.login(ann.username, PASSWORD)
        await end_session(api, await session_of(client))
        results = await asyncio.gather(*(client.me() for _ in range(50)), return_exceptions=True)
        async with counting(api) as counts:
            with pytest.raises(errors.Unauthenticated, match="SESSION_REVOKED"):
                await client.me()

    assert {each.reason for each in results if isinstance(each, errors.Unauthenticated)} == {
        "SESSION_REVOKED"
    }
    assert counts == {}
    assert client.tokens is None


async def test_a_wrong_password_is_asked_once(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api), username=ann.username, password=WRONG) as client:
        async with counting(api) as counts:
            results = await asyncio.gather(
                *(client.me() for _ in range(50)), return_exceptions=True
            )
            with pytest.raises(errors.Unauthenticated, match="BAD_CREDENTIALS"):
                await client.me()
        await client.login(ann.username, PASSWORD)

        assert (await client.me()).username == ann.username
    assert counts == {"Login": 1}
    assert [getattr(each, "reason", each) for each in results] == ["BAD_CREDENTIALS"] * 50


async def test_a_session_goes_on_in_a_new_client(api: Api, connect: Connect) -> None:
    ann = await api.login((await api.new_user()).username)
    saved: list[sixfold.Tokens] = []

    async with connect(
        target(api), refresh_token=ann.tokens.refresh_token, on_tokens=saved.append
    ) as client:
        first = await session_of(client)
        await client.refresh()
    async with connect(target(api), refresh_token=saved[-1].refresh_token) as client:
        last = await session_of(client)

    assert first.session_id == last.session_id == ann.tokens.session_id
    assert len({ann.tokens.refresh_token, *(each.refresh_token for each in saved)}) == 3


async def test_a_spent_refresh_token_ends_the_session(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with (
        connect(target(api), refresh_token=ann.tokens.refresh_token) as client,
        connect(target(api), refresh_token=ann.tokens.refresh_token) as thief,
    ):
        await client.me()
        with pytest.raises(errors.Unauthenticated, match="SESSION_REVOKED"):
            await thief.me()
        with pytest.raises(errors.Unauthenticated, match="SESSION_REVOKED"):
            await client.me()


async def test_a_refresh_token_belongs_to_its_client_id(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api), **credentials(ann), client_id="phone") as client:
        stolen = (await session_of(client)).refresh_token
        async with connect(target(api), refresh_token=stolen, client_id="laptop") as other:
            with pytest.raises(errors.Unauthenticated, match="TOKEN_INVALID"):
                await other.me()

        assert await client.refresh()


async def test_a_refresh_whose_answer_was_lost_is_asked_for_again(
    api: Api, connect: Connect
) -> None:
    ann = await api.new_user()

    async with connect(target(api), refresh_token=ann.tokens.refresh_token) as client:
        lost = await refresh(api, ann, client._session.refresh_request_id())
        tokens = await session_of(client)

    assert tokens.refresh_token == lost.refresh_token


async def test_after_logout_nothing_brings_the_session_back(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        bearer = (("authorization", f"Bearer {(await session_of(client)).access_token}"),)
        await client.logout()
        await client.logout()  # no error

        assert client.tokens is None
        with pytest.raises(errors.Unauthenticated, match="TOKEN_MISSING"):
            await client.me()
        with pytest.raises(Exception, match="The session has ended"):
            await api.auth.GetUser(auth_pb2.GetUserRequest(), metadata=bearer)


async def test_closing_leaves_the_session_alive(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        tokens = await session_of(client)

    bearer = (("authorization", f"Bearer {tokens.access_token}"),)
    assert await api.auth.GetUser(auth_pb2.GetUserRequest(), metadata=bearer)


async def refresh(api: Api, person: Person, request_id: str) -> auth_pb2.Tokens:
    request = auth_pb2.RefreshTokensRequest(
        refresh_token=person.tokens.refresh_token, request_id=request_id
    )
    return (await api.auth.RefreshTokens(request)).tokens
