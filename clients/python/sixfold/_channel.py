"""What a channel is opened with: the check against plaintext, the options, the service config."""

import ipaddress
from importlib import resources
from typing import Final

# Longer than the 5 minutes that servers with gRPC's defaults punish (GOAWAY too_many_pings), and
# shorter than the 350 s after which common load balancers forget a flow. Only with calls in
# flight: without any, such servers allow one ping in two hours.
KEEPALIVE_MS: Final = 330_000
# On Linux it is also TCP_USER_TIMEOUT: a peer that does not acknowledge for so long is given up.
KEEPALIVE_TIMEOUT_MS: Final = 20_000
# A page ends at 1 MiB of values; gRPC's own default, stated because pages depend on it.
MAX_RECEIVE_BYTES: Final = 4 * 1024 * 1024


def options(target: str, *, retry: bool, plaintext: bool) -> list[tuple[str, str | int]]:
    config = resources.files("sixfold").joinpath("service_config.json").read_text("utf-8")
    chosen: list[tuple[str, str | int]] = [
        ("grpc.service_config", config),
        ("grpc.enable_retries", int(retry)),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ]
    if plaintext and is_loopback(target):
        # An http_proxy in the environment would carry loopback plaintext off the machine.
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen


def refuse_plaintext(target: str) -> None:
    """Raises ValueError when a password sent to `target` in clear would leave the machine."""
    if not is_loopback(target):
        raise ValueError(
            f"{target!r} is not a loopback address, and passwords and tokens would travel in "
            "clear. Give credentials=grpc.ssl_channel_credentials() (SIXFOLD_TLS_ROOTS=file.pem), "
            "or, inside a network that encrypts by itself, allow_plaintext=True "
            "(SIXFOLD_ALLOW_PLAINTEXT=1)."
        )


def is_loopback(target: str) -> bool:
    """Whether every address of a gRPC target is on this machine. In doubt, no."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if scheme not in ("dns", "ipv4", "ipv6"):
        rest = target
    elif rest.startswith("//"):
        # dns://authority/name asks a name server of the target's choice: it could say anything.
        authority, _, rest = rest.removeprefix("//").partition("/")
        if authority:
            return False
    return all(_is_loopback_host(_host(address)) for address in rest.split(","))


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def _is_loopback_host(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
