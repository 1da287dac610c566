"""The rounds. A cell is a window of time in which a load runs, looked at from outside."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import calls, plan, statements, watch
from bench.children import Server
from bench.load import Finish, Outcome, Sample, h2load, pgbench
from bench.plan import Cell
from bench.world import World, senders

# Calls a second that our client makes beside h2load, to look at what h2load does not: the answers.
WITNESS = 10
STARTED = 0.01  # seconds that a process of h2load takes to be under way
REACH = 0.05  # loads go on for so long after the window, which then ends in full swing


@dataclass(frozen=True, slots=True)
class Measure:
    """What one window saw. None: does not apply."""

    rate: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float | None  # of the server, or of raw argon2, per call
    postgres_us: float | None
    statements: float | None  # per call
    offered: float | None
    complaints: list[str]  # a cell with any is not valid


def rounds(
    world: World, cells: Sequence[Cell], count: int, seconds: float
) -> dict[Cell, list[Measure]]:
    """`count` times through all cells, every other time backwards, so that a machine that slows
    down or speeds up does it to all.
    """
    rates = looked(world, cells)
    found: dict[Cell, list[Measure]] = {cell: [] for cell in cells}
    for number in range(count):
        for cell in cells if number % 2 == 0 else reversed(cells):
            expected = rates.get((cell.name, cell.door))
            measure = measured(world, cell, cell.windows * seconds, expected)
            found[cell].append(measure)
            _tell(f"{number + 1}/{count}", cell, measure)
    return found


def looked(world: World, cells: Sequence[Cell]) -> dict[tuple[str, str], float]:
    """How fast each call is, roughly: for the rates of open loops. It also warms everything up."""
    found = {}
    for name, door in dict.fromkeys((cell.name, cell.door) for cell in cells if cell.is_call):
        cell = Cell(name, door, plan.LOADS[1])
        # Twice: the first makes connections and plans.
        seen = [window(world, cell, 0.3, None) for _ in range(2)][1]
        found[name, door] = max(seen.rate, 1.0)
        _tell("look", cell, seen)
    for server in world.servers.values():
        server.settle()
    return found


def measured(world: World, cell: Cell, seconds: float, expected: float | None) -> Measure:
    """One window, and around it what has to be quiet for counting. `expected` is about how many
    calls a second the door can do.
    """
    server = _server(world, cell)
    if not server or not cell.is_call:
        return window(world, cell, seconds, expected)
    before = world.statements.counted()
    _knock(world, server)
    server.forget()
    seen = window(world, cell, seconds, expected)
    server.settle()
    ended = server.codes()
    ran = world.statements.counted() - before
    return replace(
        seen,
        statements=ran / ended["OK"] if ended["OK"] else None,
        complaints=seen.complaints + _refusals(ended, cell.in_flight),
    )


def window(world: World, cell: Cell, seconds: float, expected: float | None) -> Measure:
    """`seconds` that open some time after a load has begun, and close before it ends."""
    rate = plan.offered(expected) if expected else 1.0
    # All that came at once at the beginning must be through, or waiting looks shorter than it is.
    through = min(cell.in_flight / expected, 2.5 * seconds) if expected else 0
    warm = max(min(1.0, seconds / 3), through)
    start = time.time() + warm + STARTED * _processes(cell)
    main, *beside = begun(world, cell, start + seconds + REACH, rate)
    _sleep_until(start)
    start, before = time.time(), watch.processes()
    _sleep_until(start + seconds)
    end, after = time.time(), watch.processes()
    outcomes = [main(), *(finish() for finish in beside)]
    inside = [[each for each in out.samples if start < each[0] <= end] for out in outcomes]
    answered = _rate(outcomes[0], start, end)
    others = sum(map(len, inside[1:]))

    def cost(pid: int) -> float | None:
        spent = watch.cpu_seconds(after, pid) - watch.cpu_seconds(before, pid)
        answers = answered * (end - start) + others
        return spent / answers * 1e6 if answers else None

    pid = _worker(world, cell)
    return Measure(
        rate=answered,
        p50_ms=_percentile(inside[0], 50),
        p99_ms=_percentile(inside[0], 99),
        cpu_us=cost(pid) if pid else None,
        postgres_us=cost(world.postgres_pid) if cell.asks_postgres else None,
        statements=None,
        offered=rate if cell.is_open else None,
        complaints=[text for outcome in outcomes for text in outcome.complaints],
    )


def _knock(world: World, server: Server) -> None:
    """Return when the server has looked around since its connections to Postgres were ended: a
    write over one that it still takes for alive would be a refusal of our making.
    """
    for _ in range(2):
        world.client.ask(job="knock", target=f"127.0.0.1:{server.port}")()


def begun(world: World, cell: Cell, end: float, rate: float) -> list[Finish]:
    """The load of a cell, and what goes on beside it."""
    if cell.name.startswith("argon2"):
        return [world.hasher.load(of=cell.name.split()[1], end=end)]
    if cell.name.startswith("pgbench"):
        scripts, variables = statements.scripts(cell.name, world.people)
        program, url = world.bin_dir / "pgbench", world.database_url
        # It rounds up to whole seconds, so let it not begin another for our reach.
        until = end - REACH
        return [pgbench(world.folder, program, url, scripts, variables, cell.in_flight, until)]
    call = calls.CALLS.get(cell.name, calls.ECHO)
    server = _server(world, cell)
    assert server is not None
    target = f"127.0.0.1:{server.port}"
    job = {"call": cell.name, "target": target, "end": end}
    if cell.is_open:
        return [world.client.load(job="open", rate=rate, **job)]
    if call.request is None and cell.is_call:
        return [world.client.load(job="closed", in_flight=cell.in_flight, **job)]
    url = f"http://{target}{call.path}"
    return [
        h2load(world.folder, url, senders(world.people, call), cell.in_flight, end),
        world.client.load(job="open", rate=WITNESS, **job),
    ]


def _rate(outcome: Outcome, start: float, end: float) -> float:
    """Answers a second, from the first one after the window's start to the first after its end.
    Logins come by two dozen, and one such group more or less between its own edges would be a tenth
    of what two seconds hold.
    """
    times = [ended for ended, _ in outcome.samples]
    first, last = (
        min((each for each in times if each > edge), default=end) for edge in (start, end)
    )
    return sum(first < each <= last for each in times) / (last - first) if last > first else 0.0


def _processes(cell: Cell) -> int:
    """Of h2load: one per connection."""
    call = calls.CALLS.get(cell.name, calls.ECHO)
    return min(cell.in_flight, call.connections)


def _server(world: World, cell: Cell) -> Server | None:
    return world.echoes.get(cell.door) if cell.name == "echo" else world.servers.get(cell.door)


def _worker(world: World, cell: Cell) -> int | None:
    """Whose CPU time counts. pgbench's is that of Postgres."""
    if cell.name.startswith("argon2"):
        return world.hasher.pid
    server = _server(world, cell)
    return server.pid if server else None


def _refusals(ended: dict[str, int], in_flight: int) -> list[str]:
    """What the server's own log has against its answers. h2load cuts off its last calls."""
    return [
        f"{count} {code}"
        for code, count in ended.items()
        if code != "OK" and not (code == "CANCELLED" and count <= in_flight)
    ]


def _percentile(samples: Sequence[Sample], percent: int) -> float | None:
    if len(samples) < 2:
        return samples[0][1] * 1000 if samples else None
    times = [seconds * 1000 for _, seconds in samples]
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def _tell(when: str, cell: Cell, measure: Measure) -> None:
    load = f"{cell.in_flight} in flight" if cell.in_flight else ""
    wrong = "".join(f"  WRONG: {text}" for text in measure.complaints)
    print(
        f"{when:>5}  {cell.door:8} {cell.name:14} {load:14} {measure.rate:8,.0f}/s{wrong}",
        file=sys.stderr,
        flush=True,
    )
