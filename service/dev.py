"""`sixfold dev`: everything a first try needs, in one folder, and nothing left running after it."""

import asyncio
import base64
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
from pathlib import Path

from service import admin, process, settings
from service.app import Ports
from service.loop import new_loop
from service.rpc.certificate import Unusable
from service.rpc.policy import AUTH, DATA
from service.settings import Settings
from service.store import embedded
from service.telemetry import logs

PASSWORD = "open sesame, says ann"  # noqa: S105  (an example to paste, of a user nobody has)


def run(directory: Path, port: int, http_port: int) -> int:
    """Serve on loopback until Ctrl-C; returns the exit code."""
    for each in (port, http_port):
        if not _free(each):
            option = "--port" if each == port else "--http-port"
            return _complain(f"port {each} is in use; choose another with {option}")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tell("starting PostgreSQL …")
        bin_dir = os.environ.get("SIXFOLD_PG_BIN")
        with embedded.running(
            directory / "postgres", bin_dir=Path(bin_dir) if bin_dir else None
        ) as postgres:
            chosen = _settings(directory, postgres.url, port, http_port)
            logs.configure(chosen.log_level, chosen.log_format, sys.stdout)
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(_serve(chosen, directory))
    except (embedded.EmbeddedError, Unusable, OSError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130
    _tell("stopped; everything is kept in " + str(directory))
    return 0


async def _serve(chosen: Settings, directory: Path) -> None:
    _tell("migrating …")
    await admin.migrate_up(chosen)
    if not await admin.keys_list(chosen):
        await admin.keys_rotate(chosen)

    async def welcome(ports: Ports) -> None:
        _tell(_welcome(directory, ports))

    await process.serve(chosen, sys.stdout, up=welcome)


def _settings(directory: Path, database_url: str, port: int, http_port: int) -> Settings:
    """What is set in the environment holds; what this mode provides is not to be set there."""
    provided = {
        "SIXFOLD_DATABASE_URL": database_url,
        "SIXFOLD_MASTER_KEY": _master_key(directory / "master.key"),
        "SIXFOLD_ISSUER": f"http://127.0.0.1:{http_port}",
        "SIXFOLD_LISTEN": f"127.0.0.1:{port}",
        "SIXFOLD_HTTP_LISTEN": f"127.0.0.1:{http_port}",
        "SIXFOLD_REFLECTION": "true",
        "SIXFOLD_DRAIN_SECONDS": "0",
        "SIXFOLD_GRACE_SECONDS": "1",
        "SIXFOLD_READINESS_SECONDS": "1",
    }
    files = {f"{name}_FILE" for name in provided}
    environ = {k: v for k, v in os.environ.items() if k not in provided and k not in files}
    try:
        return settings.load(environ | provided)
    except settings.SettingsError as error:
        for problem in error.problems:
            _tell(f"sixfold: {problem}")
        raise SystemExit(78) from error


def _master_key(path: Path) -> str:
    """This folder's own key, made once: not a default, since no two folders share it."""
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
        fresh.rename(path)
    return path.read_text()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _welcome(directory: Path, ports: Ports) -> str:
    beside = Path(sys.executable).parent / "buf"
    buf = str(beside if beside.exists() else shutil.which("buf") or "buf")
    if beside.is_relative_to(Path.cwd()):
        buf = str(beside.relative_to(Path.cwd()))
    call = f"{shlex.quote(buf)} curl --protocol grpc --http2-prior-knowledge"
    bearer = '-H "authorization: Bearer $TOKEN"'
    pick = """sed -n 's/.*"accessToken": "\\(.*\\)",/\\1/p'"""
    url = f"http://127.0.0.1:{ports.grpc}"
    ann = json.dumps({"username": "ann", "password": PASSWORD})
    note = json.dumps({"collection": "notes", "key": "first", "json": '"hello"'})
    return f"""
Sixfold is up: gRPC on 127.0.0.1:{ports.grpc}, HTTP on 127.0.0.1:{ports.http}, data in {directory}.
Try, in another terminal:

  {call} -d '{ann}' {url}/{AUTH}/CreateUser
  TOKEN=$({call} -d '{ann}' {url}/{AUTH}/Login | {pick})
  {call} {bearer} -d '{note}' {url}/{DATA}/PutRecord
  {call} {bearer} {url}/{DATA}/GetUserData

Ctrl-C stops everything and keeps the data.
"""


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _complain(problem: str) -> int:
    _tell(f"sixfold: {problem}")
    return 1
