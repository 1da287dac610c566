"""The HTTP side port: public keys for meshes, probes for schedulers, metrics for Prometheus.

Plain HTTP/1.1, also where gRPC has TLS, because Envoy and Istio fetch key sets no other way. It has
no secrets and no sessions, and belongs behind the cluster's edge: only `/.well-known/` is meant for
strangers.
"""

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import orjson

from service.http_connection import Answer, Routes


def routes(
    *,
    issuer: str,
    jwks: Callable[[], Mapping[str, object]],
    max_age: int,
    ready: Callable[[], str | None],
    metrics: Callable[[], tuple[bytes, str]],
) -> Routes:
    """What is served. `max_age` in seconds; `ready` gives the reason why not, or None."""
    cached = ("Cache-Control", f"public, max-age={max_age}")
    discovery = {
        "issuer": issuer,
        "jwks_uri": f"{issuer.rstrip('/')}/.well-known/jwks.json",
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
        "response_types_supported": [],
    }

    async def key_set() -> Answer:
        return _json(jwks(), cached)

    async def configuration() -> Answer:
        return _json(discovery, cached)

    async def livez() -> Answer:
        return Answer(b"ok")

    async def readyz() -> Answer:
        reason = ready()
        return Answer((reason or "ok").encode(), status=200 if reason is None else 503)

    rendering: asyncio.Task[tuple[bytes, str]] | None = None

    async def exposition() -> Answer:
        # In a thread, because it takes milliseconds, and one for all who ask meanwhile: a crowd of
        # them must not take all the threads there are.
        nonlocal rendering
        if rendering is None or rendering.done():
            rendering = asyncio.create_task(asyncio.to_thread(metrics))
        return Answer(*await asyncio.shield(rendering))

    known = "/.well-known"
    # OpenID Connect appends to an issuer's path, RFC 8414 puts the path at the end.
    path = unquote(urlsplit(issuer).path).rstrip("/")
    return {
        f"{known}/jwks.json": key_set,
        f"{path}{known}/jwks.json": key_set,
        f"{known}/openid-configuration": configuration,
        f"{path}{known}/openid-configuration": configuration,
        f"{known}/oauth-authorization-server": configuration,
        f"{known}/oauth-authorization-server{path}": configuration,
        "/livez": livez,
        "/readyz": readyz,
        "/metrics": exposition,
    }


def _json(document: Mapping[str, object], *headers: tuple[str, str]) -> Answer:
    return Answer(orjson.dumps(document), "application/json", headers=headers)
