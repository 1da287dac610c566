"""What Postgres allows, before somebody wants more."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import asyncpg
import pytest

from service import app
from service.store import capacity
from service.store.capacity import TooFewConnections
from tests.conftest import execute, make_settings


async def test_the_servers_limit_is_what_is_not_reserved(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    most, *reserved = [
        int(await connection.fetchval("SELECT COALESCE(current_setting($1, true), '0')", name))
        for name in ("max_connections", "superuser_reserved_connections", "reserved_connections")
    ]
    await connection.close()
    async with app.database(make_settings(database_url)) as db:
        await capacity.check(db, most - sum(reserved))

        with pytest.raises(TooFewConnections, match=f"has {most - sum(reserved)} for"):
            await capacity.check(db, most - sum(reserved) + 1)


async def test_a_database_may_have_a_smaller_limit(
    new_database: Callable[[], AbstractAsyncContextManager[str]],
) -> None:
    async with new_database() as url:
        name = url.split("?")[0].rpartition("/")[2]
        await execute(url, f"ALTER DATABASE {name} CONNECTION LIMIT 20")
        async with app.database(make_settings(url)) as db:
            await capacity.check(db, 20)

            with pytest.raises(TooFewConnections, match="has 20 for"):
                await capacity.check(db, 21)
