"""The metrics of several processes at one port, each series with the number of its process.

Each process hands out its own at a socket in a folder of its own, `<number>.<serial>`; the folders
of all lie side by side. Whichever process is asked asks them all.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST

NAME: Final = "metrics"
# Rendering takes milliseconds, and a scrape usually gives up after ten seconds.
ANSWER_SECONDS: Final = 1.0

Exposition = Callable[[], tuple[bytes, str]]


@asynccontextmanager
async def telling(folder: Path | None, own: Exposition) -> AsyncIterator[Exposition]:
    """Hand out this process' own while the block runs; gives everybody's. Without a folder there
    are no others.
    """
    if folder is None:
        yield own
        return
    others = folder.parent

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body, _type = await asyncio.to_thread(own)
        writer.write(body)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    def everybodys() -> tuple[bytes, str]:
        return merged(_ask(others)), CONTENT_TYPE_LATEST

    server = await asyncio.start_unix_server(answer, folder / NAME)
    try:
        yield everybodys
    finally:
        server.close()


def _ask(folders: Path) -> dict[str, str]:
    """The metrics of each number. Blocks; for a thread."""
    found: dict[str, str] = {}
    # The oldest first: while a process is replaced there are two of one number, and counters that
    # go back and forth would count as two restarts for each scrape.
    for path in sorted(folders.glob(f"*.*/{NAME}"), key=_age):
        number = path.parent.name.partition(".")[0]
        if number not in found:
            with suppress(OSError):
                found[number] = _read(path)
    return found


def _age(path: Path) -> int:
    return int(path.parent.name.partition(".")[2])


def _read(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(ANSWER_SECONDS)
        asking.connect(str(path))
        with asking.makefile("rb") as answer:
            return answer.read().decode()


def merged(texts: dict[str, str]) -> bytes:
    """Expositions by number as one: a family's lines together, as Prometheus' format wants them."""
    families: dict[str, list[str]] = {}
    for number, text in texts.items():
        # A family is its two comments and the lines up to the next.
        for head, lines in re.findall(r"(# HELP .*\n# TYPE .*\n)((?:[^#].*\n)*)", text):
            labelled = re.sub(r"(?m)^([\w:]+)(?:\{(.*)\})?(?= \S+$)", _label(number), lines)
            families.setdefault(head, []).append(labelled)
    return "".join(chain.from_iterable((head, *each) for head, each in families.items())).encode()


def _label(number: str) -> Callable[[re.Match[str]], str]:
    def labelled(line: re.Match[str]) -> str:
        others = f"{line[2]}," if line[2] else ""
        return f'{line[1]}{{{others}worker="{number}"}}'

    return labelled
