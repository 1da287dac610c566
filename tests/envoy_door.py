"""`tests.conftest.serving` behind Envoy: the server in a process of its own. What it has written
and sent to Postgres it tells in files; what it logs is logged again here, before the call ends.
"""

import asyncio
import json
import logging
import os
import pickle
import socket
import socketserver
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

from service import app, envoy_process, process
from service.app import Ports
from service.rpc.wire import Receive, Scope, Send
from service.settings import Settings
from service.telemetry import lines

FOLDER = "_SIXFOLD_TEST_FOLDER"
# As `sixfold serve --door envoy`, but with `application` below.
LAUNCH = """
import asyncio, os, sys
from service import envoy_launcher, settings
application = "tests.envoy_door:application"
serving = envoy_launcher.serve(settings.load(os.environ), application=application)
sys.exit(asyncio.run(serving))
"""


class Recorded(envoy_process.Inside):
    """Inside Envoy: the service, with its ports, its statements and its failure in files."""

    def application(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answers when the statements have been told, which asyncpg does a turn after them."""

        async def send_then(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                await asyncio.sleep(0)
            await send(event)

        return super().application(scope, receive, send_then)

    application._asgi_single_callable = True  # type: ignore[attr-defined]  # as in Inside

    async def serve(self, chosen: Settings) -> None:
        folder = Path(os.environ[FOLDER])
        logging.getLogger().addHandler(Forward(folder / "records"))
        with (folder / "log").open("a") as log, (folder / "queries").open("a") as queries:

            def on_query(query: Any) -> None:
                queries.write(json.dumps(query.query) + "\n")
                queries.flush()

            async def up(ports: Ports) -> None:
                (folder / "ports.new").write_text(json.dumps(asdict(ports)))
                (folder / "ports.new").rename(folder / "ports")

            await process.serve(
                chosen,
                log,
                up=up,
                signals=self.listen,
                serving=partial(app.serving, on_query=on_query, make_door=self.make_door),
            )

    def failed(self, error: Exception) -> None:
        (Path(os.environ[FOLDER]) / "error").write_bytes(pickle.dumps(error))
        super().failed(error)


class Forward(logging.Handler):
    """Sends each record to the test, and waits until it has been logged there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def emit(self, record: logging.LogRecord) -> None:
        told = record.__dict__ | {"msg": record.getMessage(), "args": None}
        if record.exc_info:
            told["exc_info"] = (*record.exc_info[:2], None)
        data = pickle.dumps(told)
        self._socket.sendall(len(data).to_bytes(4, "big") + data)
        self._socket.recv(1)


class _Again(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while size := self.rfile.read(4):
            record = logging.makeLogRecord(
                pickle.loads(self.rfile.read(int.from_bytes(size, "big")))
            )
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
            self.wfile.write(b"!")


@contextmanager
def _logging_again(path: Path) -> Iterator[None]:
    with socketserver.ThreadingUnixStreamServer(str(path), _Again) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Log:
    """What the server has written, as the `io.StringIO` of a server in this process tells it."""

    path: Path

    def getvalue(self) -> str:
        time.sleep(5 * lines.PAUSE_SECONDS)  # what was said before this is written by then
        return self.path.read_text() if self.path.exists() else ""


@dataclass(frozen=True)
class Queries(Sequence[str]):
    """What the server has sent to Postgres until now."""

    path: Path

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._all()[index]

    def __len__(self) -> int:
        time.sleep(0.01)  # asyncpg tells of a statement after its answer
        return len(self._all())

    def _all(self) -> list[str]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]


@asynccontextmanager
async def serving(environ: dict[str, str]) -> AsyncIterator[tuple[Ports, Queries, Log]]:
    """A server behind Envoy. Raises what kept it from starting."""
    with TemporaryDirectory() as name, _logging_again(Path(name) / "records"):
        folder = Path(name)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", LAUNCH),
            env=os.environ | environ | {FOLDER: name},
            cwd=Path(__file__).parent.parent,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(30):
                while not (folder / "ports").exists():
                    if child.returncode is not None:
                        raise _error(folder)
                    await asyncio.sleep(0.02)
            ports = Ports(**json.loads((folder / "ports").read_text()))
            yield ports, Queries(folder / "queries"), Log(folder / "log")
        finally:
            if child.returncode is None:
                child.terminate()
            code = await child.wait()
        assert code == 0


def _error(folder: Path) -> Exception:
    if not (folder / "error").exists():
        return AssertionError("the server has ended without a word")
    error: Exception = pickle.loads((folder / "error").read_bytes())
    return error


def __getattr__(name: str) -> Any:
    if name == "application":
        return Recorded().application
    raise AttributeError(name)
