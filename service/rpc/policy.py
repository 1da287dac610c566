"""Policy as tables: who may call what, and what an error looks like on the wire.

A method is named `package.Service/Method`. One that is in neither PUBLIC nor SCOPES is refused at
start: nothing is reachable by omission.
"""

from collections.abc import Mapping
from typing import Final

from grpc import StatusCode

from service.domain import errors

AUTH: Final = "sixfold.auth.v1.AuthService"
DATA: Final = "sixfold.data.v1.DataService"

# The name of every method there is not, so that strangers cannot fill logs and metrics with theirs.
UNKNOWN: Final = "other"

# Callable without a token. Health must be: Kubernetes' probes send no metadata.
PUBLIC: Final = frozenset(
    {
        UNKNOWN,
        f"{AUTH}/CreateUser",
        f"{AUTH}/Login",
        f"{AUTH}/RefreshTokens",
        f"{AUTH}/GetJsonWebKeySet",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)

# What the token must allow.
SCOPES: Final[Mapping[str, str]] = {
    f"{AUTH}/Logout": "",  # whoever holds a session may end it
    f"{AUTH}/GetUser": "account",
    f"{AUTH}/ChangePassword": "account",
    f"{DATA}/GetUserData": "data.read",
    f"{DATA}/GetRecord": "data.read",
    f"{DATA}/BatchGetRecords": "data.read",
    f"{DATA}/ListRecords": "data.read",
    f"{DATA}/PutRecord": "data.write",
    f"{DATA}/DeleteRecord": "data.write",
}

ALL_SCOPES: Final = ("account", "data.read", "data.write")

STATUS: Final[Mapping[type[errors.DomainError], tuple[StatusCode, str]]] = {
    errors.TokenMissing: (StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
    errors.TokenInvalid: (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
    errors.TokenExpired: (StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
    errors.SessionRevoked: (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"),
    # The thief is not told that the theft was noticed.
    errors.RefreshTokenReused: (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"),
    errors.BadCredentials: (StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS"),
    errors.ScopeMissing: (StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    errors.SignUpDisabled: (StatusCode.PERMISSION_DENIED, "SIGN_UP_DISABLED"),
    errors.InvalidArgument: (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    errors.PageTokenInvalid: (StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    errors.RequestIdReused: (StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
    errors.UserNotFound: (StatusCode.NOT_FOUND, "USER_NOT_FOUND"),
    errors.RecordNotFound: (StatusCode.NOT_FOUND, "RECORD_NOT_FOUND"),
    errors.UsernameTaken: (StatusCode.ALREADY_EXISTS, "USERNAME_TAKEN"),
    errors.RecordExists: (StatusCode.ALREADY_EXISTS, "RECORD_EXISTS"),
    errors.RevisionMismatch: (StatusCode.ABORTED, "REVISION_MISMATCH"),
    errors.RateLimited: (StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    errors.Overloaded: (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    errors.QuotaExceeded: (StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    errors.DatabaseUnavailable: (StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"),
    errors.NotReady: (StatusCode.UNAVAILABLE, "NOT_READY"),
    errors.DeadlineExceeded: (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    errors.Internal: (StatusCode.INTERNAL, "INTERNAL"),
}
