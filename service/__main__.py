"""The command line. Each command is an admin process of the same release (twelve-factor XII).

Exit codes: 0 done; 1 failed; 2 wrong usage; 69 the database is away; 78 wrong configuration (the
last two from sysexits.h). Answers go to stdout, diagnostics to stderr. Heavy imports are inside the
commands, so that `--help` and `healthcheck` are quick.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from service.settings import Settings

T = TypeVar("T")

CONFIGURATION = 78

app = typer.Typer(
    name="sixfold",
    help="A stateless authentication and user-data service: gRPC in front, Postgres behind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
migrate_app = typer.Typer(help="Bring the database's schema up to date.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys that sign access tokens.", no_args_is_help=True)
user_app = typer.Typer(help="Users, from the operator's side.", no_args_is_help=True)
app.add_typer(migrate_app, name="migrate")
app.add_typer(keys_app, name="keys")
app.add_typer(user_app, name="user")


class Door(StrEnum):
    """What `serve` puts in front of the servicers."""

    GRPCIO = "grpcio"
    ENVOY = "envoy"


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for machines.")]


@app.command(epilog="Example: sixfold dev --port 50052 --http-port 8081")
def dev(
    port: Annotated[int, typer.Option(help="gRPC port on 127.0.0.1.")] = 50051,
    http_port: Annotated[int, typer.Option(help="HTTP port on 127.0.0.1.")] = 8080,
    directory: Annotated[Path, typer.Option(help="Where database and secrets stay.")] = Path(
        ".sixfold"
    ),
) -> None:
    """Everything at once, to try or to develop with: PostgreSQL, migrations, keys, the server."""
    from service import dev as dev_mode

    raise SystemExit(dev_mode.run(directory, port, http_port))


@app.command(epilog="Example: SIXFOLD_DATABASE_URL=postgresql://… sixfold serve")
def serve(
    door: Annotated[
        Door, typer.Option(help="Who speaks HTTP/2; docs/performance.md.")
    ] = Door.GRPCIO,
    workers: Annotated[
        int | None, typer.Option(help="Processes at one port: SIXFOLD_WORKERS.")
    ] = None,
) -> None:
    """Serve, in production: all settings from the environment, nothing made, nothing migrated."""
    if workers is not None:
        os.environ["SIXFOLD_WORKERS"] = str(workers)
    settings = _settings()
    if settings.workers > 1:
        from service import supervisor

        raise typer.Exit(_run(supervisor.serve(settings, door), settings))
    if door is Door.ENVOY:
        from service import envoy_launcher

        raise typer.Exit(_run(envoy_launcher.serve(settings), settings))
    from service import process

    _run(process.serve(settings, sys.stdout), settings)


@migrate_app.command("up")
def migrate_up(as_json: Json = False) -> None:
    """Apply what is not applied yet. Safe to run from many places at once."""
    from service import admin

    applied = _run(admin.migrate_up(settings := _settings()), settings)
    _answer(as_json, {"applied": applied}, [*applied, f"{len(applied)} applied"])


@migrate_app.command("status")
def migrate_status(as_json: Json = False) -> None:
    """Which migrations there are. Exits with 1 when one is not applied."""
    from service import admin

    rows = _run(admin.migrate_status(settings := _settings()), settings)
    _answer(
        as_json, rows, [f"{'applied' if r['applied'] else 'PENDING'}  {r['name']}" for r in rows]
    )
    raise typer.Exit(0 if all(row["applied"] for row in rows) else 1)


@keys_app.command("list")
def keys_list(as_json: Json = False) -> None:
    """The keys that are published, and since when and until when each is good."""
    from service import admin

    rows = _run(admin.keys_list(settings := _settings()), settings)
    lines = [
        f"{r['kid']}  signs from {r['sign_after']}  ends {r['expire_time'] or 'never'}"
        for r in rows
    ]
    _answer(as_json, rows, lines or ["no keys: run `sixfold keys rotate`"])


@keys_app.command("rotate")
def keys_rotate(
    now: Annotated[
        bool, typer.Option("--now", help="The old key has leaked: refuse it, and all its tokens.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a new key. It signs once every verifier has had time to see it."""
    from service import admin

    row = _run(admin.keys_rotate(settings := _settings(), now=now), settings)
    _answer(as_json, row, [f"{row['kid']}  signs from {row['sign_after']}"])


@user_app.command("create", epilog="Example: pwgen 24 1 | sixfold user create ann")
def user_create(username: str, as_json: Json = False) -> None:
    """Make a user. The password is read from standard input, or asked for on a terminal."""
    from service import admin

    settings = _settings()
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    row = _run(admin.user_create(settings, username, password), settings)
    _answer(as_json, row, [f"{row['user_id']}  {row['username']}"])


@user_app.command("disable", epilog="Example: sixfold user disable ann")
def user_disable(username: str, as_json: Json = False) -> None:
    """Refuse a user from the next call on, and end all its sessions."""
    from service import admin

    row = _run(admin.user_disable(settings := _settings(), username), settings)
    _answer(as_json, row, [f"{row['user_id']}  {row['username']} is disabled"])


@app.command()
def config(
    as_json: Json = False,
    describe: Annotated[bool, typer.Option(help="All settings there are, not the values.")] = False,
) -> None:
    """What is set and from where, secrets masked; or everything that is wrong with it, at once."""
    from service import settings

    if describe:
        known = settings.describe()
        rows = [dict(zip(("name", "default", "meaning"), row, strict=True)) for row in known]
    else:
        shown = settings.shown(_settings())
        rows = [dict(zip(("name", "value", "source"), row, strict=True)) for row in shown]
    _answer(as_json, rows, ["  ".join(map(str, row.values())) for row in rows])


@app.command(epilog="Example: sixfold healthcheck --service sixfold.data.v1.DataService")
def healthcheck(
    address: Annotated[str, typer.Option(help="host:port of the gRPC port.")] = "127.0.0.1:50051",
    service: Annotated[str, typer.Option(help="Empty is liveness; a service is readiness.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 2.0,
    certificate: Annotated[
        str, typer.Option(envvar="SIXFOLD_TLS_CERTIFICATE", help="The server's own, if it has TLS.")
    ] = "",
) -> None:
    """Ask grpc.health.v1, for container probes. Exits with 0 when serving, 1 when not."""
    from service import admin

    try:
        status = admin.health(address, service, timeout, certificate)
    except Exception as error:
        _explain(error)
    print(status)
    raise typer.Exit(0 if status == "SERVING" else 1)


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
    except KeyboardInterrupt:
        raise SystemExit(130) from None
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
    app()


if __name__ == "__main__":
    main()
