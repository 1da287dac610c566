"""Two real processes behind one target, one of which ends: writers notice nothing, lose nothing."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
import sixfold

from tests.client.real import Connect, both_clients, new_name, target
from tests.conftest import PASSWORD, Process, process

WRITERS = 8
FEW = 5  # writes of each writer before a process ends, and again after it

Writes = dict[str, int]


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[Process, Process]]:
    async with AsyncExitStack() as stack:
        starting = [process(database_url, drain_seconds=0.3) for _ in range(2)]
        first, second = await asyncio.gather(*map(stack.enter_async_context, starting))
        yield first, second


async def write_across(
    client: sixfold.AsyncClient, victim: Process, sign: signal.Signals
) -> Writes:
    """What was acknowledged to writers that never pause while `victim` is told to end and ends.
    Any error ends the test.
    """
    warm, gone = asyncio.Barrier(WRITERS + 1), asyncio.Event()
    acknowledged: Writes = {}

    async def write(writer: int, number: int) -> None:
        key = f"{writer}-{number:05}"
        await client.put("faults", key, number, request_id=str(uuid4()))
        acknowledged[key] = number

    async def writer(writer: int) -> None:
        numbers = itertools.count()
        for number in itertools.islice(numbers, FEW):
            await write(writer, number)
        await warm.wait()
        while not gone.is_set():
            await write(writer, next(numbers))
        for number in itertools.islice(numbers, FEW):
            await write(writer, number)

    async def killer() -> None:
        await warm.wait()
        await asyncio.sleep(0.05)  # so that calls are in flight
        victim.child.send_signal(sign)
        await victim.stopped()
        gone.set()

    await asyncio.gather(killer(), *map(writer, range(WRITERS)))
    return acknowledged


@both_clients
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_costs_no_error_and_no_write(
    pair: tuple[Process, Process], connect: Connect, sign: signal.Signals
) -> None:
    victim, survivor = pair
    name = new_name()

    async with connect(
        target(victim.api, survivor.api), username=name, password=PASSWORD, timeout=15
    ) as client:
        await client.create_user(name, PASSWORD)
        acknowledged = await write_across(client, victim, sign)
        found = {record.key: record.value async for record in client.list("faults", page_size=1000)}
        page = await client.user_data(page_size=1)

    assert found == acknowledged
    assert page.revision == len(acknowledged)  # and none was written twice
    assert await victim.stopped() == (0 if sign is signal.SIGTERM else -sign)
    assert survivor.child.returncode is None
