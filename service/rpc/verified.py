"""The memo "this exact token text has a valid signature until exp": verifying takes 0.1 ms, a look
here is 1 µs. It says nothing about revocation, which only Postgres knows.
"""

from datetime import datetime
from typing import Final

from service.domain import tokens
from service.domain.keys import KeySet
from service.domain.models import Caller
from service.domain.tokens import TokenPolicy

# Some 15 MB when full. Beyond it the oldest goes first: whoever still calls is verified again.
SIZE: Final = 10_000


class VerifiedTokens:
    """Verifies tokens, and remembers the good ones by their whole text: a key made of less, or a
    hash of it, could be made to collide (fast-jwt CVE-2026-35039).
    """

    def __init__(self, policy: TokenPolicy) -> None:
        self._policy = policy
        self._keys: KeySet | None = None
        self._callers: dict[str, Caller] = {}

    def caller(self, keys: KeySet, token: str, now: datetime) -> Caller:
        """Whom the token speaks for. Raises TokenInvalid, TokenExpired."""
        if keys is not self._keys:
            # A key may have been withdrawn: nothing it signed may be believed from memory.
            self._keys = keys
            self._callers.clear()
        known = self._callers.get(token)
        if known is not None and now < known.expire_time:
            return known
        caller = tokens.verify(self._policy, keys, token, now)
        if len(self._callers) >= SIZE:
            del self._callers[next(iter(self._callers))]
        self._callers[token] = caller
        return caller
