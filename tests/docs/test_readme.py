"""README.md and the client's do as they say: every fenced block is run or checked here."""

import ast
import asyncio
import inspect
import re
import shlex
import sys
import tomllib
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sixfold

from tests.conftest import PASSWORD, Api, execute, in_database
from tests.docs import markdown
from tests.docs.commands import finished, free_ports, started
from tests.docs.markdown import ADDRESS, CLIENT_README, README, ROOT, Block, block

# A word of every block, by which the tests below find it.
BLOCKS = {
    README: ["make run", "sixfold.Client(", "make test", "✓ A", "protos/    the", "serve &"],
    CLIENT_README: ["pip install", 'AsyncClient("', "from_env", "Conflict", "refresh_token=load"],
}
NAMES = [
    (r"process \d+", "process N"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:N"),
    (r"ann-[0-9a-f]{6}", "ann-N"),
    (r"\(\d+\.\d s\)\n", ""),
]


@pytest.mark.parametrize("path", BLOCKS)
def test_every_block_is_run_or_checked(path: Path) -> None:
    found = list(markdown.blocks(path))

    assert found == [block(path, snippet) for snippet in BLOCKS[path]]


async def execute_block(each: Block, api: Api, **names: Any) -> dict[str, Any]:
    """Run a block as Python's asyncio REPL would, in a thread unless it awaits."""
    text = each.text.replace(ADDRESS, f"127.0.0.1:{api.port}")
    compiled = compile(text, each.title, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if compiled.co_flags & inspect.CO_COROUTINE:
        await eval(compiled, names)
    else:
        await asyncio.to_thread(exec, compiled, names)
    return names


async def test_the_first_program_prints_the_first_note(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    await execute_block(block(README, "sixfold.Client("), api)

    assert capsys.readouterr().out == "notes first {'text': 'hello', 'price': 1.1} 1\n"


async def test_the_asyncio_example_runs(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    example = block(CLIENT_README, 'AsyncClient("')
    async with sixfold.AsyncClient(f"127.0.0.1:{api.port}") as client:
        await client.create_user("ann", quoted(example, "password"))

    names = await execute_block(example, api)

    assert capsys.readouterr().out.startswith("hi 1 20")
    assert names["record"].value == {"title": "hi"}


async def test_the_threads_example_runs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = await api.new_user("bob")
    monkeypatch.setenv("SIXFOLD_TARGET", f"127.0.0.1:{api.port}")
    monkeypatch.setenv("SIXFOLD_USERNAME", bob.username)
    monkeypatch.setenv("SIXFOLD_PASSWORD", PASSWORD)
    example = block(CLIENT_README, "from_env")

    await execute_block(example, api)
    await execute_block(example, api)

    async with sixfold.AsyncClient.from_env() as client:
        assert (await client.get("counters", "visits")).value == 2


async def test_the_example_of_an_error_meets_that_error(
    client: sixfold.AsyncClient, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    await client.put("notes", "first", {"title": "hi"})
    record = await client.get("notes", "first")
    await client.put("notes", "first", {"title": "somebody's"})

    await execute_block(block(CLIENT_README, "Conflict"), api, db=client, record=record)

    assert capsys.readouterr().out == "2\n"


async def test_the_example_of_a_stored_session_stores_it(api: Api) -> None:
    carol = await api.new_user()
    saved = [carol.tokens.refresh_token]
    names: dict[str, Any] = {
        "AsyncClient": sixfold.AsyncClient,
        "target": f"127.0.0.1:{api.port}",
        "load": lambda: saved[-1],
        "save": saved.append,
    }

    names = await execute_block(block(CLIENT_README, "refresh_token=load"), api, **names)
    async with names["db"] as db:
        assert (await db.me()).username == carol.username
        assert saved == [carol.tokens.refresh_token, db.tokens.refresh_token]


def test_what_is_installed_is_what_the_client_needs() -> None:
    told = block(CLIENT_README, "pip install").text
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    needs = {re.split(r"[^\w-]", each)[0] for each in project["dependencies"]}

    name, _, comment = told.removeprefix("pip install ").partition("#")

    assert name.strip() == project["name"]
    assert set(re.findall(r"[\w-]+", comment.partition(";")[0])) - {"and"} == needs
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in comment


@pytest.mark.parametrize("path", markdown.DOCUMENTS, ids=lambda path: path.name)
async def test_every_make_target_is_real(path: Path) -> None:
    targets = set(re.findall(r"^make ([a-z]+)$|`make ([a-z]+)`", path.read_text(), re.MULTILINE))
    wanted = {first or second for first, second in targets}

    listed = await finished("make", "--no-print-directory", "help")

    assert wanted <= set(re.findall(r"^  make (\S+)", listed.out, re.MULTILINE))


async def test_the_block_for_production_starts_two_processes(
    postgres_url: str, tmp_path: Path
) -> None:
    name = f"readme_{uuid4().hex[:8]}"
    await execute(postgres_url, f"CREATE DATABASE {name}")
    grpc_ports, http_ports = free_ports(2), free_ports(2)
    text = block(README, "serve &").text
    for number in (0, 1):
        text = replaced(text, f":5006{number + 1} ", f":{grpc_ports[number]} ")
        text = replaced(text, f":806{number + 1} ", f":{http_ports[number]} ")
    url = "postgresql://sixfold@db.example/sixfold"
    text = replaced(text, url, shlex.quote(in_database(postgres_url, name)))

    with (tmp_path / "log").open("w") as log:
        async with started("bash", "-e", "-c", text, cwd=tmp_path, stdout=log, stderr=log) as shell:
            assert await asyncio.wait_for(shell.wait(), 20) == 0, (tmp_path / "log").read_text()
            clients = [sixfold.AsyncClient(f"127.0.0.1:{port}") for port in grpc_ports]
            async with clients[0] as one, clients[1] as other:
                await asyncio.gather(one.ready(15), other.ready(15))
                user = await one.create_user("ann", PASSWORD)
                assert await other.login("ann", PASSWORD) == user
            for port in http_ports:
                assert await asyncio.to_thread(status, f"http://127.0.0.1:{port}/readyz") == 200
    await execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_the_demo_prints_what_the_readme_shows() -> None:
    demo = await finished(sys.executable, "docs/demo.py")

    assert demo.code == 0, demo.out + demo.err
    assert anonymous(demo.out) == anonymous(block(README, "✓ A").text)


def anonymous(text: str) -> str:
    """The demo's output without what differs each time."""
    for pattern, name in NAMES:
        text = re.sub(pattern, name, text)
    return text


def quoted(each: Block, name: str) -> str:
    """The text an example gives as `name`."""
    return str(re.findall(rf'{name}="([^"]+)"', each.text)[0])


def replaced(text: str, old: str, new: str) -> str:
    """Like str.replace, of something that must be there."""
    assert old in text
    return text.replace(old, new)


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as response:
        return int(response.status)


@pytest.fixture
async def client(api: Api) -> AsyncIterator[sixfold.AsyncClient]:
    """Somebody new."""
    dave = await api.new_user()
    async with sixfold.AsyncClient(
        f"127.0.0.1:{api.port}", username=dave.username, password=PASSWORD
    ) as opened:
        yield opened
