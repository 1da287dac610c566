"""What surrounds a call, in one order: Metrics( Errors( Auth( Deadline( Validate( handler ))))).

A layer takes the method's name and what it surrounds, and returns the two as one; the stack of a
method is built once, so what a method is allowed costs nothing per call. Layers know a Call, not a
server: any door that can make one can use them. Metrics is outermost, so it counts refusals too.
Errors is next and alone turns exceptions into statuses; the others raise domain errors like
everybody else. Deadline and Validate have files of their own: deadlines.py, validation.py.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from grpc import StatusCode

from service.domain import tokens
from service.domain.errors import (
    DomainError,
    Internal,
    NotReady,
    ScopeMissing,
    TokenInvalid,
    TokenMissing,
)
from service.domain.models import Caller
from service.domain.tokens import TokenPolicy
from service.rpc import caller, failure, policy
from service.rpc.verified import VerifiedTokens
from service.store.keyring import Keyring
from service.telemetry.logs import AccessLog, bind, security_event
from service.telemetry.metrics import Metrics

log = logging.getLogger("sixfold.rpc")


@dataclass(slots=True)
class Call:
    """One call, as a door hands it in and as layers annotate it."""

    request_id: str
    peer: str
    authorization: Sequence[str]  # the values of that name in its metadata
    time_remaining: float | None  # seconds until the caller gives up; None: never
    context: Any  # the door's own, for servicers that are not ours
    code: StatusCode = StatusCode.OK
    reason: str = ""
    received: int = 0
    sent: int = 0
    caller: Caller | None = None

    async def refuse(self, error: DomainError) -> None:
        """End the call with this error, by the door's own exception."""
        self.code, self.reason = failure.code_and_reason(error)
        status = failure.status(error, self.request_id)
        trailers = [("grpc-status-details-bin", status.SerializeToString())]
        if self.code is StatusCode.UNAUTHENTICATED:
            trailers.append(("www-authenticate", 'Bearer error="invalid_token"'))  # RFC 6750
        await self.context.abort(self.code, status.message, tuple(trailers))


# From the request's bytes (an iterator of them, for a client stream) to the answer's, or to None
# where answers were streamed.
Handler = Callable[[Any, Call], Awaitable[bytes | None]]
Layer = Callable[[str, Handler], Handler]


def metrics(measures: Metrics, access_log: AccessLog) -> Layer:
    """Count, time and log every call, refused ones too: those that end in one turn of the event
    loop together, once their answers are on their way.
    """
    ended: list[tuple[str, Call, float]] = []

    def tell() -> None:
        calls = [(method, call, call.code.name, seconds) for method, call, seconds in ended]
        ended.clear()
        access_log(
            *[
                {
                    "method": method,
                    "code": code,
                    "reason": call.reason,
                    "duration_ms": int(seconds * 1e6) / 1000,
                    "request_id": call.request_id,
                    "user_id": call.caller.ids[0] if call.caller else None,
                    "peer": call.peer,
                }
                for method, call, code, seconds in calls
            ]
        )
        for method, call, code, seconds in calls:
            measures.ended(method, code, seconds, call.received, call.sent)

    def layer(method: str, inner: Handler) -> Handler:
        async def measured(request: Any, call: Call) -> bytes | None:
            start = time.perf_counter()
            bind(call)
            measures.started(method)
            try:
                return await inner(request, call)
            except asyncio.CancelledError:
                call.code = StatusCode.CANCELLED
                raise
            finally:
                if not ended:
                    asyncio.get_running_loop().call_soon(tell)
                ended.append((method, call, time.perf_counter() - start))

        return measured

    return layer


def errors(aborts: tuple[type[BaseException], ...]) -> Layer:
    """End a call with the status of what was raised. What nobody foresaw becomes INTERNAL with no
    more than a request id: grpc would send the exception's text. `aborts` is what a door raises
    when a handler of somebody else's (health, reflection) has ended the call itself.
    """

    def layer(method: str, inner: Handler) -> Handler:
        async def translated(request: Any, call: Call) -> bytes | None:
            try:
                return await inner(request, call)
            except DomainError as error:
                refusal = error
            except aborts:
                call.code = call.context.code()
                raise
            except Exception:
                log.exception("%s failed", method, extra={"request_id": call.request_id})
                refusal = Internal()
            await call.refuse(refusal)
            return None

        return translated

    return layer


def auth(token_policy: TokenPolicy, keyring: Keyring, now: Callable[[], datetime]) -> Layer:
    """Verify the bearer token and its scope, unless the method is public. Raises LookupError at
    start for a method the tables do not know.
    """
    memo = VerifiedTokens(token_policy)

    async def looked_up(token: str) -> Caller:
        """For a token of a key that this process may not have heard of yet."""
        await keyring.refetch()
        if not keyring.current.keys:
            # Started before its database: a good token must not look like a bad one.
            raise NotReady
        return memo.caller(keyring.current, token, now())

    def layer(method: str, inner: Handler) -> Handler:
        if method in policy.PUBLIC:
            return inner
        scope = policy.SCOPES[method]

        def allowed(request: Any, call: Call, who: Caller) -> Awaitable[bytes | None]:
            call.caller = who
            if scope and scope not in who.scopes:
                security_event("authz_fail", user_id=who.ids[0], scope=scope)
                raise ScopeMissing(scope)
            caller.set_current(who)
            return inner(request, call)

        async def authenticated_later(request: Any, call: Call, token: str) -> bytes | None:
            return await allowed(request, call, await looked_up(token))

        # Not a coroutine of its own where there is nothing to wait for, which is nearly always.
        def authenticated(request: Any, call: Call) -> Awaitable[bytes | None]:
            token = bearer(call.authorization)
            try:
                who = memo.caller(keyring.current, token, now())
            except TokenInvalid:
                kid = tokens.key_id(token)
                if kid is None or keyring.current.public_key(kid, now()) is not None:
                    raise
                return authenticated_later(request, call, token)
            return allowed(request, call, who)

        return authenticated

    return layer


def bearer(values: Sequence[str]) -> str:
    """The token in `authorization: Bearer <token>` (RFC 6750; the scheme in any case).

    Raises TokenMissing when there is none, TokenInvalid when there are several or another scheme:
    which of two tokens counts must not depend on who reads them.
    """
    if not values:
        raise TokenMissing
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token:
        raise TokenInvalid
    return token
