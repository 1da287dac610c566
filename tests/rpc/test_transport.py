"""The transport: what one connection carries, and what never becomes a call."""

import asyncio
import socket
import struct
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import DOOR, Api, Person, serving
from tests.rpc.wire import code, raw, raw_call, statements

OK = grpc.StatusCode.OK
READING = "sixfold.data.v1.DataService/GetUserData"


def reading(api: Api, ann: Person, *more: tuple[str, str]) -> Any:
    return api.data.GetUserData(pb.GetUserDataRequest(), metadata=(*ann.metadata, *more))


async def test_a_hundred_calls_at_once_on_one_connection_are_served(api: Api, ann: Person) -> None:
    codes = Counter(await asyncio.gather(*(code(reading(api, ann)) for _ in range(100))))

    assert codes == {OK: 100}


async def test_more_calls_than_streams_wait_in_line(api: Api, ann: Person) -> None:
    codes = Counter(await asyncio.gather(*(code(reading(api, ann)) for _ in range(1000))))

    assert codes == {OK: 1000}


async def test_a_second_connection_carries_as_much_again(api: Api, ann: Person) -> None:
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{api.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        second = Api(api.port, api.http_port, channel)

        calls = [reading(each, ann) for each in (api, second) for _ in range(90)]
        codes = Counter([await code(call) for call in calls])

    assert codes == {OK: 180}


async def test_metadata_beyond_eight_kibibytes_is_refused_by_the_transport(
    api: Api, ann: Person
) -> None:
    call = reading(api, ann, ("x-more", "m" * 9_000))

    assert await statements(api, call) == []
    assert await code(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await code(reading(api, ann, ("x-more", "m" * 4_000))) is OK


async def test_an_answer_larger_than_a_request_may_be_still_arrives(api: Api, ann: Person) -> None:
    value = '"' + "x" * 250_000 + '"'
    for key in "abcdef":
        put = pb.PutRecordRequest(collection="c", key=key, json=value)
        await api.data.PutRecord(put, metadata=ann.metadata)

    answer = await reading(api, ann)

    assert answer.ByteSize() > 1_000_000


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
async def test_packed_requests_are_understood(api: Api, ann: Person, packing: str) -> None:
    compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[packing]
    put = pb.PutRecordRequest(collection="c", key="k", json='"' + "x" * 100_000 + '"')

    answer = await api.data.PutRecord(put, metadata=ann.metadata, compression=compression)

    assert answer.revision == 1


async def test_an_empty_message_is_a_message(api: Api, ann: Person) -> None:
    assert await code(raw(api, READING, b"", ann.metadata)) is OK


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::]", "[::ffff:127.0.0.1]"])
async def test_every_spelling_of_an_address_is_listened_at(database_url: str, host: str) -> None:
    if host.startswith("[") and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    here = {"listen": f"{host}:0", "http_listen": f"{host}:0"}
    async with serving(database_url, **here) as running:
        assert await code(running.health.Check(HealthCheckRequest())) is OK
        _, writer = await asyncio.open_connection("127.0.0.1", running.http_port)
        writer.close()


async def test_calls_beyond_what_a_process_takes_are_refused_at_once(database_url: str) -> None:
    """Whatever connections they come on: each watcher here has its own."""
    async with (
        serving(database_url, max_concurrent_calls=4) as running,
        AsyncExitStack() as connections,
    ):
        watchers = []
        for _ in range(4):
            channel = await connections.enter_async_context(
                grpc.aio.insecure_channel(
                    f"127.0.0.1:{running.port}", options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            watchers.append(HealthStub(channel).Watch(HealthCheckRequest(service="")))
            await watchers[-1].read()

        refused = await code(running.health.Check(HealthCheckRequest()))
        assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
        watchers[0].cancel()
        async with asyncio.timeout(5):  # until it has left
            while await code(running.health.Check(HealthCheckRequest())) is refused:
                pass


@pytest.mark.skipif(DOOR == "envoy", reason="there Envoy has the answer, and the call is over")
async def test_who_does_not_read_the_answer_has_a_place_until_the_connection_ends(
    database_url: str,
) -> None:
    closed_window = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE
    call = raw_call("/grpc.health.v1.Health/Check", [], closed_window)
    async with serving(database_url, max_concurrent_calls=1) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(call)
        async with asyncio.timeout(5):
            await reader.readuntil(b"\x01\x04\0\0\0\x01")  # the answer's headers

        refused = await code(running.health.Check(HealthCheckRequest()))
        assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(5):
            while await code(running.health.Check(HealthCheckRequest())) is refused:
                pass
