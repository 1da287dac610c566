"""Identifiers: UUIDv7 (RFC 9562, section 5.7). Python has its own from 3.14 on."""

from datetime import datetime
from uuid import UUID


def uuid7(now: datetime, entropy: bytes) -> UUID:
    """48 bits of milliseconds, then 74 of the 80 bits of `entropy` (10 bytes)."""
    milliseconds = int(now.timestamp() * 1000)
    value = milliseconds.to_bytes(6, "big") + entropy
    number = int.from_bytes(value, "big")
    number = number & ~(0xF << 76) | (0x7 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=number)
