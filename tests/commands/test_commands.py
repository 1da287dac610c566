"""The command line, run as operators run it: exit codes, one clear line, no secrets."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import grpc
import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from tests.commands.shell import sixfold, taken_port
from tests.conftest import (
    PASSWORD,
    Api,
    environment,
    execute,
    in_database,
    process,
    refused,
    serving,
)
from tests.faults.probes import NOT_READY, READY, http_get, truth, until

DATA = "sixfold.data.v1.DataService"
BEHIND = "the schema is behind: run `sixfold migrate up`"
NO_KEY = "there is no signing key: run `sixfold keys rotate`"


@pytest.fixture
async def empty_url(postgres_url: str) -> AsyncIterator[str]:
    """A database without a schema."""
    name = f"empty_{uuid4().hex[:8]}"
    await execute(postgres_url, f"CREATE DATABASE {name}")
    yield in_database(postgres_url, name)
    await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize("command", [["serve"], ["migrate", "up"], ["keys", "list"], ["config"]])
async def test_without_settings_a_command_names_all_that_are_missing(command: list[str]) -> None:
    ended = await sixfold(*command)

    assert (ended.code, ended.out) == (78, "")
    for name in ("SIXFOLD_DATABASE_URL", "SIXFOLD_MASTER_KEY", "SIXFOLD_ISSUER"):
        assert sum(line.startswith(f"sixfold: {name} is missing") for line in lines(ended.err)) == 1
    assert len(lines(ended.err)) == 3


async def test_bad_secrets_are_refused_and_not_printed() -> None:
    """O-9."""
    env = environment("postgresql://u:canary-password@host:port/db", master_key="canary-key")
    env["SIXFOLD_POOL_SIZ"] = "3"

    ended = await sixfold("serve", env=env)

    assert ended.code == 78
    assert "canary" not in ended.out + ended.err
    for said in (
        "SIXFOLD_DATABASE_URL ",
        "SIXFOLD_MASTER_KEY must be 32 bytes",
        "SIXFOLD_POOL_SIZ is unknown; did you mean SIXFOLD_POOL_SIZE?",
    ):
        assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [["serve"], ["keys", "list"], ["keys", "rotate"]])
async def test_another_master_key_is_a_wrong_configuration(
    database_url: str, command: list[str]
) -> None:
    other = secrets.token_bytes(32).hex()

    ended = await sixfold(*command, env=environment(database_url, master_key=other))

    assert ended.code == 78
    assert len(lines(ended.err)) == 1
    assert ended.err.startswith("sixfold: SIXFOLD_MASTER_KEY is not the one")
    assert other not in ended.out + ended.err


async def test_a_database_that_is_away_is_69_and_one_line() -> None:
    nowhere = "postgresql://nobody:canary@127.0.0.1:1/nothing"

    commands = (["migrate", "up"], ["migrate", "status"], ["keys", "list"])
    for ended in await asyncio.gather(
        *(sixfold(*command, env=environment(nowhere)) for command in commands)
    ):
        assert (ended.code, len(lines(ended.err))) == (69, 1)
        assert ended.err.startswith("sixfold: The database cannot be reached")
        assert "canary" not in ended.out + ended.err


async def test_migrate_tells_what_is_pending_and_applies_it_once(empty_url: str) -> None:
    env = environment(empty_url)

    before = await sixfold("migrate", "status", "--json", env=env)
    up = await sixfold("migrate", "up", env=env)
    after = await sixfold("migrate", "status", "--json", env=env)
    again = await sixfold("migrate", "up", "--json", env=env)
    human = await sixfold("migrate", "status", env=env)

    assert (before.code, {row["applied"] for row in before.json}) == (1, {False})
    assert (up.code, lines(up.out)[-1]) == (0, f"{len(before.json)} applied")
    assert [row["name"] for row in before.json] == lines(up.out)[:-1]
    assert (after.code, {row["applied"] for row in after.json}) == (0, {True})
    assert (again.code, again.json) == (0, {"applied": []})
    assert human.code == 0
    assert all(line.startswith("applied  ") for line in lines(human.out))


async def test_a_command_that_comes_before_the_schema_says_so(empty_url: str) -> None:
    commands = (["keys", "list"], ["keys", "rotate"], ["user", "disable", "ann"])
    for ended in await asyncio.gather(
        *(sixfold(*command, env=environment(empty_url)) for command in commands)
    ):
        assert (ended.code, ended.err) == (1, f"sixfold: {BEHIND}\n")


async def test_keys_are_published_before_they_sign_unless_told_now(empty_url: str) -> None:
    env = environment(empty_url, key_publish_seconds=1800)
    await sixfold("migrate", "up", env=env)

    none = await sixfold("keys", "list", env=env)
    first = (await sixfold("keys", "rotate", "--json", env=env)).json
    second = (await sixfold("keys", "rotate", "--json", env=env)).json
    listed = (await sixfold("keys", "list", "--json", env=env)).json
    at_once = (await sixfold("keys", "rotate", "--now", "--json", env=env)).json
    left = (await sixfold("keys", "list", "--json", env=env)).json

    assert (none.code, none.out) == (0, "no keys: run `sixfold keys rotate`\n")
    now = datetime.now(UTC)
    soon = now + timedelta(minutes=29)
    assert datetime.fromisoformat(first["sign_after"]) < now
    assert soon < datetime.fromisoformat(second["sign_after"]) < soon + timedelta(minutes=2)
    assert datetime.fromisoformat(at_once["sign_after"]) < now
    assert [row["kid"] for row in listed] == [first["kid"], second["kid"]]
    assert [row["expire_time"] is None for row in listed] == [False, True]
    assert [row["kid"] for row in left] == [at_once["kid"]]


async def test_users_are_made_and_disabled_from_the_command_line(database_url: str) -> None:
    env = environment(database_url, sign_up="false")
    name = f"op-{uuid4().hex[:8]}"

    made = await sixfold("user", "create", name, "--json", env=env, stdin=PASSWORD + "\n")
    twice = await sixfold("user", "create", name, env=env, stdin=PASSWORD + "\n")
    weak = await sixfold("user", "create", "weak", env=env, stdin="canary\n")

    assert (made.code, made.json["username"]) == (0, name)
    assert (twice.code, lines(twice.err)) == (1, ["sixfold: The username is taken."])
    assert (weak.code, len(lines(weak.err))) == (1, 1)
    assert "canary" not in weak.out + weak.err
    assert PASSWORD not in made.out + made.err
    async with serving(database_url) as api:
        person = await api.login(name)
        assert person.user_id == made.json["user_id"]

        disabled = await sixfold("user", "disable", name, env=env)
        unknown = await sixfold("user", "disable", "nobody-at-all", env=env)

        assert (disabled.code, disabled.out) == (0, f"{person.user_id}  {name} is disabled\n")
        assert (unknown.code, len(lines(unknown.err))) == (1, 1)
        why = await refused(
            api.data.GetUserData(data_pb2.GetUserDataRequest(), metadata=person.metadata)
        )
        assert why.reason == "SESSION_REVOKED"
        login = auth_pb2.LoginRequest(username=name, password=PASSWORD)
        assert (await refused(api.auth.Login(login))).reason == "BAD_CREDENTIALS"


async def test_config_shows_what_is_set_and_from_where_but_no_secret() -> None:
    env = environment("postgresql://u:canary@host/db", pool_size=7)

    shown, human, described = await asyncio.gather(
        sixfold("config", "--json", env=env),
        sixfold("config", env=env),
        sixfold("config", "--describe", "--json"),
    )

    rows = {row["name"]: (row["value"], row["source"]) for row in shown.json}
    assert rows["SIXFOLD_POOL_SIZE"] == ("7", "environment")
    assert rows["SIXFOLD_SIGN_UP"] == ("true", "default")
    assert rows["SIXFOLD_MASTER_KEY"] == rows["SIXFOLD_DATABASE_URL"] == ("***", "environment")
    for ended in (shown, human):
        assert ended.code == 0
        assert "canary" not in ended.out
        assert env["SIXFOLD_MASTER_KEY"] not in ended.out
    assert described.code == 0
    assert {row["name"] for row in described.json} == rows.keys()


async def test_healthcheck_says_by_its_exit_code(api: Api, empty_url: str) -> None:
    async def check(port: int, *more: str) -> tuple[int, str]:
        ended = await sixfold("healthcheck", "--address", f"127.0.0.1:{port}", *more)
        return ended.code, ended.out.strip()

    async with process(empty_url) as behind:
        answers = await asyncio.gather(
            check(api.port),
            check(api.port, "--service", DATA),
            check(api.port, "--service", "no.such.Service"),
            check(behind.api.port),
            check(behind.api.port, "--service", DATA),
            check(1, "--timeout", "0.5"),
        )

    assert tuple(answers[:3]) == ((0, "SERVING"), (0, "SERVING"), (1, "NOT_FOUND"))
    assert tuple(answers[3:5]) == ((0, "SERVING"), (1, "NOT_SERVING"))
    assert answers[5][0] == 1


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
async def test_a_port_in_use_is_one_clear_line(database_url: str, setting: str) -> None:
    with taken_port() as port:
        ended = await sixfold(
            "serve", env=environment(database_url, **{setting: f"127.0.0.1:{port}"})
        )

    assert ended.code == 1
    assert len(lines(ended.err)) == 1, ended.err
    assert str(port) in ended.err
    assert "Traceback" not in ended.out + ended.err


EXAMPLES = {
    "dev": "Example: sixfold dev ",
    "serve": "Example: SIXFOLD_DATABASE_URL=postgresql://... sixfold serve",
    "user create": "Example: pwgen 24 1 | sixfold user create ann",
    "user disable": "Example: sixfold user disable ann",
    "healthcheck": "Example: sixfold healthcheck --service sixfold.data.v1.DataService",
    "migrate up": "--json",
    "migrate status": "--json",
    "keys list": "--json",
    "keys rotate": "--now",
    "config": "--describe",
    "": "healthcheck",
}


async def test_help_needs_no_settings_and_shows_an_example() -> None:
    answers = await asyncio.gather(*(sixfold(*command.split(), "--help") for command in EXAMPLES))

    for ended, example in zip(answers, EXAMPLES.values(), strict=True):
        assert (ended.code, ended.err) == (0, "")
        assert example in " ".join(ended.out.split())
        assert len(lines(ended.out)) > 3


async def test_a_wrong_word_is_a_usage_error() -> None:
    for ended in await asyncio.gather(
        sixfold("migrat"), sixfold("keys", "rotate", "--soon"), sixfold("user", "create")
    ):
        assert ended.code == 2
        assert "Traceback" not in ended.err


async def test_serve_never_migrates_and_says_what_it_waits_for(empty_url: str) -> None:
    """Alive, not ready, and ready without a restart once the operator has done the two steps."""
    env = environment(empty_url)
    async with process(empty_url) as server:
        await until(lambda: holds(server.api, NOT_READY), 3)
        await until(lambda: says(server.api, BEHIND), 3)
        connection = await asyncpg.connect(empty_url)
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert await connection.fetchval(tables) == 0
        await connection.close()
        create = auth_pb2.CreateUserRequest(username="ann", password=PASSWORD)
        why = await refused(server.api.auth.CreateUser(create))
        assert why.code is grpc.StatusCode.UNAVAILABLE

        assert (await sixfold("migrate", "up", env=env)).code == 0
        await until(lambda: says(server.api, NO_KEY), 5)
        assert (await sixfold("keys", "rotate", env=env)).code == 0
        await until(lambda: holds(server.api, READY), 5)
        await server.api.new_user("ann")


async def holds(api: Api, expected: tuple[str, str, str, int, int]) -> bool:
    return await truth(api) == expected


async def says(api: Api, reason: str) -> bool:
    return await http_get(api.http_port, "/readyz") == (503, reason)


async def test_two_starts_of_serve_can_share_a_database(
    new_database: Callable[[], AbstractAsyncContextManager[str]],
) -> None:
    """Scaling out is starting one more: nothing to tell it, nothing to wait for."""
    async with new_database() as url, process(url) as one, process(url) as other:
        ann = await one.api.new_user()

        got = await other.api.data.GetUserData(data_pb2.GetUserDataRequest(), metadata=ann.metadata)

        assert got.user.username == ann.username
