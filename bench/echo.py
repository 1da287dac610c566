"""The least a door can do: answer with the bytes that came. What everything is compared with."""

import asyncio
import json
from typing import Any

import grpc
import grpc.aio

from bench import calls
from service.loop import new_loop


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def serve() -> None:
    """Serve on a free port until killed, on the event loop that `sixfold serve` uses."""
    server = grpc.aio.server()
    _, service, method = calls.ECHO.path.split("/")
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"message": "serving", "grpc_port": port}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())
