"""Ports, before anybody answers at them."""

import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def listening(host: str, port: int) -> socket.socket:
    """Bind and listen, at one address: IPv4's of a name that has both. "::" also takes IPv4, and
    means only that on a machine without IPv6. Raises OSError with a line for whoever chose it.
    """
    with _explained(host, port):
        return _listening(host, port)


def _listening(host: str, port: int) -> socket.socket:
    with suppress(ValueError):  # "::ffff:10.0.0.1", which a socket for IPv6 alone would refuse
        host = str(getattr(ipaddress.ip_address(host), "ipv4_mapped", None) or host)
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    if host == "::":
        host = ""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return socket.create_server((host, port), family=min(each[0] for each in found))


def found_free(address: str) -> str:
    """`address`, as numbers. Raises OSError with a line for whoever chose it."""
    host, port = _parted(address)
    with listening(host, port) as bound:
        return _spelled(bound.getsockname()[0], port)


def reserved(address: str) -> socket.socket:
    """Keep a port for several who listen at it, this process or those it starts. None of its
    connections come here, and nobody else can bind it, but for a program of the same user that
    shares it, too (SO_REUSEPORT) and does not ask first, as this does. `address` is "host:port".
    Raises OSError with a line for whoever chose it.
    """
    host, port = _parted(address)
    with _explained(host, port):
        return _reserved(host, port)


def address(bound: socket.socket) -> str:
    """Where it is, as "host:port"."""
    return _spelled(*bound.getsockname()[:2])


def _spelled(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parted(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    address = _spelled(host, port)
    try:
        yield
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {address}: there is no such host") from error
    except OSError as error:
        raise OSError(f"cannot listen on {address}; is the port in use?") from error


def _reserved(host: str, port: int) -> socket.socket:
    # Listening is the one question that everybody at the port answers.
    with _listening(host, port) as alone:
        family, at = alone.family, alone.getsockname()
        only_six = family == socket.AF_INET6 and alone.getsockopt(*_ONLY_SIX)
    held = socket.socket(family)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(*_ONLY_SIX, only_six)
        # The first gets past what connections of earlier processes have left, and is taken back
        # because it would let others in until somebody listens.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(at)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        held.close()
        raise
    return held


def stop_listening(port: int) -> None:
    """Take this process' own listening sockets from a port that is shared, at once: the next
    connection goes to others there, or is refused. What accepts here must bear it.
    """
    with suppress(OSError):
        for path in list(Path("/dev/fd").iterdir()):
            with suppress(OSError):
                _stop_listening(int(path.name), port)


def _stop_listening(descriptor: int, port: int) -> None:
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        with socket.socket(fileno=os.dup(descriptor)) as each:
            listens = each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            shares = each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)  # the HTTP port not
            if listens and shares and each.getsockname()[1] == port:
                each.shutdown(socket.SHUT_RD)


_ONLY_SIX = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
