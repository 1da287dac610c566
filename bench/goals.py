"""What the service is meant to reach, and whether it did: a line each, from ratios within a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.table import Row
from bench.world import BASE

Find = Callable[[str, str, str], Row | None]
# By door: GetRecord at 128 in flight, as a multiple of the bare grpc.aio echo.
READS: Final = {"grpcio": 0.6, "envoy": 2.2}
# By either door: 150,000 records a second on a core that echoes 5,000 times. On a core, so what
# counts is the server's CPU time.
BATCHES: Final = 0.3


@dataclass(frozen=True, slots=True)
class Goal:
    """`got` is compared with `least`; None: this run cannot tell."""

    text: str
    least: float
    got: float | None


def goals(rows: Sequence[Row], doors: Sequence[str]) -> list[Goal]:
    """All of them, for the doors that were measured."""
    by_place = {(row.name, row.door, row.load): row for row in rows if not row.complaints}

    def find(name: str, door: str = "", load: str = "128") -> Row | None:
        return by_place.get((name, door, load))

    found = []
    for door in doors:
        read, page = find("GetRecord", door), find("GetUserData", door)
        batch, echo = find("BatchGetRecords", door), find("echo", BASE)
        put, login = find("PutRecord", door), find("Login", door)
        raw, reference = (find(f"argon2 {of}", load="all cores") for of in ("ours", "reference"))
        found += [
            Goal(f"GetRecord ÷ echo, {door}", READS.get(door, 0), read.of_echo if read else None),
            Goal(f"BatchGetRecords ÷ echo, by CPU time, {door}", BATCHES, _by_cpu(echo, batch)),
            Goal(f"GetUserData ÷ GetRecord, {door}", 0.6, _by_rate(read, page)),
            Goal(f"PutRecord ÷ pgbench, {door}", 0.7, put.of_limit if put else None),
            Goal(f"Login ÷ raw argon2-cffi, {door}", 0.9, _by_rate(reference, login)),
            Goal(f"Login ÷ raw libsodium, {door}", 0.9, login.of_limit if login else None),
            Goal(f"Login ÷ raw libsodium, by CPU time, {door}", 0.9, _by_cpu(raw, login)),
            Goal(f"(2 echo + select) ÷ GetRecord, p50 alone, {door}", 1.0, _alone(find, door)),
        ]
    return found


def _by_rate(limit: Row | None, row: Row | None) -> float | None:
    return row.rate / limit.rate if limit and row and limit.rate else None


def _by_cpu(limit: Row | None, row: Row | None) -> float | None:
    """How many of `row`'s calls the limit's CPU time would make, had both the cores to themselves:
    the rates have in them what Postgres and the callers take of the same cores.
    """
    if not limit or not row or not limit.cpu_us or not row.cpu_us:
        return None
    return limit.cpu_us / row.cpu_us


def _alone(find: Find, door: str) -> float | None:
    """How the time of a lone GetRecord compares with that of two echoes and one select."""
    places = (("echo", door, "1"), ("pgbench get", "", "1 conn."), ("GetRecord", door, "1"))
    times = [row.p50_ms for place in places if (row := find(*place)) and row.p50_ms]
    return (2 * times[0] + times[1]) / times[2] if len(times) == len(places) else None


def text(found: Sequence[Goal]) -> str:
    """For a terminal, and for the page."""
    return "\n".join(
        f"{'met' if goal.got >= goal.least else 'MISSED':6}  {goal.got:.2f} of {goal.least:.2f}"
        f"  {goal.text}"
        for goal in found
        if goal.got is not None
    )
