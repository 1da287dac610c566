"""The side port over a real socket, as Envoy, Kubernetes and Prometheus see it."""

import asyncio
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from service import http_port, http_server
from service.http_connection import Routes

ISSUER = "https://id.example.com"
KEYS = {"keys": [{"kty": "EC", "kid": "k1"}]}
LOOPBACK = "127.0.0.1"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def routes(
    issuer: str = ISSUER,
    ready: Callable[[], str | None] = lambda: None,
    jwks: Callable[[], dict[str, object]] = lambda: dict(KEYS),
    metrics: Callable[[], tuple[bytes, str]] = lambda: (b"up 1\n", PROMETHEUS),
) -> Routes:
    return http_port.routes(
        issuer=issuer,
        jwks=jwks,
        max_age=300,
        ready=ready,
        metrics=metrics,
    )


async def ask(port: int, path: str, method: str = "GET", host: str = LOOPBACK) -> Answer:
    def blocking() -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request(method, path)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    return await asyncio.to_thread(blocking)


async def test_the_key_set_may_be_cached_for_as_long_as_told() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        answer = await ask(port, "/.well-known/jwks.json")

    assert (answer.status, json.loads(answer.body)) == (200, KEYS)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=300"


async def test_a_new_key_is_in_the_next_answer() -> None:
    keys: dict[str, object] = {"keys": []}
    async with http_server.serving(routes(jwks=lambda: keys), LOOPBACK, 0) as port:
        await ask(port, "/.well-known/jwks.json")
        keys["keys"] = ["new"]
        answer = await ask(port, "/.well-known/jwks.json")

    assert json.loads(answer.body) == {"keys": ["new"]}


@pytest.mark.parametrize(
    "path", ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
)
async def test_discovery_leads_to_the_key_set(path: str) -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        answer = await ask(port, path)

    assert json.loads(answer.body) == {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
        "response_types_supported": [],
    }


@pytest.mark.parametrize("issuer", [f"{ISSUER}/auth", f"{ISSUER}/auth/"])
async def test_an_issuer_with_a_path_is_found_where_the_standards_look(issuer: str) -> None:
    async with http_server.serving(routes(issuer), LOOPBACK, 0) as port:
        openid = await ask(port, "/auth/.well-known/openid-configuration")
        oauth = await ask(port, "/.well-known/oauth-authorization-server/auth")
        keys = await ask(port, "/auth/.well-known/jwks.json")

    assert json.loads(openid.body)["jwks_uri"] == f"{ISSUER}/auth/.well-known/jwks.json"
    assert json.loads(oauth.body)["issuer"] == issuer
    assert json.loads(keys.body) == KEYS


async def test_liveness_does_not_depend_on_readiness() -> None:
    known = routes(ready=lambda: "database away")
    async with http_server.serving(known, LOOPBACK, 0) as port:
        live, ready = await ask(port, "/livez"), await ask(port, "/readyz")

    assert (live.status, live.body) == (200, b"ok")
    assert (ready.status, ready.body) == (503, b"database away")
    assert ready.headers["content-type"].startswith("text/plain")


async def test_readiness_is_asked_every_time() -> None:
    reasons = iter(["starting", None, ""])
    async with http_server.serving(routes(ready=lambda: next(reasons)), LOOPBACK, 0) as port:
        answers = [(await ask(port, "/readyz")).status for _ in range(3)]

    assert answers == [503, 200, 503]


async def test_metrics_come_with_their_own_content_type() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        answer = await ask(port, "/metrics")

    assert (answer.status, answer.body) == (200, b"up 1\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_head_has_the_headers_and_no_body() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        answers = [await ask(port, path, "HEAD") for path in ("/livez", "/metrics")]

    assert [(answer.status, answer.body) for answer in answers] == [(200, b"")] * 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/livez", 405),
        ("DELETE", "/.well-known/jwks.json", 405),
        ("GET", "/", 404),
        ("GET", "/livez/", 404),
        ("GET", "//livez", 404),
        ("GET", "//x/livez", 404),
        ("GET", "/docs", 404),
        ("POST", "/docs", 404),
    ],
)
async def test_nothing_else_is_served(method: str, path: str, status: int) -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        answer = await ask(port, path, method)

    assert answer.status == status
    assert answer.headers["content-type"].startswith("text/plain")


async def test_every_answer_forbids_sniffing_and_none_names_the_server() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        answers = [await ask(port, path) for path in ("/livez", "/nowhere", "/metrics")]

    assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in answers)
    assert not any("server" in answer.headers for answer in answers)


async def test_a_taken_port_is_an_oserror_for_the_caller() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        with pytest.raises(OSError, match="is the port in use"):
            async with http_server.serving(routes(), LOOPBACK, port):
                pass


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_every_address_means_both_ip_versions() -> None:
    async with http_server.serving(routes(), "::", 0) as port:
        four, six = await ask(port, "/livez"), await ask(port, "/livez", host="::1")

    assert (four.status, six.status) == (200, 200)


async def test_every_address_is_ipv4_where_there_is_no_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)

    async with http_server.serving(routes(), "::", 0) as port:
        answer = await ask(port, "/livez")

    assert answer.status == 200


async def test_signals_stay_with_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async with http_server.serving(routes(), LOOPBACK, 0):
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert during == before


async def test_the_port_is_free_again_after_the_block() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        await ask(port, "/livez")

    async with http_server.serving(routes(), LOOPBACK, port) as again:
        assert (again, (await ask(again, "/livez")).status) == (port, 200)


async def test_an_error_in_the_block_reaches_the_caller_and_stops_the_server() -> None:
    with pytest.raises(KeyError):
        async with http_server.serving(routes(), LOOPBACK, 0) as port:
            raise KeyError

    with pytest.raises(ConnectionRefusedError):
        await ask(port, "/livez")


async def test_clients_that_linger_do_not_delay_the_stop() -> None:
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        _, idle = await asyncio.open_connection(LOOPBACK, port)
        _, half = await asyncio.open_connection(LOOPBACK, port)
        half.write(b"GET /livez HTTP/1.1\r\nHost:")
        await half.drain()
        leaving = time.monotonic()
    took = time.monotonic() - leaving

    for writer in (idle, half):
        writer.close()
    assert took < 2.5


async def test_a_crowd_that_wants_metrics_takes_one_thread() -> None:
    running, most = 0, 0

    def metrics() -> tuple[bytes, str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.1)
        running -= 1
        return b"up 1\n", "text/plain"

    async with http_server.serving(routes(metrics=metrics), LOOPBACK, 0) as port:
        answers = await asyncio.gather(*(ask(port, "/metrics") for _ in range(5)))

    assert {answer.body for answer in answers} == {b"up 1\n"}
    assert most == 1


async def test_a_broken_key_source_is_a_500_without_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("canary")

    async with http_server.serving(routes(jwks=broken), LOOPBACK, 0) as port:
        answer = await ask(port, "/.well-known/jwks.json")
        alive = await ask(port, "/livez")

    assert (answer.status, alive.status) == (500, 200)
    assert b"canary" not in answer.body
    assert "canary" in caplog.text


async def test_requests_are_not_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    async with http_server.serving(routes(), LOOPBACK, 0) as port:
        await ask(port, "/livez")

    assert (caplog.text, *capsys.readouterr()) == ("", "", "")
