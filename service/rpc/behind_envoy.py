"""The Envoy door, from inside Envoy: the adapter, opened and closed with Envoy's listener."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from service.rpc.asgi import Adapter
from service.rpc.certificate import Pair, Unusable
from service.rpc.envoy import ACTIVE_CALLS, LISTENER, RENEWED
from service.rpc.interceptors import Layer
from service.rpc.transport import Transport

# An answer of Envoy's own admin takes about a millisecond; it takes none when it is shutting down.
ADMIN_SECONDS = 2.0
POLL_SECONDS = 0.02
# From the service's start to Envoy's listening is about 0.1 s.
START_SECONDS = 30.0
# To read a renewed certificate takes Envoy milliseconds.
RENEW_SECONDS = 5.0
# As uvloop names them: pyvoy answers each `receive` and `send`, also of who has been cancelled.
_IN_VAIN: Final = re.compile(r"FutureExecutor|\bset_(result|exception)\b")


class EnvoyDoor(Adapter):
    """An ASGI application under construction; `serving` opens it. `mounted` is called when calls
    may come, which must be before Envoy listens.
    """

    def __init__(
        self,
        layers: list[Layer],
        stream_layers: list[Layer],
        *,
        admin: Path,
        mounted: Callable[[], None],
    ) -> None:
        super().__init__(layers, stream_layers)
        self._admin = admin
        self._mounted = mounted

    @asynccontextmanager
    async def serving(
        self, address: str, transport: Transport, *, grace: float, hurry: asyncio.Event
    ) -> AsyncIterator[int]:
        """Serve and yield the port; how connections behave Envoy was told when it was started.
        Leaving stops taking calls, gives those in flight `grace` seconds, or no more once `hurry`
        is set, and returns when the last handler has ended.
        """
        self.most = transport.max_concurrent_calls
        asyncio.get_running_loop().set_exception_handler(_unless_in_vain)
        work = [asyncio.ensure_future(self.watch())]
        try:
            self._mounted()
            async with asyncio.timeout(START_SECONDS):
                port = await self._listening()
            if transport.certificate:
                # Envoy read the files before they were read here.
                await self._take(transport.certificate.pair)
                work.append(asyncio.ensure_future(transport.certificate.watch(self._take)))
            yield port
        finally:
            await self._close(grace, hurry)
            for each in work:
                each.cancel()

    async def _listening(self) -> int:
        while True:
            with suppress(OSError, HTTPException, ValueError, LookupError):
                statuses = json.loads(await self._ask("GET", "/listeners?format=json"))
                for each in statuses["listener_statuses"]:
                    if each["name"] == LISTENER:
                        return int(each["local_address"]["socket_address"]["port_value"])
            await asyncio.sleep(POLL_SECONDS)

    async def _take(self, pair: Pair) -> None:
        """Have Envoy read the files, and see that it serves what is in them. Raises Unusable."""
        folder = self._admin.parent / RENEWED
        (folder / "new").touch()
        (folder / "new").rename(folder / "read")
        end = time.monotonic() + RENEW_SECONDS
        while pair.leaf.serial_number not in await self._serials():
            if time.monotonic() > end:
                raise Unusable("Envoy does not take them")
            await asyncio.sleep(POLL_SECONDS)

    async def _serials(self) -> set[int]:
        """Of the certificates that Envoy serves."""
        with suppress(OSError, HTTPException, ValueError):
            served = json.loads(await self._ask("GET", "/certs"))["certificates"]
            return {int(one["serial_number"], 16) for each in served for one in each["cert_chain"]}
        return set()

    async def _close(self, grace: float, hurry: asyncio.Event) -> None:
        self.drain()
        with suppress(OSError, HTTPException):
            # The first takes no new connections, the second has each answer from now on close its
            # own (GOAWAY), after what is in flight on it: who then connects anew comes elsewhere.
            await self._ask("POST", "/drain_listeners")
            await self._ask("POST", "/healthcheck/fail")
        ending = asyncio.ensure_future(self._ended())
        hurrying = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({ending, hurrying}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            self.cancel()
        hurrying.cancel()
        ending.cancel()
        await self.ended()

    async def _ended(self) -> None:
        """Wait until Envoy has no call left: after the last handler, its answer is to be sent."""
        await self.ended()
        with suppress(OSError, HTTPException, ValueError):
            while int((await self._ask("GET", f"/stats?filter={ACTIVE_CALLS}")).split()[-1]):
                await asyncio.sleep(POLL_SECONDS)
                await self.ended()

    async def _ask(self, method: str, path: str) -> bytes:
        return await asyncio.to_thread(_admin, self._admin, method, path)


def _unless_in_vain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback, but for an answer to somebody who has gone: strangers
    could have a traceback for each call.
    """
    done = isinstance(context.get("exception"), asyncio.InvalidStateError)
    if not (done and _IN_VAIN.search(context["message"])):
        loop.default_exception_handler(context)


class _Connection(HTTPConnection):
    """To Envoy's admin socket, which is a file that only this user can open."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=ADMIN_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _admin(socket_path: Path, method: str, path: str) -> bytes:
    with closing(_Connection(socket_path)) as connection:
        connection.request(method, path)
        return connection.getresponse().read()
