"""Ways to look at a server and at its Postgres from outside, and to be in a write's way."""

import asyncio
import http.client
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import orjson
from grpc_health.v1 import health_pb2

from tests.conftest import Api, Person

LIVENESS = ""
SERVICES = ("sixfold.auth.v1.AuthService", "sixfold.data.v1.DataService")


async def http_get(port: int, path: str) -> tuple[int, str]:
    """GET from a server's HTTP port: (status, body)."""

    def get() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(get)


async def health(api: Api, service: str) -> str:
    """The status' name by grpc.health.v1."""
    answer = await api.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def truth(api: Api) -> tuple[str, str, str, int, int]:
    """(liveness, readiness of auth, of data, /livez, /readyz)."""
    return (
        await health(api, LIVENESS),
        await health(api, SERVICES[0]),
        await health(api, SERVICES[1]),
        (await http_get(api.http_port, "/livez"))[0],
        (await http_get(api.http_port, "/readyz"))[0],
    )


def faults(api: Api) -> list[str]:
    """What this server logged of faults, shortened."""
    lines = [orjson.loads(line) for line in api.log.getvalue().splitlines()]
    return [
        f"{line.get('message')}: {line['exception'][-500:]}"
        for line in lines
        if "exception" in line
    ]


READY = ("SERVING", "SERVING", "SERVING", 200, 200)
NOT_READY = ("SERVING", "NOT_SERVING", "NOT_SERVING", 200, 503)


async def until(what: Callable[[], Awaitable[bool]], seconds: float, pause: float = 0.02) -> float:
    """Wait until `what` holds; how many seconds that took. Fails after `seconds`."""
    began = time.monotonic()
    while not await what():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        await asyncio.sleep(pause)
    return time.monotonic() - began


async def metric(api: Api, series: str) -> float:
    """One number from /metrics; `series` as it is written there, labels included."""
    _, text = await http_get(api.http_port, "/metrics")
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"{series} is not among the metrics"
    return float(found[1])


@asynccontextmanager
async def writes_blocked(database_url: str, person: Person) -> AsyncIterator[None]:
    """Hold the row that every write of this user needs."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM user_counters WHERE user_id = $1 FOR UPDATE", UUID(person.user_id)
            )
            yield
    finally:
        await connection.close()


async def waiting_for_a_lock(database_url: str, count: int) -> None:
    """Return once `count` statements of servers in this database wait for a lock."""
    connection = await asyncpg.connect(database_url)

    async def enough() -> bool:
        waiting = await connection.fetchval(
            """
            SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'sixfold'
               AND wait_event_type = 'Lock'
            """
        )
        return bool(waiting >= count)

    try:
        await until(enough, 10)
    finally:
        await connection.close()
