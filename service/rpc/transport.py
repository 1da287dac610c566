"""How connections behave, whichever door they come through."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # who starts Envoy without TLS has no use for cryptography's 10 MiB
    from service.rpc.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Transport:
    """Seconds and numbers; see docs/limits.md for what a mesh should know."""

    max_connection_age: int
    max_concurrent_streams: int  # of one connection
    max_concurrent_calls: int  # of all
    certificate: "Certificate | None" = None  # without one, plaintext
    shared: bool = False  # the port, with other processes


@dataclass(frozen=True, slots=True)
class Python:
    """What Envoy loads: pyvoy's library, and with it "module:attribute" of ours."""

    library: str
    application: str
