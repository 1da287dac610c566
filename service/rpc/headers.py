"""How gRPC spells what headers hold (PROTOCOL-HTTP2.md): timeouts, and metadata, text or binary."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, TypeAlias

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def seconds(timeout: bytes) -> float | None:
    """What grpc-timeout says. A malformed one counts as none, as in gRPC's own servers."""
    match = _TIMEOUT.fullmatch(timeout)
    return int(match[1]) * _UNIT[match[2]] if match else None


def metadata(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    """A header as entries of metadata: none, or several, where a proxy has joined binary ones."""
    if not name.endswith(b"-bin"):
        return [(name.decode("latin-1"), value.decode("latin-1"))]
    found: list[tuple[str, str | bytes]] = []
    for each in value.split(b","):
        with suppress(binascii.Error):
            found.append((name.decode("latin-1"), b64decode(each.strip() + b"==")))
    return found


def encoded(metadata: Metadata) -> Headers:
    """Metadata as headers."""
    return [
        (
            key.lower().encode(),
            b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode(),
        )
        for key, value in metadata
    ]
