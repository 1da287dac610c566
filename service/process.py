"""One serving process: its event loop, its signals, its end."""

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TextIO

from service import app
from service.app import Ports
from service.settings import Settings

log = logging.getLogger("sixfold")


# `app.serving`, or with more of its arguments given.
Serving = Callable[..., AbstractAsyncContextManager[Ports]]


def handle_signals(on_signal: Callable[[], None]) -> None:
    """Have it called at SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


async def serve(
    settings: Settings,
    log_stream: TextIO,
    *,
    up: Callable[[Ports], Awaitable[None]] | None = None,
    signals: Callable[[Callable[[], None]], None] = handle_signals,
    serving: Serving = app.serving,
) -> None:
    """Serve until a signal, then drain; a second one cuts the draining short. `up` is awaited once
    the ports are open.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    signals(on_signal)
    async with serving(settings, log_stream, hurry=hurry) as ports:
        # What is there now stays: the collector need not walk it again at each pass. And calls
        # leave it no work (tests/rpc/test_garbage.py), so it need not look at every 700 objects:
        # with a hundred calls in flight that finds nothing and costs each of them 9 µs.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        log.info("serving", extra={"grpc_port": ports.grpc, "http_port": ports.http})
        if up:
            await up(ports)
        await stop.wait()
        log.info("stopping")
    log.info("stopped")
