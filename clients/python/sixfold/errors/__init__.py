"""What a failed call raises: one class per thing a caller can do about it.

Which class follows from the status code alone (`BY_CODE`), so an error made by a proxy, which
knows nothing of Sixfold, is of the right class too; it only has no `reason`. The reasons are
listed in `v1.errors_pb2.ErrorReason`. No suffix in the names: callers act on them.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Self, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

__all__ = [
    "BY_CODE",
    "AlreadyExists",
    "Conflict",
    "DeadlineExceeded",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "SixfoldError",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]


class Violation(NamedTuple):
    """One bad field of a request. Never holds the field's value."""

    field: str
    reason: str
    description: str


class SixfoldError(Exception):
    """A call error. Act on the class and on `reason`; `message` is for people and may change.

    `retry_after` is in seconds, None when the server does not say. `__cause__` is the
    `grpc.RpcError`, or None when the client itself refused the call.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after: float | None = None,
        violations: tuple[Violation, ...] = (),
    ) -> None:
        # Every argument goes to Exception.args, or the error could not be pickled or copied.
        super().__init__(message, code, reason, metadata, request_id, retry_after, violations)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.request_id = request_id
        self.retry_after = retry_after
        self.violations = violations

    def __str__(self) -> str:
        bad = "".join(f" {one.field}: {one.description}." for one in self.violations)
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.reason or self.code.name}: {self.message}{bad}{request}"

    @property
    def revision(self) -> int | None:
        """The record's current revision, 0 when there is no record; None when not about one."""
        text = self.metadata.get("revision", "")
        return int(text) if text.isdecimal() else None

    def again(self) -> Self:
        """The same failure to raise elsewhere: one exception cannot carry two tracebacks."""
        copy = type(self)(*self.args)
        copy.__cause__ = self.__cause__
        return copy


class Unauthenticated(SixfoldError):
    """Nobody is logged in, or the password is wrong. Log in (again)."""


class PermissionDenied(SixfoldError):
    """The session's scopes, or the deployment, do not allow it. Ask for another session."""


class InvalidArgument(SixfoldError):
    """The request is wrong and stays wrong; `violations` names every bad field."""


class NotFound(SixfoldError):
    """There is no such thing, or it is not the caller's to see."""


class AlreadyExists(SixfoldError):
    """The name is taken, or `if_absent` was asked for and the record exists (`revision`)."""


class Conflict(SixfoldError):
    """Somebody wrote first; `revision` is what is there now. Read, decide and write again."""


class ResourceExhausted(SixfoldError):
    """Too much or too often. `retry_after` says when again; without it waiting does not help."""


class Unavailable(SixfoldError):
    """The service cannot be reached or cannot serve, retries included. Try again later."""


class DeadlineExceeded(SixfoldError):
    """Time ran out. The call may or may not have been done."""


class Internal(SixfoldError):
    """A fault of the service's own. Report `request_id`."""


Code = grpc.StatusCode

# FAILED_PRECONDITION and UNIMPLEMENTED are missing on purpose: Sixfold sends none of them, and no
# caller can act on one that comes from elsewhere. They are plain SixfoldErrors.
BY_CODE: Final[Mapping[grpc.StatusCode, type[SixfoldError]]] = {
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.OUT_OF_RANGE: InvalidArgument,
    Code.NOT_FOUND: NotFound,
    Code.ALREADY_EXISTS: AlreadyExists,
    Code.ABORTED: Conflict,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    Code.UNAVAILABLE: Unavailable,
    Code.CANCELLED: Unavailable,  # by a stopping server; a caller's own cancelling is not an error
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.INTERNAL: Internal,
    Code.UNKNOWN: Internal,
    Code.DATA_LOSS: Internal,
}


def of_rpc(error: grpc.RpcError) -> SixfoldError:
    """The error to raise `from` a gRPC one, sync or aio, whether or not it carries details."""
    info, bad, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RequestInfo(),
        error_details_pb2.RetryInfo(),
    )
    retry_after = None
    try:
        for detail in _status(error).details:
            for known in (info, bad, request):
                detail.Unpack(known)
            if detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    except DecodeError:
        pass  # cut off on the way; the status code still says what to do
    ours = info.domain == "sixfold"  # a gateway's own reasons are not in our list
    return BY_CODE.get(error.code(), SixfoldError)(
        error.details() or "",
        error.code(),
        info.reason if ours else "",
        dict(info.metadata) if ours else {},
        request.request_id,
        retry_after,
        tuple(Violation(v.field, v.reason, v.description) for v in bad.field_violations),
    )


def _status(error: grpc.RpcError) -> status_pb2.Status:
    # Pairs, whatever grpc's type stubs call them; None when the connection broke before them.
    pairs = cast("Iterable[tuple[str, str | bytes]] | None", error.trailing_metadata())
    for key, value in pairs or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()
