"""The session: which tokens there are, when they need renewing, what is final. No I/O.

One `Session` per client. Whoever changes it holds `lock`, which is a thread's or a task's; that
is the only difference between the two clients here. Time and chance come in as fields.
"""

import enum
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc

from sixfold.errors import (
    InvalidArgument,
    PermissionDenied,
    SixfoldError,
    Unauthenticated,
)
from sixfold.models import Tokens

# A fifth of its life is left when an access token is renewed, give or take 5 % of it, so that
# clients started together do not come back together.
RENEW_AT: Final = 0.8
JITTER: Final = 0.05

# After a renewal that failed while the old token still holds. As long as a call's default
# deadline: an outage costs one attempt per deadline, not one per call.
POSTPONE_SECONDS: Final = 5.0

# A failed login that will fail the same way next time. Not asked again until login().
FINAL: Final = (Unauthenticated, PermissionDenied, InvalidArgument)

# What a new access token can help against. "" is a proxy's verdict, which comes without a reason.
RENEWABLE: Final = frozenset({"TOKEN_EXPIRED", "TOKEN_INVALID", "SESSION_REVOKED", ""})


class Lock(Protocol):
    """What threading.Lock and asyncio.Lock have in common. Acquiring is I/O."""

    def locked(self) -> bool: ...
    def release(self) -> None: ...


class Need(enum.Enum):
    """How much a new access token is needed."""

    NOTHING = enum.auto()
    SOON = enum.auto()  # the one there is still holds: who finds the lock free renews it
    NOW = enum.auto()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client may log in with by itself."""

    username: str
    password: str = field(repr=False)


def logged_out() -> Unauthenticated:
    """The error of a call that would have to go out without a token."""
    return Unauthenticated(
        "not logged in: call login()", grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"
    )


@dataclass(slots=True, kw_only=True)
class Session:
    """See the module. `refresh_token` alone is a session that was restored and not used yet."""

    lock: Lock
    credentials: Credentials | None = None
    refresh_token: str = field(default="", repr=False)
    client_id: str = ""
    scopes: tuple[str, ...] = ()
    on_tokens: Callable[[Tokens], object] | None = None
    refresh_attempts: int = 2

    tokens: Tokens | None = None
    final: SixfoldError | None = None
    # Renewals that failed, and how the last one did: who waited for it fails alike instead of
    # asking again, one after the other.
    failures: int = 0
    failure: SixfoldError | None = None

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())

    _renew_at: float = float("inf")
    _expire_at: float = float("inf")
    _request_id: str = ""

    # Reading needs no lock, so each reader below looks at a field once: another thread may
    # replace it between two looks.

    @property
    def access_token(self) -> str:
        tokens = self.tokens
        return tokens.access_token if tokens else ""

    def check(self) -> None:
        """Raises what is final."""
        final = self.final
        if final:
            raise final.again()

    def require(self) -> Tokens:
        """The tokens. Raises what is final, or that nobody is logged in."""
        self.check()
        tokens = self.tokens
        if not tokens:
            raise logged_out()
        return tokens

    def need(self) -> Need:
        now = self.monotonic()
        if not self.tokens or now >= self._expire_at:
            return Need.NOW
        return Need.SOON if now >= self._renew_at else Need.NOTHING

    def refresh_request_id(self) -> str:
        """The same until new tokens arrive: a lost answer can be asked for again at any time.

        Random, not derived from the refresh token: whoever stole the token could derive it too,
        and the service could no longer tell a theft from a retry.
        """
        self._request_id = self._request_id or self.new_id()
        return self._request_id

    def start(self, tokens: Tokens) -> None:
        """Takes new tokens, from a login or a refresh."""
        # The times first: a thread that sees new tokens must not see them as old.
        self._schedule(tokens.access_token_expire_time.timestamp() - self.wall())
        self.tokens, self.refresh_token, self._request_id = tokens, tokens.refresh_token, ""
        self.final = self.failure = None
        if self.on_tokens:
            self.on_tokens(tokens)

    def _schedule(self, life: float) -> None:
        # `life` compares two clocks, the server's and ours. When ours is so far ahead that the
        # token looks dead on arrival, only the server knows: wait for its TOKEN_EXPIRED.
        if life <= 0:
            self._renew_at = self._expire_at = float("inf")
            return
        share = RENEW_AT + JITTER * (2 * self.chance() - 1)
        self._renew_at = self.monotonic() + life * share
        self._expire_at = self.monotonic() + life

    def postpone(self) -> None:
        """A renewal ahead of time failed. The access token holds, so try again a little later."""
        self._renew_at = self.monotonic() + POSTPONE_SECONDS

    def failed(self, error: SixfoldError) -> None:
        """A renewal failed; everybody waiting for it gets the same error."""
        self.failures += 1
        self.failure = error.again()  # not the raised one, whose traceback holds the request

    def drop(self) -> None:
        """Forgets the tokens: the service does not take them any more."""
        self.tokens, self.refresh_token, self._request_id = None, "", ""

    def end(self, reason: SixfoldError) -> None:
        """No call goes out until login(); each raises `reason`."""
        self.drop()
        self.final = reason.again()
