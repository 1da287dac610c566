"""One process' place among several that share its ports (`sixfold serve --workers`)."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker has from its supervisor. `number` is the same for who replaces it."""

    number: int
    http: socket.socket  # listens already; whichever worker is free answers
    folder: Path  # its own, for as long as it runs, beside those of its siblings
    retired: asyncio.Event  # its siblings stay: whoever asks need not be told that it goes
    ready: Callable[[], None]  # called at each look that finds it ready
