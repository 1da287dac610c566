"""Readiness: asked of Postgres every few seconds, told through grpc.health.v1 and /readyz.

`""` is liveness and asks nothing: a process whose Postgres is away must not be restarted for it.
`sixfold.auth.v1.AuthService` and `sixfold.data.v1.DataService` are readiness.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from grpc_health.v1.health import aio as grpc_health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from service.domain.errors import DomainError, NotReady
from service.rpc.policy import AUTH, DATA
from service.store import migrate, readiness
from service.store.db import Database
from service.store.keyring import Keyring

log = logging.getLogger("sixfold.health")


class Readiness:
    """`servicer` is mounted at the door; `reason` is None while ready, else why not."""

    def __init__(
        self,
        db: Database,
        keyring: Keyring,
        now: Callable[[], datetime],
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._db = db
        self._keyring = keyring
        self._now = now
        self._on_ready = on_ready
        self.servicer = grpc_health.HealthServicer()
        self.reason: str | None = "starting"

    async def run(self, interval: float) -> None:
        """Look every `interval` seconds (and allow each look as long) until told otherwise."""
        while True:
            await asyncio.sleep(interval)
            await self._tell(await self._look(interval))

    async def open(self, seconds: float) -> None:
        """Have an answer from the first call on: look, for so long at most."""
        await self._tell(await self._look(seconds))

    async def drain(self) -> None:
        """Send traffic elsewhere, for good: `run` must have been cancelled."""
        await self._tell("draining")

    async def _look(self, seconds: float) -> str | None:
        try:
            async with asyncio.timeout(seconds):
                await readiness.probe(self._db)
                if not await migrate.is_current(self._db):
                    return "the schema is behind: run `sixfold migrate up`"
                await self._look_for_a_key()
        except NotReady:
            return "there is no signing key: run `sixfold keys rotate`"
        except (DomainError, TimeoutError):
            return "the database is away, or takes no writes"
        except Exception:
            log.exception("the readiness probe failed")
            return "the readiness probe failed"
        return None

    async def _look_for_a_key(self) -> None:
        try:
            self._keyring.current.signer(self._now())
        except NotReady:
            await self._keyring.refetch()
            self._keyring.current.signer(self._now())

    async def _tell(self, reason: str | None) -> None:
        if reason is None and self._on_ready:
            self._on_ready()
        if reason != self.reason:
            log.info("ready" if reason is None else f"not ready: {reason}")
        self.reason = reason
        status = HealthCheckResponse.SERVING if reason is None else HealthCheckResponse.NOT_SERVING
        for service in (AUTH, DATA):
            await self.servicer.set(service, status)
