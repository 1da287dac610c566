"""One refresh token, used by many at once: one successor, and only a theft ends the session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from sixfold.auth.v1 import auth_pb2

from tests.conftest import Person, Process, Refusal, process, refusal, refused

REVOKED = (grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")
Answer = auth_pb2.Tokens | Refusal


@asynccontextmanager
async def two_processes(database_url: str, **settings: object) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(process(database_url, **settings)) for _ in range(2)]


@pytest.fixture(scope="module")
async def two(database_url: str) -> AsyncIterator[list[Process]]:
    async with two_processes(database_url) as processes:
        yield processes


async def refresh(server: Process, token: str, request_id: str = "") -> Answer:
    request = auth_pb2.RefreshTokensRequest(refresh_token=token, request_id=request_id)
    try:
        return (await server.api.auth.RefreshTokens(request)).tokens
    except grpc.RpcError as error:
        return refusal(error)


async def fifty(two: list[Process], token: str, request_id: str = "") -> list[Answer]:
    return await asyncio.gather(*(refresh(two[n % 2], token, request_id) for n in range(50)))


async def session(database_url: str, person: Person) -> asyncpg.Record:
    connection = await asyncpg.connect(database_url)
    try:
        row = await connection.fetchrow(
            "SELECT refresh_generation, end_reason FROM sessions WHERE session_id = $1",
            UUID(person.tokens.session_id),
        )
    finally:
        await connection.close()
    assert row is not None
    return row


async def test_fifty_parallel_refreshes_get_one_and_the_same_successor(
    two: list[Process], database_url: str
) -> None:
    """R-1: 20 rounds over two processes; each round spends the successor of the one before."""
    ann = await two[0].api.new_user()
    token = ann.tokens.refresh_token

    for generation in range(1, 21):
        answers = await fifty(two, token)

        successors = {
            each.refresh_token if isinstance(each, auth_pb2.Tokens) else each.reason
            for each in answers
        }
        assert len(successors) == 1
        assert token not in successors
        token = successors.pop()
        assert token.startswith("sfr1_")
        assert tuple(await session(database_url, ann)) == (generation, None)

    last = await refresh(two[1], token)
    assert isinstance(last, auth_pb2.Tokens)
    for server in two:
        metadata = (("authorization", f"Bearer {last.access_token}"),)
        await server.api.auth.GetUser(auth_pb2.GetUserRequest(), metadata=metadata)


async def test_a_grandparent_reused_amid_parallel_refreshes_leaves_nothing_alive(
    two: list[Process], database_url: str
) -> None:
    """R-3, mixed with R-1: whoever of the fifty was answered before holds tokens that are dead."""
    for round_ in range(10):
        ann = await two[0].api.new_user()
        grandparent = ann.tokens.refresh_token
        parent = await refresh(two[0], grandparent)
        assert isinstance(parent, auth_pb2.Tokens)
        child = await refresh(two[1], parent.refresh_token)
        assert isinstance(child, auth_pb2.Tokens)

        thief, *answers = await asyncio.gather(
            refresh(two[round_ % 2], grandparent),
            *(refresh(two[n % 2], child.refresh_token) for n in range(50)),
        )

        assert isinstance(thief, Refusal)
        assert (thief.code, thief.reason) == REVOKED
        given = [each for each in answers if isinstance(each, auth_pb2.Tokens)]
        assert {(each.code, each.reason) for each in answers if isinstance(each, Refusal)} <= {
            REVOKED
        }
        assert (await session(database_url, ann))["end_reason"] == "refresh_token_reuse"
        for tokens in (ann.tokens, parent, child, *given[:3]):
            after = await refresh(two[0], tokens.refresh_token)
            assert isinstance(after, Refusal)
            assert (after.code, after.reason) == REVOKED
            metadata = (("authorization", f"Bearer {tokens.access_token}"),)
            why = await refused(
                two[1].api.auth.GetUser(auth_pb2.GetUserRequest(), metadata=metadata)
            )
            assert (why.code, why.reason) == REVOKED

    events = "".join(each.api.log.getvalue() for each in two).count('"authn_token_reuse"')
    assert events >= 10


async def test_without_a_grace_only_the_request_id_tells_a_retry_from_a_theft(
    database_url: str,
) -> None:
    """The strictest setting: same request_id, same successor; another one ends the session."""
    async with two_processes(database_url, refresh_grace_seconds=0) as two:
        ann = await two[0].api.new_user()

        answers = await fifty(two, ann.tokens.refresh_token, str(uuid4()))

        successors = {
            each.refresh_token if isinstance(each, auth_pb2.Tokens) else each.reason
            for each in answers
        }
        assert len(successors) == 1
        assert tuple(await session(database_url, ann)) == (1, None)

        stolen = await refresh(two[0], ann.tokens.refresh_token, str(uuid4()))
        assert isinstance(stolen, Refusal)
        owner = await refresh(two[1], successors.pop())
        assert isinstance(owner, Refusal)
        assert (stolen.code, stolen.reason) == (owner.code, owner.reason) == REVOKED
