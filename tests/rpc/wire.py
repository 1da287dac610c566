"""What the tests of this folder share: bytes on the wire, statements sent, and time that passes."""

import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import grpc

from tests.conftest import Api, execute

# How asyncpg learns array types: three statements, once for each connection.
LEARNING = ("WITH RECURSIVE typeinfo_tree(", "set_config('jit'")


def raw(api: Api, method: str, data: bytes = b"", metadata: Any = ()) -> Any:
    """A call by name and bytes, as a client in any language or none can make it."""
    call: Any = api.channel.unary_unary(f"/{method}")
    return call(data, metadata=metadata)


async def code(call: Any) -> grpc.StatusCode:
    """How a call ended, whichever way."""
    with suppress(grpc.RpcError):
        await call
    ended: grpc.StatusCode = await call.code()
    return ended


async def statements(api: Api, call: Awaitable[Any]) -> list[str]:
    """What the server sends to Postgres for one call, refused or not."""
    start = len(api.queries)
    with suppress(grpc.RpcError):
        await call
    return [query for query in api.queries[start:] if not any(text in query for text in LEARNING)]


async def later(database_url: str, seconds: float) -> None:
    """Let time pass for every session there is, by moving what they remember into the past."""
    ago = f"interval '{seconds} seconds'"
    await execute(
        database_url,
        f"""UPDATE sessions
               SET create_time = create_time - {ago}, refresh_time = refresh_time - {ago},
                   idle_expire_time = idle_expire_time - {ago}, expire_time = expire_time - {ago},
                   end_time = end_time - {ago}""",
    )


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A way into the database past the server."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


def raw_call(
    path: str, entries: list[tuple[bytes, bytes]], settings: bytes = b"", message: bytes = b""
) -> bytes:
    """A connection with one call as HTTP/2, with header values that no gRPC library would send (RFC
    7541 6.2.2), or settings (RFC 9113 6.5.1).
    """

    def text(data: bytes) -> bytes:
        size = len(data)
        if size < 127:
            return bytes([size]) + data
        low, high = (size - 127) & 127, (size - 127) >> 7
        return bytes([127, low | 128, high]) + data

    block = b"\x83\x86"  # :method POST, :scheme http
    every = [(b":path", path.encode()), (b":authority", b"x"), (b"te", b"trailers")]
    every += [(b"content-type", b"application/grpc"), *entries]
    block += b"".join(b"\0" + text(name) + text(value) for name, value in every)
    frame = struct.pack(">I", len(block))[1:] + b"\x01\x04" + struct.pack(">I", 1) + block
    data = b"\0" + struct.pack(">I", len(message)) + message
    data = struct.pack(">I", len(data))[1:] + b"\0\x01" + struct.pack(">I", 1) + data
    settings = struct.pack(">I", len(settings))[1:] + b"\x04\0\0\0\0\0" + settings
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame + data
