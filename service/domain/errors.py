"""Why a call fails: one class per reason a caller can act on. The docstring is the message.

Names say what happened, without a suffix, because callers act on them. `rpc/policy.py` gives each
its status code and reason; docs/errors.md is generated from both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field. Never holds the field's value: it could be a password."""

    field: str
    reason: str
    description: str


class DomainError(Exception):
    """Something went wrong that the caller can act on."""

    def __init__(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: timedelta | None = None,
        resource: tuple[str, str] | None = None,
    ) -> None:
        """`metadata` is ErrorInfo's; `resource` is ResourceInfo's (type, name)."""
        super().__init__(self.__doc__)
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after
        self.resource = resource


class TokenMissing(DomainError):
    """The call needs `authorization: Bearer <access token>` metadata."""


class TokenInvalid(DomainError):
    """The token is not one this service accepts."""


class TokenExpired(DomainError):
    """The token has expired."""


class SessionRevoked(DomainError):
    """The session has ended."""


class RefreshTokenReused(SessionRevoked):
    """The session has ended."""


class BadCredentials(DomainError):
    """The username or the password is wrong."""


class ScopeMissing(DomainError):
    """The token lacks the scope this call needs."""

    def __init__(self, scope: str) -> None:
        super().__init__(metadata={"scope": scope})


class SignUpDisabled(DomainError):
    """This deployment does not let the public create users."""


class InvalidArgument(DomainError):
    """The request has bad fields."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__(violations=violations)


class PageTokenInvalid(DomainError):
    """The page token does not belong to this query."""


class RequestIdReused(DomainError):
    """The request_id was used before for a different request."""


class UserNotFound(DomainError):
    """There is no such user, or it is not yours to see."""

    def __init__(self, user_id: str) -> None:
        super().__init__(resource=("sixfold.auth.v1.User", user_id))


class RecordNotFound(DomainError):
    """You have no such record."""

    def __init__(self, collection: str, key: str) -> None:
        super().__init__(resource=("sixfold.data.v1.Record", f"{collection}/{key}"))


class UsernameTaken(DomainError):
    """The username is taken."""


class RecordExists(DomainError):
    """The record exists, and the request said if_absent."""

    def __init__(self, revision: int) -> None:
        super().__init__(metadata={"revision": str(revision)})


class RevisionMismatch(DomainError):
    """The record is at another revision than the request said."""

    def __init__(self, revision: int) -> None:
        super().__init__(metadata={"revision": str(revision)})


class RateLimited(DomainError):
    """Too many attempts; wait before the next."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__(retry_after=retry_after)


class Overloaded(DomainError):
    """The service has more work than it takes on at once."""

    def __init__(self, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(retry_after=retry_after)


class QuotaExceeded(DomainError):
    """A limit of this service is reached."""

    def __init__(self, limit: int) -> None:
        super().__init__(metadata={"limit": str(limit)})


class DatabaseUnavailable(DomainError):
    """The database cannot be reached, or cannot be written."""

    def __init__(self, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(retry_after=retry_after)


class NotReady(DomainError):
    """This process cannot serve yet."""

    def __init__(self, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(retry_after=retry_after)


class DeadlineExceeded(DomainError):
    """The call's time ran out."""


class Internal(DomainError):
    """A fault of ours. Report the request id."""
