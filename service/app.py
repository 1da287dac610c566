"""The composition root: everything is built here, once. What is built first is closed last."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TextIO, cast

from grpc_health.v1 import health_pb2_grpc
from sixfold.auth.v1 import auth_pb2_grpc
from sixfold.data.v1 import data_pb2_grpc

from service import http_port, http_server, policies
from service.domain import keys
from service.domain.errors import DatabaseUnavailable, NotReady
from service.place import Place
from service.rpc import asgi, deadlines, interceptors, policy, reflection, server
from service.rpc.auth import AuthService
from service.rpc.certificate import Certificate
from service.rpc.data import DataService
from service.rpc.hashing import HashPool
from service.rpc.health import Readiness
from service.rpc.interceptors import Layer
from service.rpc.mount import Mount
from service.rpc.server import Door
from service.rpc.transport import Transport
from service.settings import Settings, host_port
from service.store import capacity, connecting, janitor
from service.store.db import Database
from service.store.keyring import Keyring
from service.telemetry import siblings
from service.telemetry.logs import AccessLog
from service.telemetry.metrics import Metrics

log = logging.getLogger("sixfold")

# The process' own, beside `pool_size`: one for the janitor, one for readiness and keys. A process
# whose pool is full of calls is busy, not unready, and still learns of new keys.
HOUSEKEEPING_CONNECTIONS = 2


# From the layers around calls and those around streams.
MakeDoor = Callable[[list[Layer], list[Layer]], Mount]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a process can be reached: gRPC, and HTTP."""

    grpc: int
    http: int


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


@asynccontextmanager
async def database(
    settings: Settings,
    *,
    size: int | None = None,
    on_query: Callable[[Any], None] | None = None,
) -> AsyncIterator[Database]:
    """A pool, for the server and for the commands: of `pool_size`, or of another size."""
    async with connecting.pooled(
        settings.database_url,
        size=size or settings.pool_size,
        acquire_seconds=settings.pool_acquire_seconds,
        statement_timeout=timedelta(seconds=settings.max_deadline_seconds),
        pooler=settings.database_pooler,
        on_query=on_query,
    ) as opened:
        yield opened


@asynccontextmanager
async def serving(
    settings: Settings,
    log_stream: TextIO,
    *,
    hurry: asyncio.Event | None = None,
    on_query: Callable[[Any], None] | None = None,
    make_door: MakeDoor = Door,
    place: Place | None = None,
) -> AsyncIterator[Ports]:
    """One process, serving until left. Leaving drains; `hurry` cuts the draining short. `place` is
    that of one of several.

    Raises MasterKeyMismatch, TooFewConnections, Unusable for the TLS files, OSError for a port in
    use. Postgres may be away: the process is then up, alive and not ready.
    """
    hurry = hurry or asyncio.Event()
    certificate = None
    if settings.tls_certificate:
        certificate = Certificate(settings.tls_certificate, settings.tls_key)
    async with (
        database(settings, on_query=on_query) as pool,
        database(settings, size=HOUSEKEEPING_CONNECTIONS) as own,
        hash_pool(settings) as hashing,
    ):
        keyring = Keyring(own, policies.key_encryption_key(settings))
        try:
            if not settings.database_pooler:  # how many there are then is the pooler's business
                each = settings.pool_size + HOUSEKEEPING_CONNECTIONS
                await capacity.check(own, settings.workers * each)
            await keyring.refresh()
        except (DatabaseUnavailable, NotReady) as error:
            log.warning("starting without keys; readiness waits for them: %s", error)
        readiness = Readiness(own, keyring, utc_now, place.ready if place else None)
        measures = _metrics(pool, hashing, keyring)
        if certificate:
            measures.read_certificate(certificate.expires)
        layers, stream_layers = _layers(
            settings, keyring, measures, AccessLog(log_stream, settings.log_format)
        )
        door = make_door(layers, stream_layers)
        auth = AuthService(
            pool,
            keyring,
            hashing,
            policies.auth(settings),
            now=utc_now,
            entropy=secrets.token_bytes,
        )
        auth_pb2_grpc.add_AuthServiceServicer_to_server(auth, cast(Any, door))
        data_pb2_grpc.add_DataServiceServicer_to_server(
            DataService(pool, page_key=keys.derive(settings.master_key, "sixfold page tokens")),
            cast(Any, door),
        )
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, door)
        await readiness.open(settings.readiness_seconds)
        if settings.reflection:
            reflection.mount(door)
        routes = partial(
            http_port.routes,
            issuer=settings.issuer,
            jwks=lambda: _jwks(keyring),
            max_age=int(policies.JWKS_MAX_AGE.total_seconds()),
            ready=lambda: readiness.reason,
        )
        transport = Transport(
            settings.max_connection_age_seconds,
            settings.max_concurrent_streams,
            settings.max_concurrent_calls,
            certificate,
            shared=place is not None,
        )
        async with (
            background(
                keyring.run(settings.key_refresh_seconds),
                janitor.run(own),
                measures.watch_loop_lag(1.0),
            ),
            siblings.telling(place.folder if place else None, measures.exposition) as metrics,
            http_server.serving(
                routes(metrics=metrics),
                *host_port(settings.http_listen),
                shared=place.http if place else None,
            ) as http,
            door.serving(
                settings.listen, transport, grace=settings.grace_seconds, hurry=hurry
            ) as grpc,
            ready(readiness, settings, hurry, place),
        ):
            yield Ports(grpc, http)


@asynccontextmanager
async def ready(
    readiness: Readiness, settings: Settings, hurry: asyncio.Event, place: Place | None
) -> AsyncIterator[None]:
    """Take traffic; at the end say so first, and go on serving while balancers take notice. Of
    several processes one that is replaced just goes: balancers see the port, where others serve.
    """
    async with background(readiness.run(settings.readiness_seconds)):
        yield
    if place and place.retired.is_set():
        return
    readiness.drain()
    try:
        await asyncio.wait_for(hurry.wait(), settings.drain_seconds)
    except TimeoutError:
        log.info("drained")


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run what runs for as long as the process, beside it; cancel it at the end."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def hash_pool(settings: Settings) -> AsyncIterator[HashPool]:
    """The threads that hash passwords. Several processes share the cores."""
    cores = max(1, (os.cpu_count() or 1) // settings.workers)
    pool = HashPool(threads=settings.hash_threads or cores, queue=settings.hash_queue)
    try:
        yield pool
    finally:
        pool.close()


def _layers(
    settings: Settings, keyring: Keyring, measures: Metrics, access_log: AccessLog
) -> tuple[list[Layer], list[Layer]]:
    """What surrounds a call, and what surrounds a stream; outermost first."""
    metrics = interceptors.metrics(measures, access_log)
    errors = interceptors.errors(server.ABORTS + asgi.ABORTS)
    auth = interceptors.auth(policies.token(settings), keyring, utc_now)
    deadline = deadlines.deadline(settings.deadline_seconds, settings.max_deadline_seconds)
    # Validate is the innermost of each method, with the method's own message.
    return [metrics, errors, auth, deadline], [metrics, errors, auth]


def _metrics(pool: Database, hashing: HashPool, keyring: Keyring) -> Metrics:
    measures = Metrics(policy.PUBLIC | policy.SCOPES.keys())
    measures.read_pool(lambda: pool.connections()[0], lambda: pool.connections()[1])
    measures.read_hash_queue(hashing.length)
    measures.read_token_keys(lambda: len(keyring.current.keys))
    return measures


def _jwks(keyring: Keyring) -> dict[str, Any]:
    public = keyring.current.public_keys(utc_now())
    return {"keys": [keys.public_jwk(kid, key) for kid, key in public.items()]}
