"""Readiness: asked of Postgres every few seconds, told through grpc.health.v1 and /readyz.

`""` is liveness and asks nothing: a process whose Postgres is away must not be restarted for it.
`sixfold.auth.v1.AuthService` and `sixfold.data.v1.DataService` are readiness.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

from service.domain.errors import DomainError, NotReady
from service.rpc.policy import AUTH, DATA
from service.store import migrate, readiness
from service.store.db import Database
from service.store.keyring import Keyring

log = logging.getLogger("sixfold.health")


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """grpc.health.v1, from one table. Ours, because grpcio-health-checking's Watch writes while it
    holds the lock that telling a status needs: a watcher who does not read would hold up readiness
    and the end of the process.
    """

    def __init__(self) -> None:
        self._statuses = {"": HealthCheckResponse.SERVING}
        self._changed = asyncio.Event()

    def tell(self, service: str, status: HealthCheckResponse.ServingStatus) -> None:
        """Answer with it from now on, and have all who watch wake."""
        self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HealthCheckResponse(status=status)

    async def List(self, request: HealthListRequest, context: Any) -> HealthListResponse:
        return HealthListResponse(
            statuses={
                name: HealthCheckResponse(status=status) for name, status in self._statuses.items()
            }
        )

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:
        told = None
        while True:
            changed = self._changed  # before the look: what comes meanwhile is not missed
            status = self._statuses.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            await changed.wait()


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
        self.servicer = HealthServicer()
        self.reason: str | None = "starting"

    async def run(self, interval: float) -> None:
        """Look every `interval` seconds (and allow each look as long) until told otherwise."""
        while True:
            await asyncio.sleep(interval)
            self._tell(await self._look(interval))

    async def open(self, seconds: float) -> None:
        """Have an answer from the first call on: look, for so long at most."""
        self._tell(await self._look(seconds))

    def drain(self) -> None:
        """Send traffic elsewhere, for good: `run` must have been cancelled."""
        self._tell("draining")

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

    def _tell(self, reason: str | None) -> None:
        if reason is None and self._on_ready:
            self._on_ready()
        if reason != self.reason:
            log.info("ready" if reason is None else f"not ready: {reason}")
        self.reason = reason
        status = HealthCheckResponse.SERVING if reason is None else HealthCheckResponse.NOT_SERVING
        for service in (AUTH, DATA):
            self.servicer.tell(service, status)
