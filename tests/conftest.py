"""What every test stands on: a real Postgres, a real server, real stubs.

Nothing here is a double. `SIXFOLD_TEST_DATABASE_URL` names a server to use instead of the embedded
one; databases are made and dropped on it. `SIXFOLD_TEST_DOOR=envoy` puts every server behind Envoy.
"""

import asyncio
import base64
import io
import itertools
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

# Before grpc is imported: tests start PostgreSQL, which is a fork, while servers run beside them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import asyncpg
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from sixfold.auth.v1 import auth_pb2, auth_pb2_grpc
from sixfold.data.v1 import data_pb2_grpc

from service import admin, app, settings
from service.loop import new_loop
from service.settings import Settings
from service.store import embedded
from service.store.db import Database
from tests import envoy_door

# pytest imports this file as `conftest`, tests as `tests.conftest`: one module, so one master key.
sys.modules.setdefault("tests.conftest", sys.modules[__name__])

PASSWORD = "a password for ann to keep"
MASTER_KEY = base64.b64encode(secrets.token_bytes(32)).decode()

DOOR = os.environ.get("SIXFOLD_TEST_DOOR", "grpcio")

Query = str


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The HTTP port's own server is tried on the loop of production, too."""
    both = item.path.name.startswith("test_http_")
    return {"asyncio": asyncio.new_event_loop} | ({"service": new_loop} if both else {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Behind Envoy the server is another process, in which a test can patch nothing."""
    patched = pytest.mark.skip(reason="patches the server's process")
    for item in items:
        if DOOR == "envoy" and {"api", "monkeypatch"} <= {*getattr(item, "fixturenames", ())}:
            item.add_marker(patched)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres server for the session, as a URL to one of its databases."""
    given = os.environ.get("SIXFOLD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with embedded.running(
        tmp_path_factory.mktemp("postgres") / "data", durable=False, max_connections=200
    ) as server:
        yield server.url


def in_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def execute(url: str, *statements: str) -> None:
    """Run statements on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def template(postgres_url: str) -> AsyncIterator[str]:
    """The name of a migrated database to copy, with one signing key in it."""
    name = f"sixfold_template_{uuid4().hex[:8]}"
    await execute(postgres_url, f"CREATE DATABASE {name}")
    chosen = make_settings(in_database(postgres_url, name))
    await admin.migrate_up(chosen)
    await admin.keys_rotate(chosen)
    yield name
    await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def new_database(
    postgres_url: str, template: str
) -> Callable[[], AbstractAsyncContextManager[str]]:
    """Makes a migrated database of its own, and drops it."""
    numbers = itertools.count()

    @asynccontextmanager
    async def make() -> AsyncIterator[str]:
        name = f"{template}_{next(numbers)}"
        await execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield in_database(postgres_url, name)
        finally:
            await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture(scope="module")
async def database_url(
    new_database: Callable[[], AbstractAsyncContextManager[str]],
) -> AsyncIterator[str]:
    """A migrated database for the tests of one file."""
    async with new_database() as url:
        yield url


@pytest.fixture(scope="module")
async def pool(database_url: str) -> AsyncIterator[Database]:
    """What store functions take."""
    async with app.database(make_settings(database_url)) as opened:
        yield opened


def environment(database_url: str, **changes: object) -> dict[str, str]:
    """The environment of a server under test. Hashes are the weakest that are allowed: what they
    cost is measured elsewhere.
    """
    chosen: dict[str, object] = {
        "database_url": database_url,
        "master_key": MASTER_KEY,
        "issuer": "https://sixfold.test",
        "listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "argon2_memory_kib": 7168,
        "argon2_time_cost": 1,
        "drain_seconds": 0,
        "grace_seconds": 5,
        "readiness_seconds": 0.5,
        "hash_queue": 200,
        "log_format": "json",
    }
    chosen |= changes
    set_to = {name: value for name, value in chosen.items() if value is not None}
    return {f"SIXFOLD_{name.upper()}": str(value) for name, value in set_to.items()}


def make_settings(database_url: str, **changes: object) -> Settings:
    """Settings for a server under test, changed by field name."""
    return settings.load(environment(database_url, **changes))


@dataclass
class Api:
    """A channel to one server, and its stubs. `queries` are the statements the server has sent to
    Postgres, `log` is what it has written.
    """

    port: int
    http_port: int
    channel: grpc.aio.Channel
    queries: Sequence[Query] = ()
    log: io.StringIO | envoy_door.Log = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.auth: auth_pb2_grpc.AuthServiceAsyncStub = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.data: data_pb2_grpc.DataServiceAsyncStub = data_pb2_grpc.DataServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def logged(self) -> str:
        """`log`, once the calls that have just ended are in it, which takes a turn of the loop."""
        await asyncio.sleep(0.01)
        return self.log.getvalue()

    async def new_user(self, username: str | None = None) -> "Person":
        """Somebody who has just logged in."""
        username = username or f"user-{uuid4().hex[:12]}"
        made = await self.auth.CreateUser(
            auth_pb2.CreateUserRequest(username=username, password=PASSWORD)
        )
        return await self.login(made.user.username)

    async def login(self, username: str, password: str = PASSWORD) -> "Person":
        """A session of somebody there is."""
        answer = await self.auth.Login(auth_pb2.LoginRequest(username=username, password=password))
        return Person(username, answer.user.user_id, answer.tokens)


@dataclass(frozen=True)
class Person:
    """Somebody with a session. Pass `metadata=person.metadata` to a stub."""

    username: str
    user_id: str
    tokens: auth_pb2.Tokens

    @property
    def metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self.tokens.access_token}"),)


@asynccontextmanager
async def serving(database_url: str, **changes: object) -> AsyncIterator[Api]:
    """A server in this process (behind Envoy: in its own), on free ports, with settings changed by
    field name.
    """
    if DOOR == "envoy":
        async with (
            envoy_door.serving(environment(database_url, **changes)) as (ports, told, written),
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
        ):
            yield Api(ports.grpc, ports.http, channel, told, written)
        return
    queries: list[Query] = []
    log = io.StringIO()

    def on_query(query: Any) -> None:
        queries.append(query.query)

    async with AsyncExitStack() as stack:
        ports = await stack.enter_async_context(
            app.serving(make_settings(database_url, **changes), log, on_query=on_query)
        )
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}")
        )
        yield Api(ports.grpc, ports.http, channel, queries, log)


@pytest.fixture(scope="module")
async def api(database_url: str) -> AsyncIterator[Api]:
    """A server for the tests of one file."""
    async with serving(database_url) as running:
        yield running


@pytest.fixture
async def ann(api: Api) -> Person:
    """Somebody new, logged in."""
    return await api.new_user()


@pytest.fixture
async def bob(api: Api) -> Person:
    """Somebody else."""
    return await api.new_user()


@dataclass(frozen=True)
class Refusal:
    """How a call failed, as a client in any language can tell."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]  # field → reason
    retry_seconds: float | None
    message: str
    request_id: str


def refusal(error: grpc.RpcError) -> Refusal:
    """Read a failed call's google.rpc.Status."""
    assert isinstance(error, grpc.aio.AioRpcError)
    status = Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    has_retry = False
    for detail in status.details:
        for kind in (info, bad, retry, request):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
                has_retry = has_retry or kind is retry
    return Refusal(
        code=error.code(),
        reason=info.reason,
        metadata=dict(info.metadata),
        violations={each.field: each.reason for each in bad.field_violations},
        retry_seconds=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
        message=error.details() or "",
        request_id=request.request_id,
    )


async def refused(call: Any) -> Refusal:
    """Await a call that must fail, and say how it did."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refusal(caught.value)


@dataclass
class Process:
    """A real `sixfold serve`, in a process of its own, that a test can kill."""

    child: asyncio.subprocess.Process
    api: Api

    async def stopped(self, seconds: float = 15) -> int:
        """Wait for the end; the exit code."""
        return await asyncio.wait_for(self.child.wait(), seconds)


@asynccontextmanager
async def process(
    database_url: str,
    *,
    door: object = DOOR,
    program: Any = ("-m", "service"),
    **changes: object,
) -> AsyncIterator[Process]:
    """A server process on free ports; killed at the end if it still runs."""
    environ = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        "serve",
        "--door",
        str(door),
        env=environ | environment(database_url, **changes),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    drain: asyncio.Task[None] | None = None
    try:
        log = io.StringIO()
        ports = await asyncio.wait_for(_announced(child, log), 60)
        drain = asyncio.ensure_future(_keep(child, log))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc_port']}") as channel:
            yield Process(child, Api(ports["grpc_port"], ports["http_port"], channel, log=log))
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        if drain:
            await drain


async def _announced(child: asyncio.subprocess.Process, log: io.StringIO) -> dict[str, int]:
    import orjson

    assert child.stdout is not None
    async for line in child.stdout:
        log.write(line.decode())
        event = orjson.loads(line)
        if event.get("message") == "serving":
            return {name: event[name] for name in ("grpc_port", "http_port")}
    raise AssertionError(f"the server ended with {await child.wait()}")


async def _keep(child: asyncio.subprocess.Process, log: io.StringIO) -> None:
    assert child.stdout is not None
    async for line in child.stdout:
        log.write(line.decode())
