"""Watching the health of a service: the one stream there is."""

import time
from contextlib import AsyncExitStack

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.rpc.policy import DATA
from tests.conftest import Api, serving

SERVING = HealthCheckResponse.SERVING


async def test_a_watcher_is_told_what_is(api: Api) -> None:
    watching = api.health.Watch(HealthCheckRequest(service=""))

    first = await watching.read()
    watching.cancel()

    assert first.status == SERVING


async def test_a_watcher_is_told_what_changes_and_does_not_hold_up_the_end(
    database_url: str,
) -> None:
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(serving(database_url, grace_seconds=20))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            watching = HealthStub(channel).Watch(HealthCheckRequest(service=DATA))
            seen = [(await watching.read()).status]
            while seen[-1] != SERVING:
                seen.append((await watching.read()).status)
            began = time.monotonic()

            await server.aclose()

            took = time.monotonic() - began
            assert (await watching.read()).status == HealthCheckResponse.NOT_SERVING
            assert await watching.code() is grpc.StatusCode.UNAVAILABLE
            assert took < 10
