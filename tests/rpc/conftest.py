"""A server that talks to Postgres only when it is asked: statements can be counted."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc_health.v1 import health_pb2

from tests.conftest import Api, serving

QUIET = {"readiness_seconds": 60, "key_refresh_seconds": 300}


@pytest.fixture(scope="module")
async def api(database_url: str) -> AsyncIterator[Api]:
    """A server for the tests of one file."""
    async with serving(database_url, **QUIET) as running:
        await ready(running)
        yield running


async def ready(api: Api) -> None:
    """Return once the server has had its first look at the database."""
    ask = health_pb2.HealthCheckRequest(service="sixfold.data.v1.DataService")
    async with asyncio.timeout(10):
        while (await api.health.Check(ask)).status != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.01)
