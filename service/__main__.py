"""The command line. Each command is an admin process of the same release (twelve-factor XII).

Exit codes: 0 done; 1 failed; 2 wrong usage; 69 the database is away; 78 wrong configuration (the
last two from sysexits.h). Answers go to stdout, diagnostics to stderr. Heavy imports are inside the
commands, so that `--help` and `healthcheck` are quick.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from service.command_line import command, flag, option, parser

if TYPE_CHECKING:
    from service.settings import Settings

T = TypeVar("T")

CONFIGURATION: Final = 78

JSON: Final = flag("--json", "One JSON document on stdout, for machines.")
USERNAME: Final = option("username", metavar="USERNAME")


@command(
    "dev",
    option("--port", "gRPC port on 127.0.0.1.", type=int, default=50051),
    option("--http-port", "HTTP port on 127.0.0.1.", type=int, default=8080),
    option("--directory", "Where database and secrets stay.", type=Path, default=".sixfold"),
    example="sixfold dev --port 50052 --http-port 8081",
)
def dev(port: int, http_port: int, directory: Path) -> None:
    """Everything at once, to try or to develop with: PostgreSQL, migrations, keys, the server."""
    from service import dev as dev_mode

    raise SystemExit(dev_mode.run(directory, port, http_port))


@command(
    "serve",
    option(
        "--door",
        "Who speaks HTTP/2; docs/performance.md.",
        choices=("grpcio", "envoy"),
        default="grpcio",
    ),
    option("--workers", "Processes at one port: SIXFOLD_WORKERS.", type=int),
    example="SIXFOLD_DATABASE_URL=postgresql://... sixfold serve",
)
def serve(door: str, workers: int | None) -> None:
    """Serve, in production: all settings from the environment, nothing made, nothing migrated."""
    if workers is not None:
        os.environ["SIXFOLD_WORKERS"] = str(workers)
    settings = _settings()
    if settings.workers > 1:
        from service import supervisor

        raise SystemExit(_run(supervisor.serve(settings, door), settings))
    if door == "envoy":
        from service import envoy_launcher

        raise SystemExit(_run(envoy_launcher.serve(settings), settings))
    from service import process

    _run(process.serve(settings, sys.stdout), settings)


@command("migrate up", JSON)
def migrate_up(json: bool) -> None:
    """Apply what is not applied yet. Safe to run from many places at once."""
    from service import admin

    applied = _run(admin.migrate_up(settings := _settings()), settings)
    _answer(json, {"applied": applied}, [*applied, f"{len(applied)} applied"])


@command("migrate status", JSON)
def migrate_status(json: bool) -> None:
    """Which migrations there are. Exits with 1 when one is not applied."""
    from service import admin

    rows = _run(admin.migrate_status(settings := _settings()), settings)
    _answer(json, rows, [f"{'applied' if r['applied'] else 'PENDING'}  {r['name']}" for r in rows])
    raise SystemExit(0 if all(row["applied"] for row in rows) else 1)


@command("keys list", JSON)
def keys_list(json: bool) -> None:
    """The keys that are published, and since when and until when each is good."""
    from service import admin

    rows = _run(admin.keys_list(settings := _settings()), settings)
    lines = [
        f"{r['kid']}  signs from {r['sign_after']}  ends {r['expire_time'] or 'never'}"
        for r in rows
    ]
    _answer(json, rows, lines or ["no keys: run `sixfold keys rotate`"])


@command(
    "keys rotate", flag("--now", "The old key has leaked: refuse it, and all its tokens."), JSON
)
def keys_rotate(now: bool, json: bool) -> None:
    """Publish a new key. It signs once every verifier has had time to see it."""
    from service import admin

    row = _run(admin.keys_rotate(settings := _settings(), now=now), settings)
    _answer(json, row, [f"{row['kid']}  signs from {row['sign_after']}"])


@command("user create", USERNAME, JSON, example="pwgen 24 1 | sixfold user create ann")
def user_create(username: str, json: bool) -> None:
    """Make a user. The password is read from standard input, or asked for on a terminal."""
    from service import admin

    settings = _settings()
    if sys.stdin.isatty():
        password = getpass()
        if getpass("Again: ") != password:
            _fail(1, "the two passwords are not the same")
    else:
        password = sys.stdin.readline().rstrip("\n")
    row = _run(admin.user_create(settings, username, password), settings)
    _answer(json, row, [f"{row['user_id']}  {row['username']}"])


@command("user disable", USERNAME, JSON, example="sixfold user disable ann")
def user_disable(username: str, json: bool) -> None:
    """Refuse a user from the next call on, and end all its sessions."""
    from service import admin

    row = _run(admin.user_disable(settings := _settings(), username), settings)
    _answer(json, row, [f"{row['user_id']}  {row['username']} is disabled"])


@command("config", JSON, flag("--describe", "All settings there are, not the values."))
def config(json: bool, describe: bool) -> None:
    """What is set and from where, secrets masked; or everything that is wrong with it, at once."""
    from service import settings

    if describe:
        known = settings.describe()
        rows = [dict(zip(("name", "default", "meaning"), row, strict=True)) for row in known]
    else:
        shown = settings.shown(_settings())
        rows = [dict(zip(("name", "value", "source"), row, strict=True)) for row in shown]
    _answer(json, rows, ["  ".join(map(str, row.values())) for row in rows])


@command(
    "healthcheck",
    option("--address", "host:port of the gRPC port.", default="127.0.0.1:50051"),
    option("--service", "Empty is liveness; a service is readiness.", default=""),
    option("--timeout", "Seconds.", type=float, default=2.0),
    option(
        "--certificate",
        "The server's own, if it has TLS: SIXFOLD_TLS_CERTIFICATE.",
        default=os.environ.get("SIXFOLD_TLS_CERTIFICATE", ""),
    ),
    example="sixfold healthcheck --service sixfold.data.v1.DataService",
)
def healthcheck(address: str, service: str, timeout: float, certificate: str) -> None:
    """Ask grpc.health.v1, for container probes. Exits with 0 when serving, 1 when not."""
    from service import admin

    try:
        status = admin.health(address, service, timeout, certificate)
    except Exception as error:
        _explain(error)
    print(status)
    raise SystemExit(0 if status == "SERVING" else 1)


def _settings() -> "Settings":
    from service import settings

    try:
        return settings.load(os.environ)
    except settings.SettingsError as error:
        _fail(CONFIGURATION, *error.problems)


def _run(work: Coroutine[Any, Any, T], settings: "Settings") -> T:
    """Run a command's coroutine, its failures as one line each and an exit code."""
    from service.loop import new_loop
    from service.telemetry import logs

    logs.configure(settings.log_level, settings.log_format, sys.stdout)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(work)
    except Exception as error:
        _explain(error)


def _explain(error: Exception) -> NoReturn:
    """End with what it means to an operator, or raise it."""
    from service import exits

    known = exits.of(error)
    if known is None:
        raise error
    _fail(known[0], *known[1])


def _answer(as_json: bool, document: object, lines: list[str]) -> None:
    if as_json:
        import orjson

        lines = [orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()]
    print("\n".join(lines))


def _fail(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        print(f"sixfold: {problem}", file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """The entry point of the `sixfold` command."""
    # gRPC's C core writes to stderr past our log, also what we say ourselves, such as a taken port.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        given = vars(parser().parse_args())
        given.pop("run")(**given)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except EOFError:
        _fail(1, "nothing was entered")
    except BrokenPipeError:
        # Whoever read the answer has gone; what is left of it would be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
