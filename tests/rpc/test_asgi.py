"""The adapter by itself: what PROTOCOL-HTTP2.md asks of a server, event by event.

The events are those of pyvoy: `receive` asks when it is called, and answers at once after the end
of the body; `send` raises OSError once the caller has gone.
"""

import asyncio
import gc
import gzip
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from service.domain import limits
from service.domain.errors import TokenMissing
from service.rpc import asgi, interceptors, reflection, wire
from service.rpc.asgi import Adapter
from service.rpc.wire import Context, Event, Scope

OK, END = b"0", {"type": "http.request", "body": b"", "more_body": False}


@dataclass
class Answer:
    """What came back."""

    events: list[Event] = field(default_factory=list)

    @property
    def http(self) -> int:
        return int(self.events[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.events[0]["headers"])

    @property
    def trailers(self) -> dict[bytes, bytes]:
        return dict(self.events[-1]["headers"])

    @property
    def status(self) -> bytes:
        return (self.headers | (self.trailers if self.http == 200 and self.with_trailers else {}))[
            b"grpc-status"
        ]

    @property
    def with_trailers(self) -> bool:
        return bool(self.events[-1]["type"] == "http.response.trailers")

    @property
    def message(self) -> bytes:
        return (self.trailers if self.with_trailers else self.headers).get(b"grpc-message", b"")

    @property
    def texts(self) -> list[str]:
        body = b"".join(e["body"] for e in self.events if e["type"] == "http.response.body")
        found = []
        while body:
            end = 5 + int.from_bytes(body[1:5], "big")
            assert body[0] == 0
            found.append(StringValue.FromString(body[5:end]).value)
            body = body[end:]
        return found


def framed(text: str, pack: Callable[[bytes], bytes] | None = None) -> bytes:
    data = StringValue(value=text).SerializeToString()
    data = pack(data) if pack else data
    return bytes([pack is not None]) + len(data).to_bytes(4, "big") + data


class Service:
    """One method of each kind, and some that end in other ways."""

    async def Echo(self, request: StringValue, context: Any) -> StringValue:
        return request

    async def Count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for number in range(int(request.value)):
            yield StringValue(value=str(number))

    async def Join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value="+".join([each.value async for each in requests]))

    async def Shout(
        self, requests: AsyncIterator[StringValue], context: Any
    ) -> AsyncIterator[StringValue]:
        async for each in requests:
            yield StringValue(value=each.value.upper())

    async def Metadata(self, request: StringValue, context: Any) -> StringValue:
        await context.send_initial_metadata((("first", "1"), ("first-bin", b"\x00\xff")))
        context.set_trailing_metadata((("Last", "9"), ("last-bin", b"\xfb\xff\xfe\xfd")))
        return StringValue(value=repr(context.invocation_metadata()))

    async def Remaining(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=repr(context.time_remaining()))

    async def Missing(self, request: StringValue, context: Any) -> StringValue:
        raise TokenMissing

    async def Abort(self, request: StringValue, context: Any) -> StringValue:
        await context.abort(grpc.StatusCode.ABORTED, "100% é\nline", (("why-bin", b"\x01"),))
        raise AssertionError("abort returns")

    async def Break(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="one")
        await context.abort(grpc.StatusCode.DATA_LOSS, "and no more")

    async def Code(self, request: StringValue, context: Any) -> StringValue:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("beyond")
        return request

    ended: asyncio.Event

    async def Sleep(self, request: StringValue, context: Any) -> StringValue:
        try:
            await asyncio.sleep(30)
        finally:
            self.ended.set()
        return request

    async def Tick(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield StringValue(value="tick")
                await asyncio.sleep(0.01)
        finally:
            self.ended.set()


KINDS = {
    "Count": grpc.unary_stream_rpc_method_handler,
    "Break": grpc.unary_stream_rpc_method_handler,
    "Tick": grpc.unary_stream_rpc_method_handler,
    "Join": grpc.stream_unary_rpc_method_handler,
    "Shout": grpc.stream_stream_rpc_method_handler,
}


def scope(path: bytes, headers: Sequence[tuple[str, bytes]], verb: str = "POST") -> Scope:
    return {
        "type": "http",
        "method": verb,
        "raw_path": path.partition(b"?")[0],
        "query_string": path.partition(b"?")[2],
        "headers": [(name.encode(), value) for name, value in headers],
        "client": ("192.0.2.1", 4711),
    }


class Caller:
    """Calls the adapter as pyvoy does."""

    def __init__(self, adapter: Adapter, service: Service) -> None:
        self.adapter = adapter
        self.service = service

    async def __call__(
        self,
        method: str,
        *body: bytes,
        headers: dict[str, bytes] | None = None,
        again: Sequence[tuple[str, bytes]] = (),
        path: bytes | None = None,
        verb: str = "POST",
        leave_after: float | None = None,
    ) -> Answer:
        answer = Answer()
        chunks = [{"type": "http.request", "body": each, "more_body": True} for each in body[:-1]]
        chunks += [{"type": "http.request", "body": each, "more_body": False} for each in body[-1:]]
        left = asyncio.get_running_loop().time() + (leave_after or 3600)

        def gone() -> bool:
            return asyncio.get_running_loop().time() > left

        def receive() -> asyncio.Future[Event]:
            return asyncio.ensure_future(received())

        async def received() -> Event:
            await asyncio.sleep(0)
            if gone():
                return {"type": "http.disconnect"}
            return chunks.pop(0) if chunks else END

        async def send(event: Event) -> None:
            if gone():
                raise OSError("the caller has gone")
            answer.events.append(event)

        given = {"content-type": b"application/grpc", "te": b"trailers"} | (headers or {})
        path = path or f"/test.Service/{method}".encode()
        asked = scope(path, [*given.items(), *again], verb)
        await asyncio.wait_for(self.adapter(asked, receive, send), 10)
        return answer


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    errors = interceptors.errors(asgi.ABORTS)
    adapter, service = Adapter([errors], [errors]), Service()
    service.ended = asyncio.Event()
    adapter.add_registered_method_handlers(
        "test.Service",
        {
            name: KINDS.get(name, grpc.unary_unary_rpc_method_handler)(
                getattr(service, name),
                request_deserializer=StringValue.FromString,
                response_serializer=StringValue.SerializeToString,
            )
            for name in vars(Service)
            if name[0].isupper()
        },
    )
    watching = asyncio.ensure_future(adapter.watch())
    yield Caller(adapter, service)
    watching.cancel()


# The four kinds of calls


async def test_a_message_comes_back_with_the_status_in_trailers(call: Caller) -> None:
    answer = await call("Echo", framed("hello"))

    assert (answer.http, answer.texts, answer.status) == (200, ["hello"], OK)
    assert answer.headers[b"content-type"] == b"application/grpc"
    assert answer.with_trailers
    assert b"grpc-status" not in answer.headers


async def test_a_call_leaves_nothing_to_the_collector(call: Caller) -> None:
    await call("Echo", framed("hello"))
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await call("Echo", framed("hello"))
        gc.collect()
        assert [each for each in gc.garbage if isinstance(each, Context)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_many_answers_come_one_by_one(call: Caller) -> None:
    answer = await call("Count", framed("3"))

    assert (answer.texts, answer.status) == (["0", "1", "2"], OK)
    assert len(answer.events) == 1 + 3 + 1 + 1


async def test_a_stream_of_no_answers_is_a_stream(call: Caller) -> None:
    answer = await call("Count", framed("0"))

    assert (answer.texts, answer.status) == ([], OK)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 100])
async def test_messages_may_be_cut_anywhere(call: Caller, size: int) -> None:
    body = framed("a") + framed("") + framed("bc")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]

    assert (await call("Join", *pieces)).texts == ["a++bc"]
    assert (await call("Shout", *pieces, b"")).texts == ["A", "", "BC"]
    assert (await call("Echo", *[body[at : at + 1] for at in range(8)], b"")).status == OK


async def test_an_empty_message_is_a_message(call: Caller) -> None:
    assert (await call("Echo", b"\0\0\0\0\0")).texts == [""]


@pytest.mark.parametrize("body", [b"", framed("a") + framed("b")])
async def test_one_message_means_one(call: Caller, body: bytes) -> None:
    assert (await call("Echo", body)).status == b"12"
    assert (await call("Count", body)).status == b"12"


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\0\5hell"])
async def test_half_a_message_is_refused(call: Caller, body: bytes) -> None:
    assert (await call("Echo", body)).status == b"3"
    assert (await call("Join", framed("whole") + body)).status == b"3"


async def test_bytes_that_are_no_message_are_refused(call: Caller) -> None:
    assert (await call("Echo", b"\0\0\0\0\1\xff")).status == b"3"
    assert (await call("Join", b"\0\0\0\0\1\xff")).status == b"3"


# Metadata


async def test_metadata_goes_both_ways(call: Caller) -> None:
    answer = await call("Metadata", framed(""), headers={"who": b"ann", "raw-bin": b"AP8="})

    assert eval(answer.texts[0]) == [("who", "ann"), ("raw-bin", b"\x00\xff")]
    assert answer.headers[b"first"] == b"1"
    assert answer.headers[b"first-bin"] == b"AP8"
    assert answer.trailers[b"last"] == b"9"
    assert answer.trailers[b"last-bin"] == b"+//+/Q"


@pytest.mark.parametrize("length", range(5))
@pytest.mark.parametrize("padded", [True, False])
async def test_binary_metadata_may_be_padded_or_not(
    call: Caller, length: int, padded: bool
) -> None:
    value = bytes(range(251, 251 + length))
    sent = b64encode(value) if padded else b64encode(value).rstrip(b"=")

    answer = await call("Metadata", framed(""), headers={"x-bin": sent})

    assert eval(answer.texts[0]) == [("x-bin", value)]


async def test_joined_binary_metadata_is_taken_apart(call: Caller) -> None:
    answer = await call("Metadata", framed(""), headers={"x-bin": b"AQ==, Ag,Aw=="})

    assert eval(answer.texts[0]) == [("x-bin", b"\1"), ("x-bin", b"\2"), ("x-bin", b"\3")]


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("kind", ["a long value", "a long name", "many values of one name"])
async def test_metadata_up_to_the_limit_is_taken(call: Caller, kind: str, beyond: int) -> None:
    rest = limits.METADATA_BYTES + beyond
    rest -= sum(len(each) for each in ("content-type", "application/grpc", "te", "trailers")) + 64
    again: list[tuple[str, bytes]] = []
    if kind == "many values of one name":
        again = [("x", b"y" * 67)] * 50
        rest -= 50 * 100
    value = b"z" * (rest - 32 - 1)

    if kind == "a long name":
        answer = await call("Echo", framed(""), headers={value.decode(): b"z"})
    else:
        answer = await call("Echo", framed(""), headers={"z": value}, again=again)

    assert answer.status == (b"8" if beyond else b"0")


# How a call ends


async def test_an_error_is_one_frame_with_details(call: Caller) -> None:
    answer = await call("Missing", framed(""))

    assert (answer.http, answer.status) == (200, b"16")
    assert answer.message.startswith(b"The call needs `authorization: Bearer")
    assert b"grpc-status-details-bin" in answer.headers
    assert [event["type"] for event in answer.events] == [
        "http.response.start",
        "http.response.body",
    ]


async def test_a_message_for_people_is_percent_encoded(call: Caller) -> None:
    answer = await call("Abort", framed(""))

    assert (answer.status, answer.message) == (b"10", b"100%25 %C3%A9%0Aline")
    assert answer.headers[b"why-bin"] == b"AQ"


async def test_a_stream_may_break_off(call: Caller) -> None:
    answer = await call("Break", framed(""))

    assert (answer.texts, answer.status, answer.message) == (["one"], b"15", b"and no more")
    assert answer.with_trailers


async def test_a_code_that_was_set_counts_more_than_the_answer(call: Caller) -> None:
    answer = await call("Code", framed("lost"))

    assert (answer.texts, answer.status, answer.message) == ([], b"11", b"beyond")


async def test_what_nobody_foresaw_is_internal_and_says_nothing(call: Caller) -> None:
    answer = await call("Count", framed("no number"))

    assert answer.status == b"13"
    assert b"invalid literal" not in answer.message


# Deadlines and callers who leave


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"30S", 30), (b"99999999m", 99999.999), (b"9000000u", 9)],
)
async def test_the_time_remaining_is_known(call: Caller, timeout: bytes, seconds: float) -> None:
    answer = await call("Remaining", framed(""), headers={"grpc-timeout": timeout})

    assert seconds - 1 < float(answer.texts[0]) <= seconds


async def test_no_timeout_is_none(call: Caller) -> None:
    assert (await call("Remaining", framed(""))).texts == ["None"]


async def test_a_stream_ends_at_its_deadline(call: Caller) -> None:
    answer = await call("Tick", framed(""), headers={"grpc-timeout": b"100m"})

    assert (answer.texts[0], answer.status) == ("tick", b"4")
    assert call.service.ended.is_set()


@pytest.mark.parametrize("method", ["Sleep", "Tick"])
async def test_a_caller_who_leaves_ends_the_handler(
    call: Caller, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    await call(method, framed(""), leave_after=0.1)

    assert call.service.ended.is_set()
    assert not caplog.records


async def test_a_server_that_stops_says_so(call: Caller) -> None:
    calling = asyncio.ensure_future(call("Sleep", framed("")))
    await asyncio.sleep(0.05)

    call.adapter.cancel()

    assert (await calling).status == b"14"
    await asyncio.wait_for(call.adapter.ended(), 1)


# Messages that come late, or never


async def answered(
    adapter: Adapter, path: bytes, message: asyncio.Future[Event], timeout: bytes | None = None
) -> Answer:
    """The answer to a call whose message comes when it does."""
    answer = Answer()

    async def send(event: Event) -> None:
        answer.events.append(event)

    headers = [("content-type", b"application/grpc")]
    headers += [("grpc-timeout", timeout)] if timeout else []
    asked = scope(path, headers)
    await asyncio.wait_for(adapter(asked, lambda: message, send), 10)
    return answer


async def test_a_message_is_asked_for_before_there_is_a_task(call: Caller) -> None:
    asked = []

    def receive() -> asyncio.Future[Event]:
        asked.append(True)
        return asyncio.get_running_loop().create_future()

    async def send(event: Event) -> None:
        raise AssertionError(event)

    headers = [("content-type", b"application/grpc")]
    call.adapter(scope(b"/test.Service/Echo", headers), receive, send).close()

    assert asked == [True]


@pytest.mark.parametrize(("most", "path"), [(99, b"/no/such"), (0, b"/test.Service/Echo")])
async def test_who_is_refused_anyway_waits_for_no_message(
    call: Caller, caplog: pytest.LogCaptureFixture, most: int, path: bytes
) -> None:
    call.adapter.most = most
    never = asyncio.get_running_loop().create_future()

    answer = await answered(call.adapter, path, never)

    assert answer.status == (b"12" if most else b"8")
    never.set_result({"type": "http.disconnect"})  # as pyvoy does then
    await asyncio.sleep(0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("method", "timeout", "status"),
    [
        ("Echo", None, b"4"),
        ("Echo", b"99999999H", b"4"),
        ("Echo", b"1 day", b"4"),
        ("Shout", None, OK),
    ],
)
async def test_only_a_call_of_one_message_must_have_it_soon(
    call: Caller,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    timeout: bytes | None,
    status: bytes,
) -> None:
    """Whatever a stream says, it may say it late."""
    monkeypatch.setattr(wire, "READ_SECONDS", 0.1)
    late: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
    event = {"type": "http.request", "body": framed("hello"), "more_body": False}

    def come() -> None:
        if not late.done():
            late.set_result(event)

    asyncio.get_running_loop().call_later(3 * asgi.LOOK_SECONDS, come)

    answer = await answered(call.adapter, f"/test.Service/{method}".encode(), late, timeout)

    assert answer.status == status


# Compression and size


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [(b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"identity", None), (b"gzip", None)],
)
async def test_packed_messages_are_understood(
    call: Caller, encoding: bytes, pack: Callable[[bytes], bytes] | None
) -> None:
    answer = await call("Echo", framed("hello" * 100, pack), headers={"grpc-encoding": encoding})

    assert answer.texts == ["hello" * 100]


async def test_an_unknown_encoding_is_answered_with_the_known_ones(call: Caller) -> None:
    answer = await call("Echo", framed(""), headers={"grpc-encoding": b"snappy"})

    assert (answer.status, answer.headers[b"grpc-accept-encoding"]) == (
        b"12",
        b"identity,deflate,gzip",
    )


@pytest.mark.parametrize("headers", [{}, {"grpc-encoding": b"identity"}])
async def test_packed_without_saying_how_is_refused(
    call: Caller, headers: dict[str, bytes]
) -> None:
    answer = await call("Echo", framed("hello", gzip.compress), headers=headers)

    assert answer.status == b"13"


async def test_what_cannot_be_unpacked_is_refused(call: Caller) -> None:
    cut = framed("hello" * 100, lambda data: gzip.compress(data)[:-10])
    no_gzip = framed("hello", lambda data: b"no gzip" + data)

    for body in (cut, no_gzip):
        assert (await call("Echo", body, headers={"grpc-encoding": b"gzip"})).status == b"3"


async def test_a_bomb_is_refused_before_it_is_unpacked(call: Caller) -> None:
    bomb = framed("0" * 100_000_000, gzip.compress)

    assert len(bomb) < limits.MESSAGE_BYTES
    assert (await call("Echo", bomb, headers={"grpc-encoding": b"gzip"})).status == b"8"


async def test_the_limit_is_the_limit(call: Caller) -> None:
    largest = "x" * (limits.MESSAGE_BYTES - 4)  # a tag and a length of three bytes

    assert (await call("Echo", framed(largest))).status == OK
    assert (await call("Echo", framed(largest + "x"))).status == b"8"
    # By its prefix: nobody waits for 4 GiB.
    assert (await call("Join", b"\0\xff\xff\xff\xff")).status == b"8"


# What is no call


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/test.Service/Nothing",
        b"//test.Service/Echo",
        b"/test.Service%2FEcho",
        b"/test.Service/Echo/",
        b"/test.Service/Echo?a=b",
        b"/test.service/echo",
        b"xtest.Service/Echo",
        b"test.Service/Echo",
    ],
)
async def test_an_unknown_path_is_unimplemented(call: Caller, path: bytes) -> None:
    assert (await call("", framed(""), path=path)).status == b"12"


@pytest.mark.parametrize("kind", [b"", b"application/json", b"application/grpcx", b"text/plain"])
async def test_another_content_type_is_415(call: Caller, kind: bytes) -> None:
    assert (await call("Echo", framed(""), headers={"content-type": kind})).http == 415


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc; charset=utf-8"])
async def test_a_content_type_may_say_more(call: Caller, kind: bytes) -> None:
    assert (await call("Echo", framed(""), headers={"content-type": kind})).status == OK


async def test_another_http_method_is_405(call: Caller) -> None:
    assert (await call("Echo", framed(""), verb="PUT")).http == 405


# Servicers that are not ours


async def test_health_is_mounted_as_it_is(call: Caller) -> None:
    servicer = grpc_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, call.adapter)
    path = b"/grpc.health.v1.Health/"

    fine = await call("", b"\0\0\0\0\0", path=path + b"Check")
    unknown = health_pb2.HealthCheckRequest(service="x").SerializeToString()
    body = b"\0" + len(unknown).to_bytes(4, "big") + unknown
    missing = await call("", body, path=path + b"Check")
    watching = await call("", b"\0\0\0\0\0", path=path + b"Watch", leave_after=0.1)

    assert (fine.status, missing.status) == (OK, b"5")
    assert watching.events[1]["body"] == b"\0\0\0\0\2\x08\x01"  # SERVING


async def test_reflection_is_mounted_as_it_is(call: Caller) -> None:
    reflection.mount(call.adapter)

    listing = b"\0\0\0\0\2\x3a\0"  # list_services: ""
    answer = await call(
        "", listing, path=b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    )

    assert answer.status == OK
    assert b"sixfold.data.v1.DataService" in answer.events[1]["body"]
