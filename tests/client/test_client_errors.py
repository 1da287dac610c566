"""From a gRPC error to the exception a caller acts on."""

import copy
import pickle
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from sixfold import errors

CODE = grpc.StatusCode


class Failed(grpc.RpcError):
    """What a call raises, sync and aio alike."""

    def __init__(self, code: grpc.StatusCode, details: bytes | None = None) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "text"

    def trailing_metadata(self) -> Any:
        return [("grpc-status-details-bin", self._details)] if self._details is not None else None


def status(*details: object) -> bytes:
    message = status_pb2.Status()
    for detail in details:
        message.details.add().Pack(detail)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize("code", [code for code in CODE if code is not CODE.OK])
def test_a_proxys_error_maps_by_its_code(code: grpc.StatusCode) -> None:
    error = errors.of_rpc(Failed(code))

    assert type(error) is errors.BY_CODE.get(code, errors.SixfoldError)
    assert (error.code, error.reason, error.message) == (code, "", "text")
    assert (error.metadata, error.request_id, error.retry_after) == ({}, "", None)


def test_every_exported_error_is_in_the_table() -> None:
    exported = [getattr(errors, name) for name in errors.__all__]
    exceptions = {one for one in exported if isinstance(one, type) and issubclass(one, Exception)}

    assert exceptions - {errors.SixfoldError} == set(errors.BY_CODE.values())


def test_all_details_are_read() -> None:
    info = error_details_pb2.ErrorInfo(
        reason="REVISION_MISMATCH", domain="sixfold", metadata={"revision": "7"}
    )
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="json", reason="TOO_LONG", description="is too long")
    request = error_details_pb2.RequestInfo(request_id="r1")

    error = errors.of_rpc(Failed(CODE.ABORTED, status(info, retry, bad, request)))

    assert isinstance(error, errors.Conflict)
    assert (error.reason, error.revision) == ("REVISION_MISMATCH", 7)
    assert (error.retry_after, error.request_id) == (1.5, "r1")
    assert error.violations == (errors.Violation("json", "TOO_LONG", "is too long"),)
    assert str(error) == "REVISION_MISMATCH: text json: is too long. (request r1)"


def test_someone_elses_reason_is_not_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="TOKEN_EXPIRED", domain="gateway.example")

    assert errors.of_rpc(Failed(CODE.UNAUTHENTICATED, status(info))).reason == ""


@pytest.mark.parametrize("details", [b"", b"\xff\xff", b"\x1a\x7f\x00"])
def test_broken_details_leave_the_code(details: bytes) -> None:
    error = errors.of_rpc(Failed(CODE.NOT_FOUND, details))

    assert isinstance(error, errors.NotFound)
    assert error.reason == ""


def test_an_error_can_be_pickled_and_copied() -> None:
    error = errors.Conflict("text", CODE.ABORTED, "REVISION_MISMATCH", {"revision": "7"})

    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), error.again()):
        assert type(other) is errors.Conflict
        assert (str(other), other.revision) == (str(error), 7)
