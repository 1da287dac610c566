"""`python -m bench.workers`: what a call costs in one worker, in each of two services that share
nothing, and in each of two workers.

Two cores that also run Postgres and the load cannot show twice the rate. They can show what a call
costs in CPU time. One worker alone has a core for itself, and of two each has half of one, whatever
they are; so two workers are also compared with two services, each with a Postgres of its own: what
they cost more is the price of what workers share.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import calls, children, watch, world
from bench.children import BenchError, Server
from bench.load import Jobs, h2load

EACH: Final = 64  # calls in flight for each worker
CONNECTIONS: Final = 16  # for each worker: the kernel spreads them by chance, many of them evenly
ROUNDS: Final = 7
SECONDS: Final = 2.0
WARM: Final = 0.5


@dataclass(frozen=True, slots=True)
class Service:
    """Some workers, their Postgres, and who is known to them."""

    server: Server
    postgres: int
    people: list[dict[str, str]]
    workers: int


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--door", choices=list(world.DOORS), default="grpcio")
    door = parser.parse_args().door
    try:
        world.require_h2load()
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            one, two = stack.enter_context(_services(folder / "a", door, (1, 2)))
            (other,) = stack.enter_context(_services(folder / "b", door, (1,)))
            arrangements = {
                "one worker": [one],
                "two services": [one, other],
                "two workers": [two],
            }
            costs: dict[str, list[float]] = {name: [] for name in arrangements}
            for number in range(ROUNDS):
                for name, services in list(arrangements.items())[:: 1 if number % 2 == 0 else -1]:
                    rate, cost = _window(folder, services)
                    costs[name].append(cost)
                    print(f"{name:12}  {rate:8,.0f}/s  {cost:6.1f} µs a call", flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    alone, apart, together = (statistics.median(each) for each in costs.values())
    print(
        f"a call costs {alone:.0f} µs in one worker, {apart:.0f} in each of two services and"
        f" {together:.0f} in each of two workers, Postgres included:\n"
        f"two workers do {_twice(costs, 'two services'):.2f} times as much as one of two services,"
        f" and {_twice(costs, 'one worker'):.2f} times as much as one worker alone, given the cores"
    )
    return 0


def _twice(costs: Mapping[str, Sequence[float]], of: str) -> float:
    """The median of the ratios within a round."""
    pairs = zip(costs[of], costs["two workers"], strict=True)
    return statistics.median(2 * cost / together for cost, together in pairs)


@contextmanager
def _services(folder: Path, door: str, workers: Sequence[int]) -> Iterator[list[Service]]:
    """Services on one Postgres, of so many workers each."""
    folder.mkdir()
    with ExitStack() as stack:
        postgres, url, _ = stack.enter_context(world.prepared(folder))
        environ = world.environment(url)
        world.migrate(environ)
        client = stack.enter_context(Jobs("bench.client"))
        servers = [stack.enter_context(_serving(door, environ, count)) for count in workers]
        people = client.ask(job="prepare", target=f"127.0.0.1:{servers[0].port}")()
        yield [
            Service(server, postgres.pid or 0, people, count)
            for server, count in zip(servers, workers, strict=True)
        ]


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


def _window(folder: Path, services: Sequence[Service]) -> tuple[float, float]:
    """Answers a second, and µs of CPU time for each, of the services' and Postgres' processes."""
    call = calls.CALLS["GetRecord"]
    begin = time.time() + WARM
    end = begin + SECONDS
    finishing = []
    for each in services:
        senders = world.senders(each.people, call)
        senders *= CONNECTIONS * each.workers // len(senders)
        target = f"http://127.0.0.1:{each.server.port}{call.path}"
        finishing.append(h2load(folder, target, senders, EACH * each.workers, end + 0.1))
    time.sleep(max(0.0, begin - time.time()))
    before, begin = watch.processes(), time.time()
    time.sleep(max(0.0, end - time.time()))
    after, end = watch.processes(), time.time()
    outcomes = [finish() for finish in finishing]
    if complaints := [text for outcome in outcomes for text in outcome.complaints]:
        raise BenchError(f"calls failed: {complaints}")
    answers = sum(begin < ended <= end for outcome in outcomes for ended, _ in outcome.samples)
    spent = sum(
        watch.cpu_seconds(after, pid) - watch.cpu_seconds(before, pid)
        for each in services
        for pid in (each.server.pid, each.postgres)
    )
    return answers / (end - begin), spent / answers * 1e6


if __name__ == "__main__":
    raise SystemExit(main())
