"""grpc.health.v1 in a few bytes, so that nobody installs a package for one enum.

`channel_ready` would only say that a port accepts connections. Health/Check says that the process
behind it has its database and its keys, which is what a program waits for when it starts.
"""

from collections.abc import Callable
from typing import Any, Final

METHOD: Final = "/grpc.health.v1.Health/Check"

# HealthCheckRequest{service: 1}. The service's name asks for readiness; "" would ask for liveness.
_SERVICE: Final = b"sixfold.data.v1.DataService"
REQUEST: Final = b"\x0a" + bytes([len(_SERVICE)]) + _SERVICE

# HealthCheckResponse{status: 1} with SERVING = 1. An unset status is UNKNOWN and empty.
_SERVING: Final = b"\x08\x01"


class HealthStub:
    """A stub as grpcio-tools would make it, with bytes for messages."""

    def __init__(self, unary_unary: Callable[[str], Any]) -> None:
        """`unary_unary` is a channel's, sync or aio; without serializers it passes bytes."""
        self.Check = unary_unary(METHOD)


def serving(response: bytes) -> bool:
    return response == _SERVING
