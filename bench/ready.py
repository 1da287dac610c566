"""Waiting for a server from outside, as a client would."""

import socket
import time
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sixfold.auth.v1 import auth_pb2, auth_pb2_grpc

from bench.children import START_SECONDS, BenchError

SERVICES: Final = ("sixfold.auth.v1.AuthService", "sixfold.data.v1.DataService")
POLL_SECONDS: Final = 0.002
# gRPC waits a second after a refused connection; who measures a start must not.
IMPATIENT: Final = [(f"grpc.{when}_reconnect_backoff_ms", 10) for when in ("initial", "min", "max")]


def serving(target: str) -> None:
    """Return when grpc.health says SERVING for both services. Raises BenchError."""
    deadline = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(target, IMPATIENT) as channel:
        check: Any = health_pb2_grpc.HealthStub(channel).Check
        for service in SERVICES:
            request = health_pb2.HealthCheckRequest(service=service)
            while check(request, timeout=5, wait_for_ready=True).status != _SERVING:
                if time.monotonic() > deadline:
                    raise BenchError(f"{service} is not serving")
                time.sleep(POLL_SECONDS)


_SERVING: Final = health_pb2.HealthCheckResponse.SERVING


def answering(target: str) -> None:
    """Return when a call is answered. Raises BenchError."""
    with grpc.insecure_channel(target, IMPATIENT) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        request = auth_pb2.GetJsonWebKeySetRequest()
        try:
            stub.GetJsonWebKeySet(request, timeout=START_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise BenchError(f"no answer: {error}") from error


def free_ports() -> tuple[int, int]:
    """Free now; nobody can promise more."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]
