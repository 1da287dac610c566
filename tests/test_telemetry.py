"""What a running process shows: one line per event, and a bounded number of time series."""

import asyncio
import io
import json
import logging
import os
import pty
import select
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry import lines, logs
from service.telemetry.metrics import CODES, Metrics

LOGIN = "sixfold.auth.v1.AuthService/Login"
CALL: dict[str, Any] = {
    "method": LOGIN,
    "code": "OK",
    "reason": None,
    "duration_ms": 1.234,
    "request_id": "r-1",
    "user_id": "u-1",
    "peer": "ipv4:10.0.0.7:51234",
}
# Everything that ends a line for somebody: POSIX, Unicode, terminals.
FORGERY = 'x\n{"event":"call"}\r\x0b\x0c\x1c\x85\u2028\u2029\x1b[2J\x9b1A'


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in (*logs.FOREIGN, "sixfold.security")}
    yield
    logging.captureWarnings(False)
    root.handlers, root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def configured(level: str = "info", shape: str = "json") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, shape, stream)
    return stream


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@contextmanager
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """A pipe's two ends. Flushed before it closes, or late lines would go to its successor."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as read, os.fdopen(writer, "w") as write:
        yield read, write
        assert lines.flush(5)


LONG = 100_000  # more than a pipe holds: whoever writes it waits for the reader


def filled(reader: TextIO, write: Callable[[], None]) -> tuple[int, float]:
    """With nobody reading, write lines of LONG bytes, twice what may wait: how many, and the
    seconds of the slowest.
    """

    def seconds() -> float:
        start = time.perf_counter()
        write()
        return time.perf_counter() - start

    took = [seconds()]
    select.select([reader], [], [], 5)  # now the thread has one line, and waits
    took += [seconds() for _ in range(2 * lines.BOUND // LONG)]
    return len(took), max(took)


def numbered(write: lines.Write, name: str, count: int) -> Callable[[], None]:
    def run() -> None:
        for n in range(count):
            write(f"{name} {n} {'.' * (n % 500)}\n".encode())

    return run


async def ran(code: str, *, stdout: int | None = None) -> tuple[int | None, bytes, bytes]:
    """Run Python code in a process of its own: exit code, stdout, stderr."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(child.communicate(), 20)
    finally:
        if child.returncode is None:
            child.kill()
    return child.returncode, out or b"", errors


def test_a_log_line_is_a_json_object_with_time_severity_logger_message_and_extras() -> None:
    stream = configured()

    logging.getLogger("service.app").info("ready in %d ms", 7, extra={"port": 50051})

    [line] = written(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "severity": "INFO",
        "logger": "service.app",
        "message": "ready in 7 ms",
        "port": 50051,
    }


def test_time_is_rfc_3339_in_utc() -> None:
    stream = configured()

    logging.getLogger("x").info("now")

    logged = datetime.fromisoformat(written(stream)[0]["time"])
    assert abs((datetime.now(UTC) - logged).total_seconds()) < 5


def test_an_exception_is_part_of_its_line() -> None:
    stream = configured()

    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        logging.getLogger("x").exception("failed")

    [line] = written(stream)
    assert "Traceback" in line["exception"]
    assert "ValueError: bad\nvalue" in line["exception"]


@pytest.mark.parametrize("shape", ["json", "text"])
def test_no_value_can_forge_a_line(shape: str) -> None:
    stream = configured(shape=shape)
    access = logs.AccessLog(stream, shape)

    logging.getLogger("x").warning("user %s", FORGERY, extra={"name_": FORGERY, FORGERY: 1})
    logs.security_event("authn_login_fail", user=FORGERY)
    access(CALL | dict.fromkeys(("method", "request_id", "peer", "reason"), FORGERY))

    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_in_text_every_line_of_an_exception_is_indented() -> None:
    stream = configured(shape="text")

    try:
        raise ValueError(f"{FORGERY}\n2026-01-01T00:00:00.000Z INFO forged")
    except ValueError:
        logging.getLogger("x").exception("failed")

    first, *rest = stream.getvalue().splitlines()
    assert "ERROR" in first
    assert all(line.startswith("    | ") and line.isprintable() for line in rest)


def test_text_says_the_same_for_people() -> None:
    stream = io.StringIO()

    logs.AccessLog(stream, "text")(CALL | {"peer": 'a "b'})

    line = stream.getvalue()
    assert f" INFO     call method={LOGIN} code=OK duration_ms=1.234 request_id=r-1" in line
    assert line.endswith('peer="a \\"b"\n')


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        logs.AccessLog(terminal)(CALL)
        assert b"call method=" in screen.read(4096)
        assert lines.flush(5)
    stream = io.StringIO()

    logs.AccessLog(stream)(CALL)

    assert written(stream)


def test_an_access_line_has_exactly_its_fields() -> None:
    stream = io.StringIO()

    logs.AccessLog(stream, "json")(CALL)

    [line] = written(stream)
    assert line.pop("time").endswith("Z")
    assert line == CALL | {"event": "call", "severity": "INFO"}


def test_calls_that_end_together_have_a_line_each() -> None:
    stream = io.StringIO()

    logs.AccessLog(stream, "json")(CALL, CALL | {"request_id": "r-2"}, CALL)

    assert [line["request_id"] for line in written(stream)] == ["r-1", "r-2", "r-1"]


def test_our_own_failures_are_errors_and_the_callers_are_not() -> None:
    stream = io.StringIO()
    access = logs.AccessLog(stream, "json")

    for code in ("OK", "NOT_FOUND", "UNAVAILABLE", "INTERNAL"):
        access(CALL | {"code": code})

    assert [x["severity"] for x in written(stream)] == ["INFO", "INFO", "WARNING", "ERROR"]


@pytest.mark.parametrize("shape", ["json", "text"])
def test_a_broken_standard_output_fails_no_call(shape: str) -> None:
    with pipe() as (reader, stream):
        access = logs.AccessLog(stream, shape)
        logs.configure("info", shape, stream)
        reader.close()

        for _ in range(3):
            access(CALL)
            logging.getLogger("x").error("nobody reads this")
            logs.security_event("authn_login_success", user_id="u-1")
            assert lines.flush(5)


def test_a_closed_stream_fails_no_call() -> None:
    stream = io.StringIO()
    access = logs.AccessLog(stream, "json")
    stream.close()

    access(CALL)


def test_lines_longer_than_a_pipe_arrive_whole() -> None:
    with pipe() as (reader, stream):
        access = logs.AccessLog(stream, "json")
        for _ in range(3):
            access(CALL | {"peer": "p" * LONG})

        assert [len(json.loads(reader.readline())["peer"]) for _ in range(3)] == [LONG] * 3


def test_a_reader_that_stops_stops_nobody_and_hears_what_was_dropped() -> None:
    with pipe() as (reader, stream):
        write = lines.line_writer(stream, lambda dropped: b"%d dropped\n" % dropped)
        line = "x" * (LONG - 1) + "\n"

        count, slowest = filled(reader, lambda: write(line.encode()))
        stuck = not lines.flush(0.01)
        kept = 0
        while (heard := reader.readline()) == line:
            kept += 1
        write(b"after\n")

        assert stuck
        assert slowest < 1
        assert kept == 2 + lines.BOUND // LONG  # one on its way, and those up to the bound
        assert heard == f"{count - kept} dropped\n"
        assert reader.readline() == "after\n"


@pytest.mark.parametrize("together", [1, 3])
def test_a_gap_is_told_in_the_format_of_the_log(together: int) -> None:
    with pipe() as (reader, stream):
        access = logs.AccessLog(stream, "json")
        calls_of_a_turn = [CALL | {"peer": "p" * LONG}] * together
        turns, _ = filled(reader, lambda: access(*calls_of_a_turn))

        calls = 0
        while (found := json.loads(reader.readline()))["event"] == "call":
            calls += 1

        assert (found["event"], found["severity"]) == ("log_lines_dropped", "WARNING")
        assert found["dropped"] == turns * together - calls > 0


def test_a_reader_who_left_and_comes_back_hears_what_was_dropped(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with fifo.open("w") as stream:
        write = lines.line_writer(stream, lambda dropped: b"%d dropped\n" % dropped)
        os.close(first)
        write(b"to nobody\n")
        assert lines.flush(5)

        with fifo.open() as second:
            write(b"after\n")
            assert lines.flush(5)
            assert [second.readline(), second.readline()] == ["1 dropped\n", "after\n"]


def test_lines_of_two_threads_are_whole_and_each_threads_in_order() -> None:
    with pipe() as (reader, stream):
        write = lines.line_writer(stream, str)  # type: ignore[arg-type]
        names, count = ("a", "b"), 5_000
        threads = [threading.Thread(target=numbered(write, name, count)) for name in names]
        for thread in threads:
            thread.start()

        found = [reader.readline() for _ in range(len(names) * count)]

    for name in names:
        mine = [line for line in found if line.startswith(name)]
        assert mine == [f"{name} {n} {'.' * (n % 500)}\n" for n in range(count)]


def test_a_pipe_somebody_made_non_blocking_loses_nothing() -> None:
    with pipe() as (reader, stream):
        os.set_blocking(stream.fileno(), False)
        write = lines.line_writer(stream, str)  # type: ignore[arg-type]
        numbered(write, "a", 2_000)()

        assert [reader.readline().split()[1] for _ in range(2_000)] == [*map(str, range(2_000))]


def test_standard_logging_and_access_lines_share_one_order() -> None:
    with pipe() as (reader, stream):
        logs.configure("info", "json", stream)
        access = logs.AccessLog(stream, "json")
        for n in range(100):
            access(CALL | {"request_id": n})
            logging.getLogger("x").info("%d", n)

        found = [json.loads(reader.readline()) for _ in range(200)]

    seen = [str(line.get("request_id", line.get("message"))) for line in found]
    assert seen == [str(n) for n in range(100) for _ in range(2)]


LOGGING = f"""
import atexit, logging, os, sys, threading
from service.telemetry import lines, logs
logs.configure("info", "json", sys.stdout)
access = logs.AccessLog(sys.stdout, "json")
call = {CALL!r}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise SystemExit"])
async def test_every_line_of_a_process_that_ends_arrives(end: str) -> None:
    late = "atexit.register(logging.info, 'at exit')"
    deleted = "class Last:\n def __del__(self, info=logging.info): info('last')\nlast = Last()"
    code = f"{LOGGING}\n{late}\n{deleted}\n[access(call) for _ in range(5000)]\n{end}"

    status, out, errors = await ran(code)

    *calls, at_exit, last = [json.loads(line) for line in out.splitlines()]
    assert (status, errors, len(calls)) == (0, b"", 5000)
    assert (at_exit["message"], last["message"]) == ("at exit", "last")


async def test_a_loop_that_never_idles_loses_nothing_while_somebody_reads() -> None:
    count = lines.BOUND // 180  # more than may wait
    busy = f"""
import asyncio
async def main():
    for _ in range({count}):
        access(call)
        await asyncio.sleep(0)
asyncio.run(main())
"""
    status, out, errors = await ran(LOGGING + busy)

    assert len(out) > lines.BOUND
    assert (status, errors, out.count(b'"event":"call"')) == (0, b"", count)


async def test_a_process_that_nobody_reads_ends_in_bounded_time() -> None:
    reader, writer = os.pipe()
    start = time.monotonic()

    status, _, errors = await ran(f"{LOGGING}\n[access(call) for _ in range(5000)]", stdout=writer)

    os.close(reader)
    os.close(writer)
    assert (status, errors) == (0, b"")
    assert time.monotonic() - start < lines.EXIT_SECONDS + 5


async def test_a_forked_child_has_a_thread_of_its_own_and_none_of_its_parents_lines() -> None:
    fork = """
access(call)
if child := os.fork():
    access(call)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
access(call | {"peer": "child"})
"""
    status, out, errors = await ran(LOGGING + fork)

    peers = [json.loads(line)["peer"] for line in out.splitlines()]
    assert (status, errors) == (0, b"")
    assert sorted(peers) == ["child", CALL["peer"], CALL["peer"]]


async def test_a_process_whose_reader_left_ends_cleanly() -> None:
    code = (
        "import sys; from service.telemetry import logs; sys.stdin.read();"
        f"access = logs.AccessLog(sys.stdout, 'json'); [access({CALL!r}) for _ in range(99)]"
    )
    reader, writer = os.pipe()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdin=asyncio.subprocess.PIPE,
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    os.close(reader)

    _, errors = await child.communicate(b"go")

    assert (child.returncode, errors) == (0, b"")


def test_values_that_are_not_json_are_still_logged() -> None:
    stream = configured()

    extra = {"surrogate": "\ud800", "huge": 2**70, "bytes": b"\xff", "keys": {1: 2}, "set": {3}}
    logging.getLogger("x").info("odd", extra=extra)

    [line] = written(stream)
    assert line["message"] == "odd"
    assert line["huge"] == str(2**70)
    assert line.keys() >= extra.keys()


def test_a_hidden_field_of_a_dataclass_stays_hidden() -> None:
    @dataclass
    class Config:
        name: str
        key: str = field(repr=False)

    stream = configured()

    logging.getLogger("x").info("with %s", "config", extra={"config": Config("a", "canary")})

    assert "canary" not in stream.getvalue()


def test_a_wrong_log_call_says_so_and_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = configured()

    logging.getLogger("x").info("%d apples", "many")

    [line] = written(stream)
    assert line["message"] == "unprintable record: TypeError"
    assert capsys.readouterr().err == ""


def test_extras_cannot_pose_as_the_fixed_fields() -> None:
    stream = configured()

    logs.security_event("authz_fail", severity="DEBUG", logger="other", time="never")

    [line] = written(stream)
    assert (line["severity"], line["logger"]) == ("CRITICAL", "sixfold.security")


def test_foreign_libraries_are_heard_from_warnings_on() -> None:
    stream = configured("debug")

    for name in ("grpc._cython.cygrpc", "asyncio", "asyncpg.pool"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble")

    assert [line["message"] for line in written(stream)] == ["trouble"] * 3


def test_python_warnings_are_log_lines() -> None:
    with warnings.catch_warnings():
        stream = configured()
        warnings.simplefilter("always")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)

    assert "old ways" in written(stream)[0]["message"]


def test_the_level_silences_what_is_below_it() -> None:
    stream = configured("error")

    logging.getLogger("service.app").warning("quiet")
    logging.getLogger("service.app").error("loud")

    assert [line["message"] for line in written(stream)] == ["loud"]


@pytest.mark.parametrize("name", logs.SECURITY_EVENTS)
def test_security_events_are_logged_at_every_level(name: logs.SecurityEvent) -> None:
    stream = configured("error")

    logs.security_event(name, user_id="u-1", request_id="r-1", message="not this", args=1)

    [line] = written(stream)
    assert (line["event"], line["message"]) == (name, name)
    assert (line["user_id"], line["request_id"]) == ("u-1", "r-1")


def test_a_security_event_says_whose_call_it_was() -> None:
    stream = configured()

    def served() -> None:
        logs.bind(SimpleNamespace(request_id="r-1", peer="ipv4:10.0.0.7:51234"))
        logs.security_event("authn_login_fail", user="ann")

    copy_context().run(served)
    logs.security_event("authn_login_fail", user="ann")

    bound, unbound = written(stream)
    assert (bound["request_id"], bound["peer"]) == ("r-1", "ipv4:10.0.0.7:51234")
    assert unbound.keys().isdisjoint({"request_id", "peer"})


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_calls_are_counted_by_the_names_of_grfc_a66() -> None:
    metrics = Metrics([LOGIN])

    metrics.started(f"/{LOGIN}")
    metrics.ended(f"/{LOGIN}", "OK", seconds=0.0207, rcvd=1024, sent=2000)

    found = samples(metrics)
    method, ok = ("grpc_method", LOGIN), ("grpc_status", "OK")
    size = "total_compressed_message_size_bytes"
    assert found["grpc_server_call_started_total", (method,)] == 1
    assert found["grpc_server_call_duration_seconds_sum", (method, ok)] == 0.0207
    assert found["grpc_server_call_duration_seconds_count", (method, ok)] == 1
    assert found["grpc_server_call_duration_seconds_bucket", (method, ok, ("le", "0.02"))] == 0
    assert found["grpc_server_call_duration_seconds_bucket", (method, ok, ("le", "0.025"))] == 1
    assert found["grpc_server_call_duration_seconds_bucket", (method, ok, ("le", "+Inf"))] == 1
    assert found[f"grpc_server_call_rcvd_{size}_bucket", (method, ok, ("le", "0.0"))] == 0
    assert found[f"grpc_server_call_rcvd_{size}_bucket", (method, ok, ("le", "1024.0"))] == 1
    assert found[f"grpc_server_call_sent_{size}_sum", (method, ok)] == 2000


def test_a_method_nobody_called_counts_zero() -> None:
    found = samples(Metrics([LOGIN]))

    assert found["grpc_server_call_started_total", (("grpc_method", LOGIN),)] == 0


def test_callers_cannot_make_time_series() -> None:
    metrics = Metrics([LOGIN])
    metrics.started("/x/y")
    for code in (*CODES, "99"):
        metrics.ended("/x/y", code, 0.1, 1, 1)
        metrics.ended(LOGIN, code, 0.1, 1, 1)
    before = samples(metrics).keys()

    for n in range(10_000):
        metrics.started(f"/random.Service/Method{n}")
        metrics.ended(f"/random.Service/Method{n}", f"CODE_{n}", 0.1, 1, 1)

    assert samples(metrics).keys() == before
    assert samples(metrics)["grpc_server_call_started_total", (("grpc_method", "other"),)] == 10_001


def test_servers_in_one_process_count_apart() -> None:
    one, two = Metrics([LOGIN]), Metrics([LOGIN])

    one.started(LOGIN)

    name = "grpc_server_call_started_total", (("grpc_method", LOGIN),)
    assert (samples(one)[name], samples(two)[name]) == (1, 0)


def test_gauges_are_asked_at_every_scrape() -> None:
    metrics = Metrics([])
    waiting = [3]
    metrics.read_pool(idle=lambda: 7, in_use=lambda: 2)
    metrics.read_hash_queue(lambda: waiting[0])
    metrics.read_token_keys(lambda: 2)

    first = samples(metrics)
    waiting[0] = 4
    second = samples(metrics)

    assert first["sixfold_database_pool_connections", (("state", "idle"),)] == 7
    assert first["sixfold_database_pool_connections", (("state", "in_use"),)] == 2
    assert first["sixfold_token_keys", ()] == 2
    assert (first["sixfold_hash_queue_length", ()], second["sixfold_hash_queue_length", ()]) == (
        3,
        4,
    )


def test_a_gauge_that_fails_takes_no_other_metric_with_it() -> None:
    metrics = Metrics([LOGIN])
    metrics.read_hash_queue(lambda: 1 // 0)

    found = samples(metrics)

    assert found["sixfold_hash_queue_length", ()] != found["sixfold_hash_queue_length", ()]  # NaN
    assert found["grpc_server_call_started_total", (("grpc_method", LOGIN),)] == 0


def test_process_and_platform_are_described() -> None:
    names = {name for name, _ in samples(Metrics([]))}

    assert {"process_cpu_seconds_total", "process_open_fds", "python_info"} <= names


def blocking() -> None:
    time.sleep(0.15)


async def test_a_blocked_event_loop_shows_as_lag() -> None:
    metrics = Metrics([])
    watch = asyncio.create_task(metrics.watch_loop_lag(0.01))
    await asyncio.sleep(0.02)

    blocking()
    await asyncio.sleep(0.02)
    watch.cancel()

    found = samples(metrics)
    late = (
        found["sixfold_event_loop_lag_seconds_count", ()]
        - found["sixfold_event_loop_lag_seconds_bucket", (("le", "0.1"),)]
    )
    assert late >= 1


def test_the_exposition_names_its_content_type() -> None:
    body, content_type = Metrics([LOGIN]).exposition()

    assert body.endswith(b"\n")
    assert content_type.startswith("text/plain; version=")
