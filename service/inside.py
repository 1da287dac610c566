"""The serving process of the Envoy door, from inside Envoy: what `process` is for the other one.

Envoy imports this module into its own process (pyvoy) and calls `application`. Whoever started
Envoy (`service.outside`) talks through one socket: each byte it sends is a signal, and closing it
means that it is gone; back comes the exit code, should the service not start.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from service import failures, process
from service.rpc import behind_envoy
from service.rpc.behind_envoy import EnvoyDoor
from service.rpc.wire import Receive, Scope, Send
from service.settings import load
from service.telemetry import logs

# Set by service.outside: the socket's number, and the path of Envoy's admin socket.
VARIABLE: Final = "_SIXFOLD_INSIDE"
