"""Ports: one line for whoever chose one that cannot be had."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from service import sockets


def listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return sockets.listening(host, int(port))


WAYS = [listening, sockets.found_free, sockets.reserved]


@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_nobody_has_is_said_to_be_none(way: Callable[[str], Any]) -> None:
    with pytest.raises(OSError, match=r"^cannot listen on none\.invalid:1: there is no such host$"):
        way("none.invalid:1")


@pytest.mark.parametrize("way", WAYS)
def test_a_port_that_somebody_has_is_said_to_be_taken(way: Callable[[str], Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"^cannot listen on 127\.0\.0\.1:{port}; is the port in"
        ):
            way(f"127.0.0.1:{port}")
