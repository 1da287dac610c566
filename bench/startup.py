"""`python -m bench.startup`: how long until ready, how much memory, how long a first try takes."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import calls, children, ready, watch, world
from bench.children import ROOT, BenchError
from bench.load import Jobs, h2load
from bench.world import DOORS

IN_FLIGHT: Final = 32
LOAD_SECONDS: Final = 5.0  # between two looks at the memory


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of a server's processes after so many calls."""

    calls: int
    mib: float


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--door", choices=list(DOORS), default="grpcio")
    parser.add_argument("--starts", type=int, default=5, help="how often it is started")
    parser.add_argument("--calls", type=int, default=20_000, help="GetRecords before the last look")
    parser.add_argument("--save", metavar="NAME", help="keep it in bench/results/NAME.json")
    options = parser.parse_args()
    try:
        world.require_h2load()
        with tempfile.TemporaryDirectory() as name, world.prepared(Path(name)) as (_, url, _):
            environ = world.environment(url)
            del environ["SIXFOLD_READINESS_SECONDS"]  # a start is to look as often as in production
            world.migrate(environ)
            starts = [until_ready(options.door, environ) for _ in range(options.starts)]
            memory = after_calls(options.door, environ, Path(name), options.calls)
        with tempfile.TemporaryDirectory() as name:
            first, second = (first_try(Path(name) / "data") for _ in range(2))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    spread = f"{min(starts):.2f} to {max(starts):.2f}"
    print(f"serve, exec to SERVING          {statistics.median(starts):6.2f} s  ({spread})")
    for look in memory:
        print(f"memory after {look.calls:>9,} calls    {look.mib:6.0f} MiB")
    print(f"dev, exec to the first answer   {first:6.2f} s, {second:.2f} s when it has run before")
    if options.save:
        document = {
            "door": options.door,
            "ready_seconds": starts,
            "memory": [[look.calls, look.mib] for look in memory],
            "dev_seconds": [first, second],
        }
        results = ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        (results / f"{options.save}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


def until_ready(door: str, environ: dict[str, str]) -> float:
    """Seconds from exec of `sixfold serve` on an existing database to SERVING of both services."""
    start = time.monotonic()
    with children.serving(["service", "serve", *DOORS[door]], environ) as server:
        ready.serving(f"127.0.0.1:{server.port}")
        return time.monotonic() - start


def after_calls(door: str, environ: dict[str, str], folder: Path, wanted: int) -> list[Memory]:
    """Memory when ready, and as the calls add up to `wanted`."""
    call = calls.CALLS["GetRecord"]
    with (
        Jobs("bench.client") as client,
        children.serving(["service", "serve", *DOORS[door]], environ) as server,
    ):
        target = f"127.0.0.1:{server.port}"
        ready.serving(target)
        looks = [Memory(0, watch.resident_mib(server.pid))]
        people = client.ask(job="prepare", target=target)()
        senders = world.senders(people, call)
        while looks[-1].calls < wanted:
            server.forget()
            end = time.time() + LOAD_SECONDS
            outcome = h2load(folder, f"http://{target}{call.path}", senders, IN_FLIGHT, end)()
            if outcome.complaints or not server.codes()["OK"]:
                raise BenchError(f"calls failed: {outcome.complaints} {dict(server.codes())}")
            made = looks[-1].calls + server.codes()["OK"]
            looks.append(Memory(made, watch.resident_mib(server.pid)))
        return [looks[0], *_spread(looks[1:])]


def _spread(looks: list[Memory]) -> list[Memory]:
    """The first, the middle and the last: enough to see whether it is flat."""
    return list(dict.fromkeys((looks[0], looks[len(looks) // 2], looks[-1])))


def first_try(folder: Path) -> float:
    """Seconds from exec of `sixfold dev` to the first answered call."""
    port, http_port = ready.free_ports()
    words = ("--port", str(port), "--http-port", str(http_port), "--directory", str(folder))
    start = time.monotonic()
    with children.started(["service", "dev", *words], {}) as server:
        try:
            ready.answering(f"127.0.0.1:{port}")
        except BenchError as error:
            raise BenchError(f"{error}\n{server.log().decode(errors='replace')}") from error
        return time.monotonic() - start


if __name__ == "__main__":
    raise SystemExit(main())
