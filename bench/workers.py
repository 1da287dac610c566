"""`python -m bench.workers`: what a call costs in one worker, and in each of two.

Two cores that also run Postgres and the load cannot show twice the rate. They can show that a call
costs no more CPU time in two workers than in one, each with as much to do: then two do twice as
much, where there are cores for them.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import calls, children, watch, world
from bench.children import BenchError, Server
from bench.load import Jobs, h2load

EACH: Final = 64  # calls in flight for each worker
WINDOWS: Final = 7
SECONDS: Final = 2.0
WARM: Final = 0.5


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--door", choices=list(world.DOORS), default="grpcio")
    door = parser.parse_args().door
    try:
        world.require_h2load()
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            postgres, url, _ = stack.enter_context(world.prepared(folder))
            environ = world.environment(url)
            world.migrate(environ)
            client = stack.enter_context(Jobs("bench.client"))
            servers = {
                count: stack.enter_context(_serving(door, environ, count)) for count in (1, 2)
            }
            people = client.ask(job="prepare", target=f"127.0.0.1:{servers[1].port}")()
            costs: dict[int, list[float]] = {1: [], 2: []}
            for number in range(2 * WINDOWS):
                count = 1 + number % 2
                rate, cost = _window(folder, servers[count], people, count, postgres.pid or 0)
                costs[count].append(cost)
                print(f"{count} worker(s)  {rate:8,.0f}/s  {cost:6.1f} µs a call", flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    one, two = (statistics.median(costs[count]) for count in (1, 2))
    print(
        f"a call costs {one:.0f} µs in one worker and {two:.0f} in one of two, Postgres included:"
    )
    print(f"two do {2 * one / two:.2f} times as much as one, given the cores")
    return 0


@contextmanager
def _serving(door: str, environ: dict[str, str], count: int) -> Iterator[Server]:
    words = ["service", "serve", *world.DOORS[door], "--workers", str(count)]
    with children.serving(words, environ) as server:
        deadline = time.monotonic() + children.START_SECONDS
        while server.log().count(b'"serving"') < count:
            if time.monotonic() > deadline:
                raise BenchError("not all workers started")
            time.sleep(0.05)
        yield server


def _window(
    folder: Path, server: Server, people: list[dict[str, str]], count: int, postgres: int
) -> tuple[float, float]:
    """Answers a second, and µs of CPU time for each, of the server's and Postgres' processes."""
    call = calls.CALLS["GetRecord"]
    # The kernel spreads connections by chance: with many, evenly.
    senders = world.senders(people, call) * 8
    begin = time.time() + WARM
    end = begin + SECONDS
    target = f"http://127.0.0.1:{server.port}{call.path}"
    finish = h2load(folder, target, senders, EACH * count, end + 0.1)
    time.sleep(max(0.0, begin - time.time()))
    before, begin = watch.processes(), time.time()
    time.sleep(max(0.0, end - time.time()))
    after, end = watch.processes(), time.time()
    outcome = finish()
    if outcome.complaints:
        raise BenchError(f"calls failed: {outcome.complaints}")
    answers = sum(begin < ended <= end for ended, _ in outcome.samples)
    spent = sum(
        watch.cpu_seconds(after, pid) - watch.cpu_seconds(before, pid)
        for pid in (server.pid, postgres)
    )
    return answers / (end - begin), spent / answers * 1e6


if __name__ == "__main__":
    raise SystemExit(main())
