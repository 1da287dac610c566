"""A call that has ended leaves nothing that only the collector would find: it runs seldom."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from sixfold.data.v1 import data_pb2

from service.rpc.interceptors import Call
from tests.conftest import Api, Person


@pytest.fixture
def collector() -> Iterator[None]:
    """Keeps what it finds, and looks only when told."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def whose(each: Any) -> object:
    """What tells the user, of what calls are made of: contexts, and questions that shared one."""
    match each:
        case Call():
            return each.caller
        case (question, asyncio.Future()):
            return question
    return None


async def test_calls_leave_nothing_to_the_collector(api: Api, ann: Person, collector: None) -> None:
    put = data_pb2.PutRecordRequest(collection="c", key="k", json="1")
    await api.data.PutRecord(put, metadata=ann.metadata)
    read = data_pb2.GetRecordRequest(collection="c", key="k")
    gc.collect()
    gc.garbage.clear()

    for _ in range(5):
        calls = (api.data.GetRecord(read, metadata=ann.metadata, timeout=30) for _ in range(20))
        await asyncio.gather(*calls)
    await asyncio.sleep(0.1)
    gc.collect()

    # Only what these calls are made of: what other tests' errors held may fall due here.
    assert [each for each in gc.garbage if ann.user_id in str(whose(each))] == []
