"""What the Envoy door gives beyond gRPC, on a real process: JSON, gRPC-Web, limits, a clean end."""

import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.rpc import descriptors, envoy
from tests.conftest import Person, Process, environment, process
from tests.faults.workers import folder

pytest.importorskip("pyvoy", reason="pip install 'sixfold-server[envoy]'")
RECORD = "/v1/collections/notes/records/first"
GET_RECORD = "/sixfold.data.v1.DataService/GetRecord"


@dataclass
class Door:
    """A process behind Envoy, and somebody to call it as."""

    process: Process
    ann: Person

    async def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        def asking() -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", self.process.api.port, timeout=10)
            try:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                connection.request(method, path, body, named)
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        return await asyncio.to_thread(asking)

    async def json(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        status, _, answer = await self.ask(
            method, path, data, authorization=dict(self.ann.metadata)["authorization"]
        )
        return status, json.loads(answer)


@pytest.fixture(scope="module")
async def door(database_url: str) -> AsyncIterator[Door]:
    async with process(database_url, door="envoy") as running:
        yield Door(running, await running.api.new_user())


# JSON


async def test_a_record_is_put_and_read_with_plain_http(door: Door) -> None:
    status, written = await door.json("PUT", RECORD, {"json": '{"n": 1.10}'})
    assert (status, written["revision"]) == (200, "1")  # int64 is text in JSON

    status, read = await door.json("GET", RECORD)
    assert (status, read["record"]["json"]) == (200, '{"n": 1.10}')

    status, listed = await door.json("GET", "/v1/collections/notes/records?page_size=1")
    assert (status, len(listed["records"])) == (200, 1)


async def test_a_key_may_hold_what_has_a_meaning_in_a_path(door: Door) -> None:
    await door.json("PUT", "/v1/collections/notes/records/a%2Fb%3Fc%25", {"json": "1"})

    get = pb.GetRecordRequest(collection="notes", key="a/b?c%")
    read = await door.process.api.data.GetRecord(get, metadata=door.ann.metadata)

    assert read.record.json == "1"


async def test_many_records_are_read_with_plain_http(door: Door) -> None:
    await door.json("PUT", "/v1/collections/many/records/a", {"json": "1"})
    names = [{"collection": "many", "key": key} for key in ("none", "a")]

    status, read = await door.json("POST", "/v1/records:batchGet", {"names": names})

    assert (status, [record["json"] for record in read["records"]]) == (200, ["1"])
    assert (read["missing"], read["unread"]) == (names[:1], [])


async def test_a_key_may_end_like_a_verb(door: Door) -> None:
    path = "/v1/collections/notes/records/a%3AbatchGet"
    await door.json("PUT", path, {"json": "1"})

    get = pb.GetRecordRequest(collection="notes", key="a:batchGet")
    read = await door.process.api.data.GetRecord(get, metadata=door.ann.metadata)

    assert read.record.json == "1"
    assert (await door.json("GET", path))[0] == 200


async def test_an_error_is_json_with_its_reason(door: Door) -> None:
    status, error = await door.json("GET", "/v1/collections/notes/records/none")

    assert (status, error["code"]) == (404, 5)
    assert error["details"][0]["reason"] == "RECORD_NOT_FOUND"


async def test_no_token_is_401(door: Door) -> None:
    status, _, answer = await door.ask("GET", RECORD)

    assert status == 401
    assert json.loads(answer)["details"][0]["reason"] == "TOKEN_MISSING"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/collections/notes/records/first", 404),
        ("GET", "/v1/data?page_sise=1", 400),
        ("GET", "/v1/data?page_size=many", 400),
        ("POST", GET_RECORD, 415),
    ],
)
async def test_what_is_no_call_is_refused(door: Door, method: str, path: str, status: int) -> None:
    assert (await door.ask(method, path))[0] == status


async def test_the_contract_envoy_reads_is_the_contract() -> None:
    assert envoy.DESCRIPTORS.read_bytes() == descriptors.build(), "run: make generate"
    assert b"buf/validate" not in descriptors.build()
    described = {name for file in descriptors.FILES for name in file.services_by_name}
    assert {name.rpartition(".")[2] for name in envoy.SERVICES} == described


# gRPC-Web


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text"])
async def test_a_browser_can_call(door: Door, kind: str) -> None:
    await door.json("PUT", RECORD, {"json": "1"})
    message = pb.GetRecordRequest(collection="notes", key="first").SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    text = kind.endswith("text")

    status, headers, answer = await door.ask(
        "POST",
        GET_RECORD,
        base64.b64encode(body) if text else body,
        content_type=kind,
        accept=kind,
        authorization=dict(door.ann.metadata)["authorization"],
    )

    assert (status, headers["content-type"].startswith("application/grpc-web")) == (200, True)
    plain = base64.b64decode(answer.partition(b"=")[0] + b"==") if text else answer
    end = 5 + int.from_bytes(plain[1:5], "big")
    assert pb.GetRecordResponse.FromString(plain[5:end]).record.json == "1"
    if not text:
        assert plain[end] == 0x80  # trailers, as gRPC-Web has them: in the body
        assert b"grpc-status:0" in plain[end:].replace(b" ", b"")


# The process


async def test_watch_tells_of_the_drain_before_it_ends(database_url: str) -> None:
    async with process(database_url, door="envoy", grace_seconds=1) as running:
        watching = running.api.health.Watch(
            health_pb2.HealthCheckRequest(service="sixfold.data.v1.DataService")
        )
        seen = [(await watching.read()).status]
        while seen[-1] != health_pb2.HealthCheckResponse.SERVING:
            seen.append((await watching.read()).status)

        running.child.terminate()

        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watching.code() is grpc.StatusCode.UNAVAILABLE
        assert await running.stopped() == 0


async def test_a_message_that_never_comes_is_no_error_of_ours(database_url: str) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    async with (
        process(database_url, door="envoy", drain_seconds=0.1, grace_seconds=0.1) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.api.port}") as channel,
    ):
        waiting: Any = channel.stream_unary(GET_RECORD)(cast(Any, never()))
        await asyncio.sleep(0.3)  # its headers are there
        running.child.terminate()

        assert await waiting.code() is grpc.StatusCode.UNAVAILABLE
        assert await running.stopped() == 0
    log = running.api.log.getvalue()
    assert "GetRecord" not in log, "it was no call yet"
    assert "Traceback" not in log
    assert '"ERROR"' not in log


async def test_envoy_ends_with_whoever_started_it(database_url: str) -> None:
    async with process(database_url, door="envoy") as running:
        made = folder_of(running)
        running.child.send_signal(signal.SIGKILL)
        await running.stopped()

        async with asyncio.timeout(3):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", running.api.port)):
                        break
                await asyncio.sleep(0.05)
    assert not made.exists()


def folder_of(running: Process) -> Path:
    """What its Envoy was started with."""
    [envoy] = (
        Path(f"/proc/{running.child.pid}/task/{running.child.pid}/children").read_text().split()
    )
    return folder(int(envoy))


async def test_a_taken_port_is_one_line(door: Door, database_url: str) -> None:
    taken = environment(database_url, listen=f"127.0.0.1:{door.process.api.port}")

    ended = await asyncio.to_thread(_serve, taken)

    assert ended.returncode == 1
    address = f"127.0.0.1:{door.process.api.port}"
    assert ended.stderr == f"sixfold: cannot listen on {address}; is the port in use?\n"


async def test_why_the_service_inside_does_not_start_is_said(database_url: str) -> None:
    other = environment(database_url, master_key=base64.b64encode(os.urandom(32)).decode())

    ended = await asyncio.to_thread(_serve, other)

    assert ended.returncode == 78
    [line] = ended.stderr.splitlines()
    assert line.startswith("sixfold: SIXFOLD_MASTER_KEY is not the one")


async def test_nothing_is_left_behind(database_url: str) -> None:
    async with process(database_url, door="envoy") as running:
        made = folder_of(running)
        assert made.stat().st_mode & 0o777 == 0o700
        running.child.terminate()
        assert await running.stopped() == 0

    assert not made.exists()


def _serve(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "serve", "--door", "envoy"],
        env=os.environ | environ,
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=30,
    )
