"""The table as a picture: how fast each call is, as a multiple of a bare grpc.aio echo."""

from collections.abc import Sequence
from html import escape
from typing import Final

from bench.table import Row

WIDTH, BAR, GAP, LEFT, RIGHT, TOP = 760, 16, 6, 260, 60, 56
BLUE, GREY, INK = "#3b6ea8", "#b8bec6", "#24292f"
# Readable on a light and on a dark page: the picture brings its own.
_STYLE: Final = "font: 13px system-ui, sans-serif; background: white"


def svg(rows: Sequence[Row], caption: str) -> str:
    """Bars, grouped by call, from the loads that have a ratio. A login is a hash, and no echo."""
    bars = [
        row
        for row in rows
        if row.of_echo is not None and not row.complaints and row.name != "Login"
    ]
    longest = max((row.of_echo or 0 for row in bars), default=1)
    scale = (WIDTH - LEFT - RIGHT) / longest
    parts, y, before = [], TOP, ""
    for row in bars:
        y += GAP * 2 if before and row.name != before else 0
        parts += _bar(row, y, scale, first=row.name != before)
        y, before = y + BAR + GAP, row.name
    line = LEFT + scale  # where a bare echo is
    size = f'width="{WIDTH}" height="{y + 16}" viewBox="0 0 {WIDTH} {y + 16}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{_STYLE}" role="img">',
            f'<rect width="{WIDTH}" height="{y + 16}" fill="white"/>',
            _text(12, 22, "Calls a second, as a multiple of a bare grpc.aio echo", bold=True),
            _text(12, 42, caption),
            f'<path d="M{line:.0f} {TOP - 6}V{y}" stroke="{INK}" stroke-dasharray="3 3"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _bar(row: Row, y: float, scale: float, *, first: bool) -> list[str]:
    ratio = row.of_echo or 0
    label = f"{row.name} " if first else ""
    colour = GREY if row.name == "echo" else BLUE
    return [
        _text(12, y + 13, label, bold=True),
        _text(LEFT - 8, y + 13, f"{row.door}, {row.load} in flight", end=True),
        f'<rect x="{LEFT}" y="{y}" width="{ratio * scale:.1f}" height="{BAR}" fill="{colour}"/>',
        _text(LEFT + ratio * scale + 6, y + 13, f"{ratio:.2f}"),
    ]


def _text(x: float, y: float, words: str, *, bold: bool = False, end: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{INK}"{weight}{anchor}>{escape(words)}</text>'
