"""The promise, shown: three processes on one Postgres, one is killed, and nobody notices.

`make demo` runs it. Exit code 0 only if every step held.
"""

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import grpc
import sixfold
from sixfold.data.v1 import data_pb2

from service.store import embedded

PASSWORD = "open sesame, says ann"  # noqa: S105  (of a user who exists for ten seconds)


def main() -> int:
    """Run every step; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        print("Starting PostgreSQL and three server processes …")
        postgres = stack.enter_context(embedded.running(Path(folder) / "postgres"))
        environ = environment(postgres.url)
        sixfold_command(environ, "migrate", "up")
        sixfold_command(environ, "keys", "rotate")
        servers = [stack.enter_context(server(environ)) for _ in range(3)]
        for name, (process, target) in zip("ABC", servers, strict=True):
            print(f"  {name}  process {process.pid} on {target}")
        try:
            story(servers)
        except (AssertionError, sixfold.SixfoldError) as error:
            print(f"  ✗ {error}")
            return 1
    print("\nEvery step held. No process had to know another.")
    return 0


def story(servers: list[tuple[subprocess.Popen[str], str]]) -> None:
    """What a user does, across processes."""
    (a_process, a), (_, b), (_, c) = servers
    with sixfold.Client(a) as first, sixfold.Client(b) as second:
        user = first.create_user(f"ann-{uuid4().hex[:6]}", PASSWORD)
        step("A", f"registers {user.username}")
        first.login(user.username, PASSWORD)
        tokens = first.tokens
        assert tokens is not None, "login gave no tokens"
        step("A", "logs her in: an access token and a refresh token")

        token = (("authorization", f"Bearer {tokens.access_token}"),)
        put = data_pb2.PutRecordRequest(collection="notes", key="first", json='"kept"')
        written = second.stubs.data.PutRecord(put, metadata=token, timeout=5)
        step("B", f"takes the same token and writes a note at revision {written.revision}")

        a_process.send_signal(signal.SIGKILL)
        a_process.wait()
        step("A", "is dead (kill -9)")

        with sixfold.Client(c, refresh_token=tokens.refresh_token) as third:
            third.refresh()
            step("C", "refreshes the session that A opened")
            data = third.user_data()
            found = [(record.key, record.value) for record in data.records]
            assert found == [("first", "kept")], f"found {found}"
            step("C", f"returns {data.user.username}'s data: {found[0][0]} = {found[0][1]!r}")
            third.logout()
            step("C", "logs her out")

        try:
            get = data_pb2.GetRecordRequest(collection="notes", key="first")
            second.stubs.data.GetRecord(get, metadata=token, timeout=5)
        except grpc.RpcError as refused:
            reason = sixfold.errors.of_rpc(refused).reason
            assert reason == "SESSION_REVOKED", f"refused with {reason}"
            step("B", f"refuses the token at its very next call: {reason}")
        else:
            raise AssertionError("B still accepts the token of a session that has ended")


def step(where: str, what: str) -> None:
    """One line for a person."""
    print(f"  ✓ {where}  {what}")


def environment(database_url: str) -> dict[str, str]:
    """What each of the three processes is given; they share nothing else."""
    return {
        **os.environ,
        "SIXFOLD_DATABASE_URL": database_url,
        "SIXFOLD_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "SIXFOLD_ISSUER": "https://sixfold.example",
        "SIXFOLD_LISTEN": "127.0.0.1:0",
        "SIXFOLD_HTTP_LISTEN": "127.0.0.1:0",
        "SIXFOLD_LOG_FORMAT": "json",
        "SIXFOLD_DRAIN_SECONDS": "0",
    }


def sixfold_command(environ: dict[str, str], *words: str) -> None:
    """Run an admin command to its end."""
    command = [sys.executable, "-m", "service", *words]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def server(environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `sixfold serve` that is ready: the process, and where to call it."""
    with subprocess.Popen(
        [sys.executable, "-m", "service", "serve"], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = next(
                event["grpc_port"]
                for event in map(json.loads, process.stdout)
                if event.get("message") == "serving"
            )
            target = f"127.0.0.1:{port}"
            with sixfold.Client(target) as client:
                client.ready(timeout=10)
            yield process, target
        finally:
            process.terminate()


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"({time.monotonic() - started:.1f} s)")
    raise SystemExit(code)
