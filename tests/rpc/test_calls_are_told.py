"""Calls that end in one turn of the loop: each is counted, and each has its line."""

import asyncio
import io
import json

from grpc import StatusCode

from service.rpc.interceptors import Call, metrics
from service.telemetry.logs import AccessLog
from service.telemetry.metrics import Metrics

METHOD = "sixfold.data.v1.DataService/GetRecord"


async def test_calls_that_end_together_are_all_told() -> None:
    measures, log = Metrics([METHOD]), io.StringIO()
    ending = asyncio.Event()

    async def handler(request: int, call: Call) -> bytes:
        call.received, call.sent = request, 2 * request
        await ending.wait()
        if request == 3:
            call.code = StatusCode.NOT_FOUND
        if request == 4:
            raise asyncio.CancelledError
        return b""

    measured = metrics(measures, AccessLog(log, "json"))(METHOD, handler)
    calls = [Call(f"r-{n}", "ipv4:10.0.0.7:1", [], None, None) for n in range(5)]
    work = [asyncio.ensure_future(measured(n, call)) for n, call in enumerate(calls)]
    await asyncio.sleep(0)  # they have begun
    await asyncio.sleep(0.01)
    assert log.getvalue() == ""

    ending.set()
    await asyncio.gather(*work, return_exceptions=True)
    await asyncio.sleep(0)

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["request_id"] for line in lines] == [call.request_id for call in calls]
    codes = [line["code"] for line in lines]
    assert codes == ["OK", "OK", "OK", "NOT_FOUND", "CANCELLED"]
    assert all(line["duration_ms"] >= 10 for line in lines)
    said = measures.exposition()[0].decode()
    name = "grpc_server_call_sent_total_compressed_message_size_bytes"
    for code, count, sent in (("OK", 3, 6), ("NOT_FOUND", 1, 6), ("CANCELLED", 1, 8)):
        labels = f'{{grpc_method="{METHOD}",grpc_status="{code}"}}'
        assert f"{name}_count{labels} {count}\n" in said
        assert f"{name}_sum{labels} {float(sent)}\n" in said
