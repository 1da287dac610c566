"""Everything a run needs, started once and ended together."""

import base64
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from bench import calls, children, watch
from bench.children import BenchError, Server
from bench.load import Jobs
from service.store import embedded

DATABASE: Final = "bench"
POOL: Final = 10  # the default, said here because pgbench gets as many connections

# What `sixfold serve` and the echo are told to open each door.
DOORS: Final[dict[str, tuple[str, ...]]] = {"grpcio": (), "envoy": ("--door", "envoy")}
BASE: Final = "grpcio"  # its echo is what every call is compared with


def echoed(doors: Sequence[str]) -> list[str]:
    """The doors whose echo is needed to compare those of `doors`."""
    return list(dict.fromkeys((BASE, *doors)))


@dataclass(frozen=True)
class World:
    """What runs, and who is known to it. `people` are as calls.ROLES says."""

    folder: Path
    database_url: str
    bin_dir: Path
    postgres_pid: int
    servers: dict[str, Server]
    echoes: dict[str, Server]
    client: Jobs
    hasher: Jobs
    people: list[dict[str, str]]
    statements: watch.Statements


def senders(people: Sequence[dict[str, str]], call: calls.Call) -> list[tuple[str, bytes]]:
    """(authorization, body) for each connection of h2load. An echo is of a GetRecord's answer."""
    chosen = people[calls.ROLES[call.role]][: call.connections]
    return [(f"Bearer {who['access_token']}", calls.framed(_body(who, call))) for who in chosen]


def _body(who: dict[str, str], call: calls.Call) -> bytes:
    if call.request is None:
        return bytes.fromhex(who["record"])
    return call.request.SerializeToString()


def require_h2load() -> None:
    """Raises BenchError with how to get it."""
    if not shutil.which("h2load"):
        raise BenchError("h2load is missing: sudo apt install nghttp2-client")


def environment(database_url: str) -> dict[str, str]:
    """As in production, but for what would end a run or refuse its calls."""
    return {
        "SIXFOLD_DATABASE_URL": database_url,
        "SIXFOLD_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "SIXFOLD_ISSUER": "https://sixfold.example",
        "SIXFOLD_LISTEN": "127.0.0.1:0",
        "SIXFOLD_HTTP_LISTEN": "127.0.0.1:0",
        "SIXFOLD_LOG_FORMAT": "json",
        "SIXFOLD_POOL_SIZE": str(POOL),
        "SIXFOLD_DRAIN_SECONDS": "0",
        "SIXFOLD_ACCESS_TOKEN_SECONDS": "3600",
        "SIXFOLD_HASH_QUEUE": "256",  # 128 logins at once are meant to wait here, not to be refused
        "SIXFOLD_READINESS_SECONDS": "60",  # its statements would be counted among the calls'
        "SIXFOLD_KEY_REFRESH_SECONDS": "300",
    }


@contextmanager
def prepared(folder: Path) -> Iterator[tuple[embedded.EmbeddedPostgres, str, watch.Statements]]:
    """Postgres with a database of ours, as durable as in production. From here on SIGTERM is an
    exit, so that what was started is ended, too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with (
            embedded.running(folder / "postgres") as postgres,
            watch.statements(postgres.url, DATABASE) as statements,
        ):
            url = urlunsplit(urlsplit(postgres.url)._replace(path=f"/{DATABASE}"))
            yield postgres, url, statements
    except embedded.EmbeddedError as error:
        raise BenchError(str(error)) from error


def migrate(environ: dict[str, str]) -> None:
    """The two commands before the first `serve`."""
    children.run(["service", "migrate", "up"], environ)
    children.run(["service", "keys", "rotate"], environ)


@contextmanager
def running(doors: Sequence[str]) -> Iterator[World]:
    """Postgres, a server and an echo for each door, the client and its cast. Raises BenchError."""
    require_h2load()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        client = stack.enter_context(Jobs("bench.client"))
        hasher = stack.enter_context(Jobs("bench.hashes"))
        postgres, url, statements = stack.enter_context(prepared(folder))
        environ = environment(url)
        migrate(environ)
        servers, echoes = {}, {}
        for door in doors:
            serve = ["service", "serve", *DOORS[door]]
            servers[door] = stack.enter_context(children.serving(serve, environ))
        for door in echoed(doors):
            echoes[door] = stack.enter_context(children.serving(["bench.echo", *DOORS[door]], {}))
        target = f"127.0.0.1:{servers[doors[0]].port}"
        people = client.ask(job="prepare", target=target)()
        statements.analyze(url)
        yield World(
            folder=folder,
            database_url=url,
            bin_dir=embedded.find_binaries(),
            postgres_pid=postgres.pid or 0,
            servers=servers,
            echoes=echoes,
            client=client,
            hasher=hasher,
            people=people,
            statements=statements,
        )
