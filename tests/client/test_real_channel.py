"""How a client reaches a real server, and how long it waits for one."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
import sixfold
from sixfold import errors
from sixfold.data.v1 import data_pb2

from tests.client.real import HOST, Connect, both_clients, credentials, target
from tests.conftest import PASSWORD, Api, execute, in_database, serving


@contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server((HOST, 0)) as listener:
        yield f"{HOST}:{listener.getsockname()[1]}"


@contextmanager
def took(seconds: float) -> Iterator[None]:
    """That the block ends about when it should: never early, and late only by what a busy machine
    adds.
    """
    start = time.monotonic()
    yield
    assert seconds * 0.9 <= time.monotonic() - start < seconds + 1


@asynccontextmanager
async def locked(database_url: str, table: str) -> AsyncIterator[None]:
    """A table that nobody else can read: a database that has become slow."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


@both_clients
async def test_a_slow_server_gets_no_more_than_the_timeout(
    api: Api, database_url: str, connect: Connect
) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        await client.put("notes", "first", 1)
        async with locked(database_url, "records"):
            with took(0.4), pytest.raises(errors.DeadlineExceeded):
                await client.get("notes", "first", timeout=0.4)

        assert (await client.get("notes", "first")).value == 1


@both_clients
async def test_a_silent_server_gets_no_more_than_the_timeout(connect: Connect) -> None:
    with silent() as address:
        async with connect(address, timeout=0.4) as client:
            with took(0.4), pytest.raises(errors.DeadlineExceeded):
                await client.login("ann", PASSWORD)
            with took(0.4), pytest.raises(errors.DeadlineExceeded):
                await client.ready()


@both_clients
async def test_a_method_s_timeout_covers_the_wait_for_its_token(connect: Connect) -> None:
    with silent() as address:
        async with connect(address, refresh_token="stored") as client:
            with took(0.4), pytest.raises(errors.DeadlineExceeded):
                await client.get("notes", "first", timeout=0.4)


@both_clients
async def test_without_a_server_a_call_is_unavailable(unused_port: int, connect: Connect) -> None:
    async with connect(f"{HOST}:{unused_port}", retry=False) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await client.login("ann", PASSWORD)

    assert caught.value.reason == ""


@both_clients
async def test_a_server_that_comes_up_later_is_found(
    database_url: str, unused_port: int, connect: Connect
) -> None:
    async with connect(f"{HOST}:{unused_port}") as client:
        waiting = asyncio.ensure_future(client.ready(timeout=10))
        await asyncio.sleep(0.2)
        async with serving(database_url, listen=f"{HOST}:{unused_port}"):
            await waiting


@both_clients
async def test_a_database_that_is_away_says_when_to_come_again(
    api: Api, postgres_url: str, database_url: str, connect: Connect
) -> None:
    async with connect(target(api), **credentials(await api.new_user()), retry=False) as client:
        await client.me()
        name = urlsplit(database_url).path.removeprefix("/")
        try:
            await execute(
                in_database(postgres_url, "postgres"),
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            with pytest.raises(errors.Unavailable) as caught:
                await client.me()
        finally:
            await execute(
                in_database(postgres_url, "postgres"),
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS true",
            )

        assert caught.value.reason == "DATABASE_UNAVAILABLE"
        assert caught.value.retry_after is not None
        await client.ready(timeout=10)
        await client.me()


@both_clients
async def test_plaintext_leaves_the_machine_only_when_allowed(api: Api, connect: Connect) -> None:
    elsewhere = f"0.0.0.0:{api.port}"  # this machine, but not by a loopback address

    with pytest.raises(ValueError, match="allow_plaintext"):
        async with connect(elsewhere):
            pass
    async with connect(elsewhere, allow_plaintext=True) as client:
        await client.ready(timeout=5)


@pytest.mark.parametrize("kind", [sixfold.Client, sixfold.AsyncClient])
def test_plaintext_is_refused_from_the_environment_too(
    kind: type[sixfold.Client | sixfold.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIXFOLD_TARGET", "sixfold.example:50051")

    with pytest.raises(ValueError, match="SIXFOLD_ALLOW_PLAINTEXT"):
        kind.from_env()


async def test_a_client_is_made_from_the_environment(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await api.new_user()
    monkeypatch.setenv("SIXFOLD_TARGET", f"0.0.0.0:{api.port}")
    monkeypatch.setenv("SIXFOLD_ALLOW_PLAINTEXT", "true")
    monkeypatch.setenv("SIXFOLD_USERNAME", ann.username)
    monkeypatch.setenv("SIXFOLD_PASSWORD", PASSWORD)

    async with sixfold.AsyncClient.from_env() as client:
        assert (await client.me()).username == ann.username


async def test_the_stubs_speak_on_the_same_channel(api: Api) -> None:
    ann = await api.new_user()
    request = data_pb2.GetUserDataRequest()

    async with sixfold.AsyncClient(target(api)) as client:
        answer = await client.stubs.data.GetUserData(request, metadata=ann.metadata, timeout=5)
    with sixfold.Client(target(api)) as plain:
        same = await asyncio.to_thread(
            plain.stubs.data.GetUserData, request, metadata=ann.metadata, timeout=5
        )

    assert answer == same
    assert answer.user.username == ann.username


@pytest.fixture
def unused_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
