"""Reads what the documents say, so that tests can hold them to it."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BIN = ROOT / ".venv" / "bin"
README = ROOT / "README.md"
CLIENT_README = ROOT / "clients" / "python" / "README.md"
DOCUMENTS = [README, CLIENT_README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# Where every example in the documents calls.
ADDRESS = "127.0.0.1:50051"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    path: Path
    language: str
    text: str

    @property
    def title(self) -> str:
        return f"{self.path.relative_to(ROOT)}: {self.text.splitlines()[0]}"


def blocks(path: Path) -> Iterator[Block]:
    """Every fenced block, in order."""
    for language, text in _FENCE.findall(path.read_text()):
        yield Block(path, language, text)


def block(path: Path, snippet: str) -> Block:
    """The one block that has `snippet` in it."""
    (found,) = [each for each in blocks(path) if snippet in each.text]
    return found


def prose(path: Path) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def code(path: Path) -> list[str]:
    """Everything between single backquotes."""
    return _CODE.findall(prose(path))


def links(path: Path) -> list[str]:
    """Where the document's links lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


def rows(path: Path, header: str) -> list[list[str]]:
    """The cells of the table that has `header` in its first line."""
    lines = path.read_text().split(header, 1)[1].splitlines()[2:]
    table = lines[: lines.index("")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def clean_environment(**added: str) -> dict[str, str]:
    """Of a person who has a shell and no settings of ours; `sixfold` is on the PATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SIXFOLD_", "MAKE", "MFLAGS"))}
    return kept | {"PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}"} | added
