"""The cells of the table, and the order they are run in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.calls import CALLS
from bench.world import BASE, POOL, echoed

LOADS: Final = (1, 16, 128)
# Of these the goals speak.
QUICK: Final = {1: ("GetRecord",), 128: tuple(CALLS)}
# The offered rate of an open loop, as a part of what the door did with 16 in flight; and no more
# than our own client can send on a core it shares.
OFFERED: Final = 0.3
MOST_OFFERED: Final = 1000


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: something, under some load. `in_flight` 0 is an open loop."""

    name: str  # of a call, or "echo", "pgbench get", …, "argon2 ours", "argon2 reference"
    door: str = ""
    in_flight: int = 0

    @property
    def is_call(self) -> bool:
        return self.name in CALLS

    @property
    def windows(self) -> int:
        """How many of other cells' windows make one of this. Logins come by up to 32 at a time, and
        where 128 of them take two seconds, a window of four has seen each caller twice.
        """
        crowd = self.name == "Login" and self.in_flight == LOADS[-1]
        return 2 if crowd or self.name.startswith("argon2") else 1

    @property
    def asks_postgres(self) -> bool:
        return self.is_call or self.name.startswith("pgbench")

    @property
    def is_open(self) -> bool:
        return self.is_call and not self.in_flight


def cells(doors: Sequence[str], only: Sequence[str], *, quick: bool) -> list[Cell]:
    """Every cell of a round; if `quick`, those the goals need. What is compared stands together, so
    that it meets the same noise.
    """
    found: list[Cell] = []
    for in_flight, names in (QUICK if quick else dict.fromkeys(LOADS, CALLS)).items():
        chosen = [name for name in only if name in names]
        found += [Cell("echo", door, in_flight) for door in echoed(doors) if chosen]
        for name in chosen:
            found += [Cell(name, door, in_flight) for door in doors]
            # Next to those with most in flight, of which the goals speak.
            limits = _limits(found[-1])
            found = [each for each in found if each not in limits] + limits
    return found + [Cell(name, door) for name in only for door in doors if not quick]


def echo_of(cell: Cell) -> Cell | None:
    """What a call's rate is divided by: the bare grpc.aio echo, whatever door the call came by."""
    return Cell("echo", BASE, cell.in_flight) if cell.in_flight and cell.door else None


def limit_of(cell: Cell) -> Cell | None:
    """The machine's own limit for a call. No more statements run at once than the pool has
    connections, so more calls in flight are compared with that many.
    """
    limit = CALLS[cell.name].limit if cell.is_call and cell.in_flight else ""
    if limit.startswith("pgbench"):
        return Cell(limit, in_flight=min(cell.in_flight, POOL))
    return Cell(limit) if limit else None


def _limits(cell: Cell) -> list[Cell]:
    limit = limit_of(cell)
    if limit == Cell("argon2 ours"):
        return [limit, Cell("argon2 reference")]
    return [limit] if limit else []


def offered(possible: float) -> float:
    """The rate of an open loop, as a round number."""
    return float(f"{min(possible * OFFERED, MOST_OFFERED):.1g}")
