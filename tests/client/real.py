"""The two real clients behind one face, and what a real server saw of them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pytest
import sixfold
from sixfold.auth.v1 import auth_pb2

from tests.conftest import PASSWORD, Api, Person

HOST = "127.0.0.1"
Connect = Callable[..., AbstractAsyncContextManager[sixfold.AsyncClient]]


class Threaded:
    """A sync client whose methods are called in threads, so that a test can await them."""

    def __init__(self, client: sixfold.Client, threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        return partial(self._call, member) if callable(member) else member

    def list(self, *args: Any, **options: Any) -> AsyncIterator[sixfold.Record]:
        return self._each(self._client.list(*args, **options))

    def records(self, *args: Any, **options: Any) -> AsyncIterator[sixfold.Record]:
        return self._each(self._client.records(*args, **options))

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, partial(method, *args, **options))

    async def _each(self, records: Iterator[sixfold.Record]) -> AsyncIterator[sixfold.Record]:
        while (record := await self._call(next, records, None)) is not None:
            yield record


@asynccontextmanager
async def threaded(target: str, **options: Any) -> AsyncIterator[sixfold.AsyncClient]:
    """`sixfold.Client`, to be used like `sixfold.AsyncClient`."""
    # As many threads as a test has calls at once; asyncio's own executor has six on two cores.
    with ThreadPoolExecutor(64) as threads, sixfold.Client(target, **options) as client:
        yield cast(sixfold.AsyncClient, Threaded(client, threads))


both_clients = pytest.mark.parametrize(
    "connect", [pytest.param(sixfold.AsyncClient, id="async"), pytest.param(threaded, id="sync")]
)


def target(*apis: Api) -> str:
    """Where to find servers, as a client is told; a static list when there are several."""
    addresses = ",".join(f"{HOST}:{api.port}" for api in apis)
    return f"ipv4:{addresses}" if len(apis) > 1 else addresses


def new_name() -> str:
    """A username nobody has."""
    return f"user-{uuid4().hex[:12]}"


def credentials(person: Person) -> dict[str, str]:
    """For a client that logs in by itself."""
    return {"username": person.username, "password": PASSWORD}


async def end_session(api: Api, tokens: sixfold.Tokens) -> None:
    """Log out behind a client's back."""
    bearer = (("authorization", f"Bearer {tokens.access_token}"),)
    await api.auth.Logout(auth_pb2.LogoutRequest(), metadata=bearer)


def logged(api: Api) -> list[dict[str, Any]]:
    """Every line the server has written about a call."""
    events = map(json.loads, api.log.getvalue().splitlines())
    return [event for event in events if event.get("event") == "call"]


@asynccontextmanager
async def counting(api: Api) -> AsyncIterator[Counter[str]]:
    """How often each rpc arrived at the server meanwhile; filled at the end."""
    await asyncio.sleep(0.05)  # a call is logged after its answer
    before, counts = len(logged(api)), Counter[str]()
    yield counts
    await asyncio.sleep(0.05)
    counts.update(event["method"].rpartition("/")[2] for event in logged(api)[before:])
