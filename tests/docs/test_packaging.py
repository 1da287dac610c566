"""What `pip install` gets: both wheels, built as a release builds them."""

import asyncio
import re
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.docs.commands import finished
from tests.docs.markdown import BIN, ROOT

CLIENT = ROOT / "clients" / "python"


@pytest.fixture(scope="module")
async def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels, by project."""
    folder = tmp_path_factory.mktemp("wheels")
    builds = [
        finished(BIN / "uv", "build", "--wheel", "--out-dir", folder, project, cwd=ROOT)
        for project in (ROOT, CLIENT)
    ]
    for built in await asyncio.gather(*builds):
        if built.code and re.search(r"hatchling|build-system\.requires", built.err):
            pytest.skip("hatchling cannot be had: offline")
        assert built.code == 0, built.err
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def contents(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def sources(folder: Path, *packages: str) -> set[str]:
    files = [path for package in packages for path in (folder / package).rglob("*.*")]
    return {str(path.relative_to(folder)) for path in files if "__pycache__" not in path.parts}


def metadata(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return archive.read(name).decode().partition("\n\n")[0].splitlines()


def test_the_service_s_wheel_is_the_service_and_its_migrations(wheels: dict[str, Path]) -> None:
    files = contents(wheels["sixfold_server"])

    assert files == sources(ROOT, "service")
    assert any(re.fullmatch(r"service/store/migrations/\d+_\w+\.sql", name) for name in files)


def test_the_client_s_wheel_is_the_client_and_what_is_generated(wheels: dict[str, Path]) -> None:
    files = contents(wheels["sixfold"])

    assert files == sources(CLIENT, "sixfold", "buf")
    assert files >= {
        "sixfold/py.typed",
        "sixfold/service_config.json",
        "sixfold/auth/v1/auth_pb2.py",
        "sixfold/auth/v1/auth_pb2.pyi",
        "sixfold/auth/v1/auth_pb2_grpc.py",
        "sixfold/data/v1/data_pb2.py",
        "sixfold/data/v1/data_pb2_grpc.py",
        "sixfold/errors/v1/errors_pb2.py",
        "buf/validate/validate_pb2.py",
    }


@pytest.mark.parametrize("project", ["sixfold", "sixfold_server"])
def test_no_wheel_has_tests_or_tools(wheels: dict[str, Path], project: str) -> None:
    tops = {name.partition("/")[0] for name in contents(wheels[project])}

    assert tops <= {"service", "sixfold", "buf"}
    assert not any("test" in name or "demo" in name for name in contents(wheels[project]))


def test_the_service_brings_the_client_and_a_command(wheels: dict[str, Path]) -> None:
    with ZipFile(wheels["sixfold_server"]) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/entry_points.txt")]
        entry_points = archive.read(name).decode()

    assert "Requires-Dist: sixfold" in metadata(wheels["sixfold_server"])
    assert "sixfold = service.__main__:main" in entry_points


def test_the_client_needs_nothing_of_the_service(wheels: dict[str, Path]) -> None:
    needs = [line for line in metadata(wheels["sixfold"]) if line.startswith("Requires-Dist: ")]

    assert {re.split(r"[^\w-]", line.split(" ")[1])[0] for line in needs} == {
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
    }


async def test_the_wheels_work_without_the_checkout(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    program = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import service, sixfold, buf.validate.validate_pb2
        from sixfold.data.v1 import data_pb2_grpc
        for module in (service, sixfold):
            assert module.__file__.startswith(sys.argv[1]), module.__file__
        sixfold.Client().close()
        print(sixfold.Json("1"))
    """

    for wheel in wheels.values():
        with ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    ran = await finished(sys.executable, "-I", "-c", program, str(tmp_path), cwd=tmp_path)

    assert (ran.code, ran.out, ran.err) == (0, "Json(text='1')\n", "")
