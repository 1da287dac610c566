"""What the documents name is there: files, folders, links, rpcs, methods, classes."""

import asyncio
import re
import tomllib
from pathlib import Path

import pytest
import sixfold
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from tests.conftest import Api
from tests.docs import markdown
from tests.docs.markdown import CLIENT_README, DOCUMENTS, README, ROOT, block

by_name = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def test_the_floor_plan_names_what_there_is() -> None:
    parents: list[tuple[int, Path]] = []
    for line in block(README, "protos/    the").text.splitlines():
        indent = len(line) - len(line.lstrip())
        name, _, says = line.strip().partition(" ")
        while parents and parents[-1][0] >= indent:
            parents.pop()
        path = (parents[-1][1] if parents else ROOT) / name
        parents.append((indent, path))

        assert path.is_dir() if name.endswith("/") else path.is_file(), path
        for folder in re.findall(r"(\w+)/", says):
            assert (path / folder).is_dir(), path / folder


def test_every_folder_of_the_service_is_on_the_floor_plan() -> None:
    plan = block(README, "protos/    the").text
    folders = [each.parent.name for each in (ROOT / "service").glob("*/__init__.py")]

    assert [name for name in folders if f"  {name}/ " not in plan] == []


@by_name
def test_every_link_leads_somewhere(path: Path) -> None:
    inside = [each for each in markdown.links(path) if "://" not in each]

    assert [each for each in inside if not (path.parent / each.partition("#")[0]).exists()] == []


@by_name
def test_every_file_in_backquotes_is_there(path: Path) -> None:
    homes = (ROOT, ROOT / "service", path.parent)
    files = [each for each in markdown.code(path) if re.fullmatch(r"[\w./-]+/[\w.-]*\.\w+", each)]
    files = [each for each in files if not each.startswith(("/", "."))]

    missing = [each for each in files if not any((home / each).exists() for home in homes)]

    assert missing == []


def test_the_readme_lists_every_rpc() -> None:
    services = [
        *auth_pb2.DESCRIPTOR.services_by_name.values(),
        *data_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    told = {row[0].strip("`"): row[1].split(", ") for row in markdown.rows(README, "| service |")}

    for service in services:
        assert told[service.full_name] == [method.name for method in service.methods]


async def test_the_readme_lists_what_http_answers(api: Api) -> None:
    (told,) = [row[1] for row in markdown.rows(README, "| service |") if row[0] == "HTTP"]
    paths = re.findall(r"`(/[^`]+)`", told)

    async with sixfold.AsyncClient(f"127.0.0.1:{api.port}") as client:
        await client.ready()
    answers = [await answer(api.http_port, path) for path in paths]

    assert answers == [200] * 5


def test_the_client_s_readme_lists_every_method() -> None:
    table = markdown.rows(CLIENT_README, "| | |")
    told = [name for row in table for name in re.findall(r"`(\w+)`", row[1])]

    public = {name for name in dir(sixfold.Client) if not name.startswith("_")}

    assert sorted(told) == sorted(public - {"from_env"})
    assert "from_env" in block(CLIENT_README, "from_env").text


def test_the_client_s_readme_lists_every_error() -> None:
    table = markdown.rows(CLIENT_README, "| class |")
    told = [name for row in table for name in re.findall(r"`(\w+)`", row[0])]

    classes = {each.__name__ for each in sixfold.errors.SixfoldError.__subclasses__()}

    assert sorted(told) == sorted(classes)


def test_the_changelog_keeps_to_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    sections = re.split(r"^### .*$", text, flags=re.MULTILINE)[1:]

    assert text.startswith("# Changelog\n")
    assert "https://keepachangelog.com/en/1.1.0/" in text
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", each) for each in versions[1:])
    assert versions[1:] == sorted(versions[1:], key=numbers, reverse=True)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(section.strip().startswith("- ") for section in sections)


def test_a_version_that_is_not_out_has_no_section() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    projects = [ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml"]
    ours = {tomllib.loads(each.read_text())["project"]["version"] for each in projects}

    (version,) = ours  # one version for both

    assert numbers(version) >= max(map(numbers, re.findall(r"^## \[(\d.*?)\]", text)), default=[0])


def numbers(version: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", version)[:3]]


async def answer(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    return int(status.split()[1])
