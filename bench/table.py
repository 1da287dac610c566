"""From rounds to lines: medians, ratios within a round, and how they are written."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench import plan
from bench.plan import Cell
from bench.run import Measure

Rounds = Mapping[Cell, Sequence[Measure]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: medians over the rounds. None: does not apply."""

    name: str
    door: str
    load: str
    rate: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float | None
    postgres_us: float | None
    statements: float | None
    of_echo: float | None  # rate ÷ that of the bare grpc.aio echo, in the same round
    of_limit: float | None  # rate ÷ that of the limit it has, in the same round
    complaints: list[str]


def rows(found: Rounds) -> list[Row]:
    """The lines, by call and then load."""
    order = list(dict.fromkeys(cell.name for cell in found))
    return [
        _row(found, cell)
        for cell in sorted(found, key=lambda each: (order.index(each.name), each.door))
    ]


def _row(found: Rounds, cell: Cell) -> Row:
    seen = found[cell]

    def of(other: Cell | None) -> float | None:
        pairs = zip(seen, found.get(other, []) if other else [], strict=False)
        return _median([mine.rate / its.rate for mine, its in pairs if its.rate])

    def median(read: Callable[[Measure], float | None]) -> float | None:
        return _median([value for each in seen if (value := read(each)) is not None])

    return Row(
        name=cell.name,
        door=cell.door,
        load=_load(cell, median(lambda each: each.offered)),
        rate=median(lambda each: each.rate) or 0.0,
        p50_ms=median(lambda each: each.p50_ms),
        p99_ms=median(lambda each: each.p99_ms),
        cpu_us=median(lambda each: each.cpu_us),
        postgres_us=median(lambda each: each.postgres_us),
        statements=median(lambda each: each.statements),
        of_echo=of(plan.echo_of(cell)),
        of_limit=of(plan.limit_of(cell)),
        complaints=[text for each in seen for text in each.complaints],
    )


def _load(cell: Cell, offered: float | None) -> str:
    if cell.name.startswith("argon2"):
        return "all cores"
    if cell.name.startswith("pgbench"):
        return f"{cell.in_flight} conn."
    return f"{cell.in_flight}" if offered is None else f"{offered:,.0f}/s open"


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


HEAD = (
    *("call", "door", "in flight", "calls/s", "p50 ms", "p99 ms"),
    *("CPU µs", "pg µs", "SQL", "× echo", "of limit"),
)


def _cells(row: Row) -> list[str]:
    """A row as text. Where an answer was wrong there are no numbers: they would be of something
    else.
    """
    names = [row.name, row.door, row.load]
    if row.complaints:
        return [*names, "INVALID", *[""] * 7]
    return [
        *names,
        f"{row.rate:,.0f}" if row.rate >= 100 else f"{row.rate:.1f}",
        *(_number(row.p50_ms, 2), _number(row.p99_ms, 2)),
        *(_number(row.cpu_us, 0), _number(row.postgres_us, 0), _number(row.statements, 2)),
        *(_number(row.of_echo, 2), _number(row.of_limit, 2)),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def text(lines: Sequence[Row]) -> str:
    """For a terminal."""
    grid = [list(HEAD), *map(_cells, lines)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    shown = [
        "  ".join(
            each.ljust(width) if place < 2 else each.rjust(width)
            for place, (each, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in grid
    ]
    wrong = [
        f"INVALID {row.name} {row.door} {row.load}: {complaint}"
        for row in lines
        for complaint in dict.fromkeys(row.complaints)
    ]
    return "\n".join([*shown, *wrong])


def markdown(lines: Sequence[Row]) -> str:
    """For docs/performance.md."""
    grid = [HEAD, ("---", "---", *["--:"] * 9), *map(_cells, lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in grid)
