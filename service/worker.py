"""One of several serving processes. The supervisor starts `python -m service.worker DOOR`."""

import asyncio
import os
import signal
import sys
from functools import partial

from service import settings
from service.control import Starter


def main() -> int:
    """The exit code."""
    starter = Starter(os.environ)
    try:
        return envoy(starter) if sys.argv[1:] == ["envoy"] else grpcio(starter)
    except Exception as error:
        return starter.failed(error)


def grpcio(starter: Starter) -> int:
    """Serve until told otherwise."""
    from service import app, process
    from service.loop import new_loop

    # Who signals a whole group of processes, as systemd does, has signalled the supervisor, too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    chosen = settings.load(os.environ)
    starter.configure_logs(chosen)
    serving = partial(app.serving, place=starter.place)
    work = process.serve(chosen, sys.stdout, up=starter.up, signals=starter.listen, serving=serving)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work)
    return 0


def envoy(starter: Starter) -> int:
    """Become Envoy, with the service in it."""
    from service import envoy_launcher

    chosen = settings.load(os.environ)
    words, environ = envoy_launcher.command(chosen, starter.folder, shared=True)
    os.execve(words[0], words, environ)  # noqa: S606  (no shell)


if __name__ == "__main__":
    raise SystemExit(main())
