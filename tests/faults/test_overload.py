"""More than fits: the excess is told so at once and when to come back, the rest is served."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import grpc.aio
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import PASSWORD, Api, Refusal, process, refusal
from tests.faults.probes import LIVENESS, READY, faults, health, metric, truth, until

OK = grpc.StatusCode.OK
IN_USE = 'sixfold_database_pool_connections{state="in_use"}'
HASHES = "sixfold_hash_queue_length"
LAG = "sixfold_event_loop_lag_seconds"
BAD_TOKEN = (("authorization", "Bearer not.a.token"),)
PUT = pb.PutRecordRequest(collection="c", key="k", json="1")
LARGE = pb.PutRecordRequest(collection="c", key="k", json=f'"{20_000 * "x"}"')
GET = pb.GetRecordRequest(collection="c", key="k")


@dataclass(frozen=True)
class Answer:
    """How a call ended, and after how many seconds."""

    why: Refusal | None
    seconds: float

    @property
    def name(self) -> str:
        return self.why.reason or self.why.code.name if self.why else "OK"


async def timed(call: Any) -> Answer:
    began = time.monotonic()
    try:
        await call
    except grpc.RpcError as error:
        return Answer(refusal(error), time.monotonic() - began)
    return Answer(None, time.monotonic() - began)


def names(answers: list[Answer]) -> Counter[str]:
    return Counter(each.name for each in answers)


@asynccontextmanager
async def channels(api: Api, count: int) -> AsyncIterator[list[Api]]:
    """Connections of their own: one carries no more than 100 calls at once."""
    async with AsyncExitStack() as stack:
        yield [
            Api(
                api.port,
                api.http_port,
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        f"127.0.0.1:{api.port}", options=[("grpc.use_local_subchannel_pool", 1)]
                    )
                ),
            )
            for _ in range(count)
        ]


def assert_shed(answers: list[Answer], *, within: float) -> None:
    """Each refusal for load says when to come again, and came soon."""
    shed = [each for each in answers if each.name == "OVERLOADED"]
    for each in shed:
        assert each.why
        assert each.why.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert each.why.retry_seconds
    assert max((each.seconds for each in shed), default=0) < within


async def test_two_hundred_logins_and_two_hundred_data_calls_at_once(database_url: str) -> None:
    """L-3, for three seconds: logins offered far beyond what two threads can hash."""
    settings = {"hash_queue": 8, "hash_threads": 1, "argon2_memory_kib": 19456, "pool_size": 4}
    async with (
        process(database_url, **settings) as server,
        channels(server.api, 5) as apis,
    ):
        ann = await server.api.new_user()
        await server.api.data.PutRecord(PUT, metadata=ann.metadata)
        logins: list[Answer] = []
        data: list[Answer] = []
        strangers: list[Answer] = []

        async def login(n: int) -> None:
            # Unknown names cost as much as known ones, and have no throttle in common.
            request = auth_pb2.LoginRequest(username=f"x{uuid4().hex[:12]}", password=PASSWORD)
            logins.append(await timed(apis[n % 2].auth.Login(request, timeout=5)))

        async def work(n: int) -> None:
            stub = apis[2 + n % 2].data
            call = (
                stub.GetRecord(GET, metadata=ann.metadata, timeout=5)
                if n % 5
                else stub.PutRecord(PUT, metadata=ann.metadata, timeout=5)
            )
            data.append(await timed(call))

        async def knock() -> None:
            strangers.append(await timed(apis[4].data.GetRecord(GET, metadata=BAD_TOKEN)))

        began = time.monotonic()
        while time.monotonic() - began < 3:
            await asyncio.gather(
                *map(login, range(200)), *map(work, range(200)), *(knock() for _ in range(5))
            )

        slowest = max(each.seconds for each in strangers)
        lag_count = await metric(server.api, f"{LAG}_count")
        lag_bounded = await metric(server.api, f'{LAG}_bucket{{le="0.25"}}')
        lag_sum = await metric(server.api, f"{LAG}_sum")
        print(
            f"\nlogins {dict(names(logins))}, data {dict(names(data))}; invalid tokens answered "
            f"within {slowest:.3f} s; loop lag {1000 * lag_sum / lag_count:.1f} ms on average"
        )
        assert names(logins).keys() == {"OVERLOADED", "BAD_CREDENTIALS"}
        assert names(logins)["BAD_CREDENTIALS"] >= 9
        assert names(logins)["OVERLOADED"] > 200
        assert_shed(logins, within=2)
        assert names(data).keys() <= {"OVERLOADED", "OK"}
        assert names(data)["OK"] > 100
        assert names(strangers).keys() == {"TOKEN_INVALID"}
        assert slowest < 2
        assert lag_count >= 2
        assert lag_bounded == lag_count

        async def at_rest() -> bool:
            return await metric(server.api, IN_USE) == await metric(server.api, HASHES) == 0

        await until(at_rest, 5)
        for _ in range(3):
            again = await server.api.login(ann.username)
            await server.api.data.GetRecord(GET, metadata=again.metadata)
        await until(lambda: is_ready(server.api), 5)
        assert faults(server.api) == []


async def test_a_pool_full_of_blocked_writes_sheds_the_rest_and_refuses_strangers_at_once(
    database_url: str,
) -> None:
    """F-12: writes of 15 users that wait, on a pool of five; too large to share statements."""
    patience = 2.0
    async with (
        process(database_url, pool_size=5, pool_acquire_seconds=patience) as server,
        channels(server.api, 2) as (blocked, others),
    ):
        writers = [await server.api.new_user() for _ in range(15)]
        ann = writers[0]
        await server.api.data.PutRecord(PUT, metadata=ann.metadata)
        connection = await asyncpg.connect(database_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE user_counters")
            writes = [
                asyncio.ensure_future(
                    timed(blocked.data.PutRecord(LARGE, metadata=each.metadata, timeout=20))
                )
                for each in writers
            ]
            await until(lambda: full(server.api), 5)

            reads = await asyncio.gather(
                *(
                    timed(others.data.GetRecord(GET, metadata=ann.metadata, timeout=10))
                    for _ in range(20)
                )
            )
            strangers = [
                await timed(others.data.GetRecord(GET, metadata=BAD_TOKEN)) for _ in range(20)
            ]
            keys = await timed(others.auth.GetJsonWebKeySet(auth_pb2.GetJsonWebKeySetRequest()))
            assert await health(server.api, LIVENESS) == "SERVING"

        answers = await asyncio.gather(*writes)
        await connection.close()

        print(
            f"\nreads refused within {max(each.seconds for each in reads):.3f} s, "
            f"invalid tokens within {max(each.seconds for each in strangers):.3f} s"
        )
        assert names(answers) == {"OK": 5, "OVERLOADED": 10}
        assert_shed(answers, within=patience + 0.5)
        assert names(reads) == {"OVERLOADED": 20}
        assert_shed(reads, within=patience + 0.5)
        assert names(strangers) == {"TOKEN_INVALID": 20}
        assert max(each.seconds for each in strangers) < patience / 2
        assert keys.name == "OK"
        assert keys.seconds < patience / 2
        await until(lambda: is_ready(server.api), 3)
        written = await server.api.data.PutRecord(PUT, metadata=ann.metadata)
        assert written.revision in (2, 3)  # ann may or may not have been one of the five
        assert faults(server.api) == []


async def test_plain_writes_that_wait_leave_connections_to_reads(database_url: str) -> None:
    """They share statements; and they are written after all."""
    async with (
        process(database_url, pool_size=5) as server,
        channels(server.api, 2) as (blocked, others),
    ):
        writers = [await server.api.new_user() for _ in range(40)]
        ann = writers[0]
        await server.api.data.PutRecord(PUT, metadata=ann.metadata)
        connection = await asyncpg.connect(database_url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE user_counters")
            writes = []
            for each in writers:
                call = blocked.data.PutRecord(PUT, metadata=each.metadata, timeout=20)
                writes.append(asyncio.ensure_future(timed(call)))
                await asyncio.sleep(0.02)  # more than anybody's patience

            reads = await asyncio.gather(
                *(
                    timed(others.data.GetRecord(GET, metadata=ann.metadata, timeout=10))
                    for _ in range(20)
                )
            )
        await connection.close()

        assert names(reads) == {"OK": 20}
        assert names(await asyncio.gather(*writes)) == {"OK": 40}
        assert faults(server.api) == []


async def full(api: Api) -> bool:
    return await metric(api, IN_USE) >= 5


async def is_ready(api: Api) -> bool:
    return await truth(api) == READY
