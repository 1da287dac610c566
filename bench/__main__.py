"""`python -m bench`: one table of what the service does and what the machine could do."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench import goals, plan, plot, run, table, world
from bench.calls import CALLS
from bench.children import ROOT, BenchError
from bench.table import Rounds, Row
from bench.world import DOORS

BEGIN, END = "<!-- bench: generated -->\n", "<!-- end -->"
PAGE: Final = ROOT / "docs" / "performance.md"
PICTURE: Final = ROOT / "docs" / "performance.svg"
TOKEN_SECONDS: Final = 3300  # an access token lives an hour, and none is renewed


def main() -> int:
    """Returns the exit code: 1 when an answer was wrong or the bench could not run."""
    options = _options()
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (0.4 if options.quick else 4.0)
    cells = plan.cells(options.door, options.only, quick=options.quick)
    if rounds * sum(cell.windows * seconds + 2 for cell in cells) > TOKEN_SECONDS:
        print(
            "bench: that would take an hour; fewer --rounds, --seconds or --only", file=sys.stderr
        )
        return 2
    started = time.monotonic()
    try:
        with world.running(options.door) as running:
            found = run.rounds(running, cells, rounds, seconds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    rows = table.rows(found)
    about = _about(rounds, seconds)
    verdicts = goals.text(goals.goals(rows, options.door))
    print(table.text(rows), verdicts, _caption(about), sep="\n\n")
    print(f"bench: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if options.save:
        _save(options.save, about, rows, found)
    if options.plot or options.save_docs:
        (options.plot or PICTURE).write_text(plot.svg(rows, _caption(about)))
    if options.save_docs:
        _save_docs(about, rows, verdicts)
    return 1 if any(row.complaints for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="3 short rounds of what the goals need, under two minutes",
    )
    add("--door", type=_names(DOORS), default=list(DOORS), help="which doors, comma between")
    add("--only", type=_names(CALLS), default=list(CALLS), help="which calls, comma between")
    add("--seconds", type=float, help="length of most windows; 4, or 0.4 with --quick")
    add("--rounds", type=int, help="how often each cell is measured; 7, or 3 with --quick")
    add("--save", metavar="NAME", help="keep everything in bench/results/NAME.json")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the ratios")
    add("--save-docs", action="store_true", help="put table and plot into docs/performance.md")
    return parser.parse_args()


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """A list of known names, comma between."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            known_names = ", ".join(known)
            raise ArgumentTypeError(f"unknown: {', '.join(unknown)} (there are {known_names})")
        return names

    return parse


def _about(rounds: int, seconds: float) -> dict[str, object]:
    """What numbers are worthless without."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "rounds": rounds,
        "seconds": seconds,
    }


def _caption(about: dict[str, object]) -> str:
    return (
        f"medians of {about['rounds']} rounds of {about['seconds']:g} s, {about['machine']},"
        f" Python {about['python']}, grpcio {about['grpcio']}, {about['commit']}"
    )


def _save(name: str, about: dict[str, object], rows: Sequence[Row], found: Rounds) -> None:
    """Everything that was seen, so that another question can be asked of it later."""
    rounds = [
        asdict(cell) | {"rounds": [asdict(each) for each in seen]} for cell, seen in found.items()
    ]
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    document = {"about": about, "table": [asdict(row) for row in rows], "cells": rounds}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def _save_docs(about: dict[str, object], rows: Sequence[Row], verdicts: str) -> None:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    parts = [
        f"M{_caption(about)[1:]}.",
        table.markdown(rows),
        f"```text\n{verdicts}\n```",
        f"![Each call as a multiple of a bare echo]({PICTURE.name})",
    ]
    PAGE.write_text(head + BEGIN + "\n\n".join(parts) + "\n" + END + tail)


if __name__ == "__main__":
    raise SystemExit(main())
