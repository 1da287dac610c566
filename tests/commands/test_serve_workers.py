"""`sixfold serve --workers`: how it starts, or says in one line why it does not."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Files, handshake
from tests.commands.shell import Ended, bare, sixfold, taken_port
from tests.conftest import Process, environment, process
from tests.faults.probes import NOT_READY, READY, health, http_get, truth, until
from tests.faults.workers import PATIENCE, Workers, workers

DOORS = ["grpcio", "envoy"]
NOWHERE = "postgresql://nobody:canary@127.0.0.1:1/nothing"


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    if request.param == "envoy":
        pytest.importorskip("pyvoy", reason="pip install 'sixfold-server[envoy]'")
    return str(request.param)


@pytest.fixture
async def running(database_url: str, door: str) -> AsyncIterator[Workers]:
    async with workers(database_url, door=door, listen="[::]:0") as started:
        yield started


def complaint(ended: Ended) -> str:
    """The one line it ended with."""
    [line] = ended.err.splitlines()
    assert "Traceback" not in ended.out
    return line.removeprefix("sixfold: ")


@pytest.mark.parametrize("first", [1, 2])
async def test_a_second_start_at_their_port_fails_and_takes_no_call(
    database_url: str, door: str, first: int
) -> None:
    """Whether it is one process or several: sharing a port is for those who belong together."""
    async with process(database_url, door=door, workers=first, listen="[::]:0") as running:
        for address in (f"[::]:{running.api.port}", f"127.0.0.1:{running.api.port}"):
            for more in ([], ["--workers", "3"]):
                second = await sixfold(
                    *("serve", "--door", door, *more), env=environment(database_url, listen=address)
                )

                assert second.code == 1
                assert complaint(second) == f"cannot listen on {address}; is the port in use?"
        assert await health(running.api, "") == "SERVING"


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
async def test_a_port_in_use_is_one_clear_line(database_url: str, setting: str, door: str) -> None:
    with taken_port() as port:
        env = environment(database_url, **{setting: f"127.0.0.1:{port}"})
        ended = await sixfold("serve", "--door", door, "--workers", "2", env=env)

    assert ended.code == 1
    assert str(port) in complaint(ended)


async def test_what_is_wrong_with_the_configuration_is_said_once(
    database_url: str, door: str
) -> None:
    other = secrets.token_bytes(32).hex()

    ended = await sixfold(
        *("serve", "--door", door),
        env=environment(database_url, master_key=other, workers=3),
    )

    assert ended.code == 78
    assert complaint(ended).startswith("SIXFOLD_MASTER_KEY is not the one")
    assert other not in ended.out


async def test_all_have_the_certificate_and_each_renews_it(
    database_url: str, door: str, tmp_path: Path
) -> None:
    authority, files = Authority(), Files(tmp_path)
    files.mount(b"no certificate", b"no key")
    ended = await sixfold(
        *("serve", "--door", door),
        env=environment(database_url, workers=2, **files.settings),
    )
    assert ended.code == 78
    assert "SIXFOLD_TLS_CERTIFICATE" in complaint(ended)
    first, second = authority.issue(), authority.issue()
    files.mount(first.chain, first.key)
    async with workers(database_url, door=door, **files.settings) as running:

        async def served() -> set[int]:
            """By ten connections, which are hardly all of one worker."""
            return {(await handshake(running.api.port, authority)).serial for _ in range(10)}

        assert await served() == {first.serial}

        files.mount(second.chain, second.key)

        await running.until_said("a new certificate", 2)
        assert await served() == {second.serial}


async def test_more_connections_than_postgres_has_are_a_wrong_configuration(
    database_url: str, door: str
) -> None:
    """O-12: before there is load, which would find it out."""
    for more in ([], ["--workers", "3"]):
        count = int(more[-1]) if more else 1
        env = environment(database_url, pool_size=500)
        ended = await sixfold("serve", "--door", door, *more, env=env)

        assert ended.code == 78
        said = complaint(ended)
        assert said.startswith(f"{502 * count} connections are wanted")
        assert "SIXFOLD_WORKERS" in said
        assert "SIXFOLD_POOL_SIZE" in said


async def test_a_pooler_counts_for_itself(database_url: str) -> None:
    async with process(database_url, pool_size=500, database_pooler="true") as server:
        await until(lambda: holds(server, READY), PATIENCE)


async def holds(server: Process, expected: tuple[str, str, str, int, int]) -> bool:
    return await truth(server.api) == expected


async def test_they_start_before_their_postgres_does(door: str) -> None:
    async with workers(NOWHERE, door=door) as running:
        assert await truth(running.api) == NOT_READY
        running.server.child.terminate()
        assert await running.server.stopped(PATIENCE) == 0


async def test_how_many_is_a_setting_and_the_option_is_short_for_it(database_url: str) -> None:
    for option, code in (("0", 78), ("65", 78), ("two", 2)):
        ended = await sixfold("serve", "--workers", option, env=environment(database_url))
        assert ended.code == code
    none = await sixfold("serve", "--workers", "0", env=bare())
    assert "SIXFOLD_WORKERS must be a whole number from 1 to 64" in none.err

    async with process(database_url, door="grpcio", workers=1) as alone:
        assert Workers(alone).pids == {}


async def test_port_zero_picks_one_for_all(running: Workers) -> None:
    await running.until_said("serving", 2)  # a line is written a moment after what it tells of
    said = running.said("serving")

    assert len({(line["grpc_port"], line["http_port"]) for line in said}) == 1
    assert {line["worker"] for line in said} == {0, 1}
    assert running.api.port > 0
    assert (await http_get(running.api.http_port, "/livez"))[0] == 200
