"""The least a door can do: answer with the bytes that came. What everything is compared with."""

import argparse
import asyncio
import json
from typing import Any

import grpc
import grpc.aio

from bench import calls
from service.loop import new_loop


def announce(port: int) -> None:
    """Say where, as `sixfold serve` does."""
    print(json.dumps({"message": "serving", "grpc_port": port}), flush=True)


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def serve() -> int:
    """Serve on a free port until killed."""
    server = grpc.aio.server()
    _, service, method = calls.ECHO.path.split("/")
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce(port)
    await server.wait_for_termination()
    return 0


def main() -> int:
    """Serve until a signal, on the event loop that `sixfold serve` uses."""
    parser = argparse.ArgumentParser(prog="python -m bench.echo", description=__doc__)
    parser.add_argument("--door", choices=("grpcio", "envoy"), default="grpcio")
    serving = serve
    if parser.parse_args().door == "envoy":
        from bench import echo_envoy  # here, because it would make the other one larger

        serving = echo_envoy.serve
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(serving())


if __name__ == "__main__":
    raise SystemExit(main())
