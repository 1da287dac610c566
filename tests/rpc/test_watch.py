"""Health: asked once, all at once, and watched, which is the one stream there is."""

import asyncio
import logging
import struct
import time
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from service.rpc.policy import AUTH, DATA
from tests.conftest import Api, serving
from tests.rpc.wire import code, raw_call

SERVING = HealthCheckResponse.SERVING


async def test_each_service_has_a_status_and_others_are_not_found(api: Api) -> None:
    listed = await api.health.List(HealthListRequest())

    assert {name: each.status for name, each in listed.statuses.items()} == dict.fromkeys(
        ("", AUTH, DATA), SERVING
    )
    for name, each in listed.statuses.items():
        assert await api.health.Check(HealthCheckRequest(service=name)) == each
    unknown = api.health.Check(HealthCheckRequest(service="unknown"))
    assert await code(unknown) is grpc.StatusCode.NOT_FOUND


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


async def test_a_watcher_who_does_not_read_holds_up_nobody(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    closed_window = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE
    body = HealthCheckRequest(service=DATA).SerializeToString()
    call = raw_call("/grpc.health.v1.Health/Watch", [], closed_window, body)
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(serving(database_url, grace_seconds=1))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(call)
        async with asyncio.timeout(5):
            await reader.readuntil(b"\x01\x04\0\0\0\x01")  # the answer's headers

        async with asyncio.timeout(15):
            await server.aclose()
        writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
