"""Where passwords are proved and hashed, for every handler that has to do with one."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from service.domain import passwords
from service.domain.errors import BadCredentials, RateLimited
from service.domain.passwords import PasswordPolicy
from service.rpc.hashing import HashPool
from service.store.users import Credentials
from service.telemetry.logs import security_event


class PasswordDesk:
    """`now` is aware UTC, `entropy` takes a number of bytes."""

    def __init__(
        self,
        hashing: HashPool,
        policy: PasswordPolicy,
        *,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._hashing = hashing
        self._policy = policy
        self._now = now
        self._entropy = entropy

    def place(self) -> AbstractContextManager[None]:
        """Take a place for hashing, before an attempt is counted: load must not look like guesses.
        Raises Overloaded.
        """
        return self._hashing.place()

    def check(self, password: str, *, username: str, field: str) -> None:
        """Refuse a new password that breaks the policy. Raises InvalidArgument."""
        passwords.check(self._policy, password, username=username, field=field)

    async def prove(self, found: Credentials, *given: str) -> int:
        """Which of the given passwords is the stored one, by its position.

        Raises RateLimited before any work, BadCredentials after as much work for an unknown user,
        whose decoy nothing matches, as for a wrong password: time tells nobody who has an account.
        """
        who = str(found.user.user_id) if found.user else None
        if found.wait_until is not None:
            security_event("authn_login_lock", user_id=who)
            raise RateLimited(max(found.wait_until - self._now(), timedelta(seconds=1)))
        stored = found.password_hash or passwords.decoy(self._policy)
        for position, password in enumerate(given):
            if await self._hashing.run(passwords.verify_password, stored, password):
                return position
        security_event("authn_login_fail", user_id=who)
        raise BadCredentials

    async def hashed(self, password: str) -> str:
        """The hash to store, made with today's costs."""
        salt = self._entropy(passwords.SALT_BYTES)
        return await self._hashing.run(passwords.hash_password, self._policy, password, salt)

    async def rehashed(self, stored: str | None, password: str) -> tuple[str, str] | None:
        """(old, new) when a hash that has just been proved was made with other costs."""
        if stored is None or not passwords.needs_rehash(self._policy, stored):
            return None
        return stored, await self.hashed(password)
