"""HTTP/1.1 over real sockets: what clients may do to it, and what it costs the others."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from service import http_connection, http_server
from service.http_connection import Answer

LOOPBACK = "127.0.0.1"
ASK = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
LARGE = b"." * 32 * 1024 * 1024  # more than the kernel's buffers hold


async def livez() -> Answer:
    return Answer(b"ok")


async def large() -> Answer:
    return Answer(LARGE)


ROUTES = {"/livez": livez, "/large": large, "/a b": livez}


def slow(asked: asyncio.Event, go: asyncio.Event) -> Callable[[], Awaitable[Answer]]:
    """A route that says when it is asked, and answers when it may."""

    async def route() -> Answer:
        asked.set()
        await go.wait()
        return Answer(b"late")

    return route


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is worth a line in the log."""
    gc.collect()  # asyncio tells then what nobody asked about: of earlier tests, and of this one
    caplog.clear()
    yield
    gc.collect()
    assert [*caplog.get_records("call"), *caplog.records] == []


class Raw:
    """A connection that sends what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, sent: bytes = ASK) -> tuple[bytes, bytes]:
        """The head of one answer, and its body."""
        self.writer.write(sent)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split()[0])
        return head, await self.reader.readexactly(length)

    async def ended(self) -> bool:
        """Whether the server closes it, with nothing more said."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def serving_one() -> AsyncIterator[Raw]:
    async with http_server.serving(ROUTES, LOOPBACK, 0) as port, connected(port) as raw:
        yield raw


async def test_a_connection_serves_one_request_after_another() -> None:
    async with serving_one() as raw:
        answers = [await raw.ask() for _ in range(3)]

    assert [body for _, body in answers] == [b"ok"] * 3
    assert b"Connection: close" not in answers[0][0]


async def test_requests_sent_ahead_are_answered_in_turn() -> None:
    async with serving_one() as raw:
        first, _ = await raw.ask(ASK + ASK.replace(b"livez", b"nowhere"))
        second, _ = await raw.ask(b"")

    assert (first.split()[1], second.split()[1]) == (b"200", b"404")


@pytest.mark.parametrize(
    "last",
    [ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"GET /livez HTTP/1.0\r\n\r\n"],
)
async def test_who_wants_one_answer_gets_one(last: bytes) -> None:
    async with serving_one() as raw:
        head, body = await raw.ask(last)

        assert (body, b"connection: close" in head.lower()) == (b"ok", True)
        assert await raw.ended()


@pytest.mark.parametrize(
    "target", [b"/livez?verbose", b"http://here/livez", b"/live%7A", b"/a%20b"]
)
async def test_a_path_is_found_however_it_is_spelled(target: bytes) -> None:
    async with serving_one() as raw:
        head, _ = await raw.ask(ASK.replace(b"/livez", target))

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("target", "status"), [(b"/livez%3Fx", b"404"), (b"http://[/", b"400")])
async def test_a_path_that_is_none_does_not_end_the_connection(
    target: bytes, status: bytes
) -> None:
    async with serving_one() as raw:
        head, _ = await raw.ask(ASK.replace(b"/livez", target))
        _, body = await raw.ask()

    assert (head.split()[1], body) == (status, b"ok")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),  # a TLS hello
        (b"GET /livez HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (ASK[:-2] + b"X: " + b"x" * 20_000, b"431"),
        (ASK[:-2] + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (ASK[:-2] + b"Transfer-Encoding: gzip\r\n\r\n", b"501"),
    ],
)
async def test_garbage_has_its_status_and_the_server_goes_on(sent: bytes, status: bytes) -> None:
    async with http_server.serving(ROUTES, LOOPBACK, 0) as port:
        async with connected(port) as raw:
            head, _ = await raw.ask(sent)
            assert b"Connection: close" in head
            assert await raw.ended()
        async with connected(port) as raw:
            _, body = await raw.ask()

    assert (head.split()[1], body) == (status, b"ok")


@pytest.mark.parametrize(
    "rest", [b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", b"Content-Length: 9\r\n\r\nabc"]
)
async def test_head_has_no_body_when_its_own_is_broken_either(rest: bytes) -> None:
    async with serving_one() as raw:
        raw.writer.write(ASK.replace(b"GET", b"HEAD")[:-2] + rest)
        raw.writer.write_eof()

        head, _, body = (await raw.reader.read()).partition(b"\r\n\r\n")

    assert (head.split()[1], body) == (b"400", b"")


async def test_what_is_broken_after_a_head_has_its_body() -> None:
    async with serving_one() as raw:
        raw.writer.write(ASK.replace(b"GET", b"HEAD"))
        await raw.reader.readuntil(b"\r\n\r\n")
        head, body = await raw.ask(b"?\r\n\r\n")

    assert (head.split()[1], body) == (b"400", b"Bad Request")


async def test_a_large_answer_arrives_whole_before_the_end() -> None:
    async with serving_one() as raw:
        raw.writer.write(ASK.replace(b"livez", b"large")[:-2] + b"Connection: close\r\n\r\n")
        await asyncio.sleep(0.2)

        assert len((await raw.ask(b""))[1]) == len(LARGE)
        assert await raw.ended()


async def test_who_sends_too_much_can_read_why() -> None:
    async with serving_one() as raw:
        raw.writer.write(ASK[:-2] + b"X: " + b"x" * 400_000)

        answer = await raw.reader.read()  # not reset

    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_an_answer_is_dated() -> None:
    async with serving_one() as raw:
        head, _ = await raw.ask()

    dated = parsedate_to_datetime(head.partition(b"Date: ")[2].split(b"\r\n")[0].decode())
    assert abs(dated - datetime.now(UTC)) < timedelta(seconds=5)


async def test_a_refused_method_says_which_are_allowed_and_the_connection_stays() -> None:
    async with serving_one() as raw:
        post = ASK.replace(b"GET", b"POST")[:-2] + b"Content-Length: 5\r\n\r\nhello"
        head, _ = await raw.ask(post)
        _, body = await raw.ask()

    assert head.split()[1] == b"405"
    assert b"Allow: GET, HEAD\r\n" in head
    assert body == b"ok"


@pytest.mark.parametrize(
    "rest",
    [b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"Content-Length: 99999999\r\n\r\n"],
)
async def test_a_body_that_nobody_will_read_is_not_waited_for(rest: bytes) -> None:
    async with serving_one() as raw:
        raw.writer.write(ASK.replace(b"GET", b"POST")[:-2] + rest)
        head, _ = await raw.ask(b"" if b"Expect" in rest else b"x" * 100_000)

        assert head.split()[1] == b"405"
        assert b"Connection: close" in head
        assert await raw.ended()


async def test_a_body_in_thousands_of_parts_is_not_read_to_its_end() -> None:
    async with serving_one() as raw:
        post = ASK.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
        head, _ = await raw.ask(post + b"1\r\nx\r\n" * 5_000)

    assert head.split()[1] == b"405"


async def test_who_waits_for_a_word_to_send_nothing_gets_its_answer() -> None:
    async with serving_one() as raw:
        await raw.ask(ASK[:-2] + b"Expect: 100-continue\r\n\r\n")

        assert (await raw.ask())[1] == b"ok"


@pytest.mark.parametrize("sent", [b"", ASK[:20], ASK.replace(b"GET", b"POST")[:-2]])
async def test_who_sends_no_whole_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.2)
    async with serving_one() as raw:
        raw.writer.write(sent)

        assert await raw.ended()


async def test_so_is_who_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.2)
    async with serving_one() as raw:
        await raw.ask()

        assert await raw.ended()


async def test_so_is_who_does_not_take_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "ANSWER_SECONDS", 0.2)
    async with serving_one() as raw:
        raw.writer.write(ASK.replace(b"livez", b"large"))
        await asyncio.sleep(0.6)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await raw.reader.readexactly(len(LARGE))


async def test_when_all_places_are_taken_the_oldest_that_waits_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)
    async with http_server.serving(ROUTES, LOOPBACK, 0) as port, AsyncExitStack() as stack:
        busy, oldest, younger = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        busy.writer.write(ASK.replace(b"livez", b"large"))
        await asyncio.sleep(0.1)
        async with connected(port) as probe:
            _, body = await probe.ask()

        assert body == b"ok"
        assert await oldest.ended()
        assert (await younger.ask())[1] == b"ok"
        assert len((await busy.ask(b""))[1]) == len(LARGE)


async def test_so_does_who_does_not_take_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    async with http_server.serving(ROUTES, LOOPBACK, 0) as port, AsyncExitStack() as stack:
        for _ in range(2):
            slow = await stack.enter_async_context(connected(port))
            slow.writer.write(ASK.replace(b"livez", b"large"))
        await asyncio.sleep(0.1)
        for _ in range(3):
            probe = await stack.enter_async_context(connected(port))
            assert (await probe.ask())[1] == b"ok"


async def test_there_is_room_for_ever_more_that_have_been_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    async with http_server.serving(ROUTES, LOOPBACK, 0) as port, AsyncExitStack() as stack:
        for _ in range(20):
            kept = await stack.enter_async_context(connected(port))
            assert (await kept.ask())[1] == b"ok"


async def test_who_asks_stays_while_the_silent_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)
    async with http_server.serving(ROUTES, LOOPBACK, 0) as port, AsyncExitStack() as stack:
        kept = await stack.enter_async_context(connected(port))
        for _ in range(10):
            assert (await kept.ask())[1] == b"ok"
            await stack.enter_async_context(connected(port))
            await asyncio.sleep(0.01)


async def test_who_waits_for_us_makes_room_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    asked, go = asyncio.Event(), asyncio.Event()

    known = {"/slow": slow(asked, go), "/livez": livez}
    async with http_server.serving(known, LOOPBACK, 0) as port, connected(port) as busy:
        answer = asyncio.create_task(busy.ask(ASK.replace(b"livez", b"slow")))
        await asked.wait()
        async with connected(port) as silent, connected(port) as probe:
            assert (await probe.ask())[1] == b"ok"
            assert await silent.ended()
        go.set()

        assert (await answer)[1] == b"late"


async def test_when_all_wait_for_us_there_is_room_for_a_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    asked = asyncio.Event()

    known = {"/slow": slow(asked, asyncio.Event()), "/livez": livez}
    async with http_server.serving(known, LOOPBACK, 0) as port, AsyncExitStack() as stack:
        for _ in range(3):
            busy = await stack.enter_async_context(connected(port))
            busy.writer.write(ASK.replace(b"livez", b"slow"))
            await asyncio.wait_for(asked.wait(), 5)
            asked.clear()
            async with connected(port) as probe:
                assert (await probe.ask())[1] == b"ok"


async def test_who_sends_thousands_ahead_does_not_keep_the_others() -> None:
    answered = 0

    async def counted() -> Answer:
        nonlocal answered
        answered += 1
        return Answer(b"")

    known = {"/counted": counted, "/livez": livez}
    async with http_server.serving(known, LOOPBACK, 0) as port, connected(port) as crowd:
        crowd.writer.write(ASK.replace(b"livez", b"counted") * 5_000)
        await crowd.ask(b"")
        async with connected(port) as probe:
            await probe.ask()
        before = answered
        for _ in range(4_999):
            await crowd.ask(b"")

    assert before < answered == 5_000


async def test_an_answer_on_its_way_is_still_given_when_the_server_stops() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async with AsyncExitStack() as stack:
        async with http_server.serving({"/livez": slow(asked, go)}, LOOPBACK, 0) as port:
            raw = await stack.enter_async_context(connected(port))
            answer = asyncio.create_task(raw.ask())
            await asked.wait()
            asyncio.get_running_loop().call_later(0.1, go.set)
        head, body = await answer

        assert (body, b"Connection: close" in head) == (b"late", True)
        assert await raw.ended()


async def later(raw: Raw) -> tuple[bytes, bytes]:
    await asyncio.sleep(0.1)
    return await raw.ask()


async def test_who_has_just_connected_is_still_answered_when_the_server_stops() -> None:
    async with AsyncExitStack() as stack:
        async with http_server.serving(ROUTES, LOOPBACK, 0) as port:
            raw = await stack.enter_async_context(connected(port))
            await asyncio.sleep(0.05)
            answer = asyncio.create_task(later(raw))
            leaving = time.monotonic()
        took = time.monotonic() - leaving
        head, body = await answer

    assert (body, b"Connection: close" in head) == (b"ok", True)
    assert took < http_server.STOP_SECONDS


async def test_who_has_had_its_answers_does_not_keep_the_server() -> None:
    async with AsyncExitStack() as stack:
        async with http_server.serving(ROUTES, LOOPBACK, 0) as port:
            raw = await stack.enter_async_context(connected(port))
            await raw.ask()
            await asyncio.sleep(0.05)
            leaving = time.monotonic()
        took = time.monotonic() - leaving

        assert await raw.ended()
    assert took < http_server.STOP_SECONDS / 2


async def test_an_answer_that_never_comes_does_not_keep_the_server() -> None:
    asked = asyncio.Event()

    async with AsyncExitStack() as stack:
        async with http_server.serving(
            {"/livez": slow(asked, asyncio.Event())}, LOOPBACK, 0
        ) as port:
            raw = await stack.enter_async_context(connected(port))
            raw.writer.write(ASK)
            await asked.wait()
            leaving = time.monotonic()
        took = time.monotonic() - leaving

        assert await raw.ended()
    assert took < http_server.STOP_SECONDS + 1
