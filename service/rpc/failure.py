"""A domain error as `google.rpc.Status` (AIP-193), for any door to send."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from service.domain.errors import DomainError
from service.rpc.policy import STATUS

DOMAIN = "sixfold"

# All details travel in one metadata entry, and gRPC refuses metadata beyond 8 KiB.
MAX_VIOLATIONS = 20


def code_and_reason(error: DomainError) -> tuple[StatusCode, str]:
    """The row of the table for this error."""
    return STATUS[type(error)]


def status(error: DomainError, request_id: str) -> Status:
    """The error as clients get it: ErrorInfo always, the other details where they say something."""
    code, reason = code_and_reason(error)
    said: list[Message] = [
        details.ErrorInfo(reason=reason, domain=DOMAIN, metadata=error.metadata),
        details.RequestInfo(request_id=request_id),
    ]
    if error.violations:
        violations = [
            details.BadRequest.FieldViolation(
                field=each.field, description=each.description, reason=each.reason
            )
            for each in error.violations[:MAX_VIOLATIONS]
        ]
        said.append(details.BadRequest(field_violations=violations))
    if error.retry_after is not None:
        retry = details.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        said.append(retry)
    if error.resource is not None:
        kind, name = error.resource
        said.append(details.ResourceInfo(resource_type=kind, resource_name=name))
    return Status(code=code.value[0], message=str(error), details=map(_packed, said))


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
