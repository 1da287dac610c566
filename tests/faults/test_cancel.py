"""Callers who hang up at any moment leave nothing behind: no connection, no lock, no queue."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import grpc.aio
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import PASSWORD, Api, Person, process
from tests.faults.probes import READY, faults, metric, truth, until

IN_USE = 'sixfold_database_pool_connections{state="in_use"}'
HASHES = "sixfold_hash_queue_length"
POOL = 8


def calls(api: Api, person: Person, chance: random.Random) -> list[Callable[[], Any]]:
    """One of each kind, to choose from. Logins are few: they cost 5 ms of CPU each."""
    key, metadata = f"k{chance.randrange(20)}", person.metadata

    def put() -> Any:
        request = pb.PutRecordRequest(collection="c", key=key, json="1", request_id=str(uuid4()))
        return api.data.PutRecord(request, metadata=metadata)

    def get() -> Any:
        return api.data.GetRecord(pb.GetRecordRequest(collection="c", key=key), metadata=metadata)

    def page() -> Any:
        return api.data.GetUserData(pb.GetUserDataRequest(), metadata=metadata)

    def delete() -> Any:
        request = pb.DeleteRecordRequest(collection="c", key=key, allow_missing=True)
        return api.data.DeleteRecord(request, metadata=metadata)

    def refresh() -> Any:
        return api.auth.RefreshTokens(
            auth_pb2.RefreshTokensRequest(refresh_token=person.tokens.refresh_token)
        )

    def login() -> Any:
        return api.auth.Login(
            auth_pb2.LoginRequest(username=f"nobody-{uuid4().hex[:8]}", password=PASSWORD)
        )

    return [put, put, put, get, get, get, page, page, delete, refresh, login]


async def hang_up(make: Callable[[], Any], after: float) -> str:
    """Make the call, cancel it after so many seconds, and say how it ended."""
    call = make()
    await asyncio.sleep(after)
    call.cancel()
    with suppress(asyncio.CancelledError, grpc.RpcError):
        await call
    return str((await call.code()).name)


async def leftovers(connection: asyncpg.Connection) -> dict[str, int]:
    """What Postgres still has of the server. Not to be asked within a transaction: in one, Postgres
    shows pg_stat_activity as it was at the first look.
    """
    row = await connection.fetchrow(
        """
        SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS open_transactions,
               count(*) FILTER (WHERE state = 'active') AS statements,
               (SELECT count(*) FROM pg_locks l JOIN pg_stat_activity s USING (pid)
                 WHERE s.datname = current_database() AND s.application_name = 'sixfold') AS locks
          FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'sixfold'
        """
    )
    return dict(row or {})


async def test_3000_calls_cancelled_at_any_moment_leave_nothing_behind(database_url: str) -> None:
    """F-22."""
    chance = random.Random(22)
    async with process(database_url, pool_size=POOL, readiness_seconds=30) as server:
        people = [await server.api.new_user() for _ in range(10)]
        ended: Counter[str] = Counter()

        for _ in range(60):
            batch = (
                hang_up(
                    chance.choice(calls(server.api, chance.choice(people), chance)),
                    chance.uniform(0, 0.04),
                )
                for _ in range(50)
            )
            ended.update(await asyncio.gather(*batch))

        print(f"\nended: {dict(ended)}")
        assert ended.total() == 3000
        assert ended["CANCELLED"] > 1000
        assert ended["OK"] > 100
        assert "INTERNAL" not in ended

        async def at_rest() -> bool:
            return await metric(server.api, IN_USE) == await metric(server.api, HASHES) == 0

        await until(at_rest, 5)
        connection = await asyncpg.connect(database_url)
        assert await leftovers(connection) == {
            "open_transactions": 0,
            "statements": 0,
            "locks": 0,
        }
        await connection.close()

        # And all of the pool can be used again.
        put = pb.PutRecordRequest(collection="after", key="k", json="1")
        await asyncio.gather(
            *(
                server.api.data.PutRecord(put, metadata=people[n % 10].metadata)
                for n in range(4 * POOL)
            )
        )
        assert await truth(server.api) == READY
        assert faults(server.api) == []


async def test_a_deadline_ends_the_statement_too(database_url: str) -> None:
    """100 writes that can never finish, given up after 0.3 s: Postgres stops working on them. A
    cancel that comes before its statement is lost; then it does after its own timeout of 2 s.
    """
    limits = {"deadline_seconds": 2, "max_deadline_seconds": 2}
    async with process(database_url, pool_size=POOL, pool_acquire_seconds=0.2, **limits) as server:
        ann = await server.api.new_user()
        holder, connection = [await asyncpg.connect(database_url) for _ in range(2)]
        codes: Counter[str] = Counter()
        async with holder.transaction():
            await holder.execute("LOCK TABLE user_counters")
            put = pb.PutRecordRequest(collection="c", key="k", json="1")
            pending = [
                server.api.data.PutRecord(put, metadata=ann.metadata, timeout=0.3)
                for _ in range(100)
            ]
            for call in pending:
                with suppress(grpc.RpcError):
                    await call
                codes[(await call.code()).name] += 1

            async def at_rest() -> bool:
                return not any((await leftovers(connection)).values())

            await until(at_rest, 5)

        assert codes.keys() <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        assert codes["DEADLINE_EXCEEDED"] >= POOL
        await holder.close()
        await connection.close()
        written = await server.api.data.PutRecord(put, metadata=ann.metadata)
        assert written.revision == 1
