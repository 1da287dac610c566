"""Identifiers are UUIDv7 in order of time; every error says what its class promises."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import errors, ids

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@given(st.binary(min_size=10, max_size=10))
def test_an_id_is_a_version_7_uuid_whatever_the_entropy(entropy: bytes) -> None:
    made = ids.uuid7(NOON, entropy)

    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == int(NOON.timestamp() * 1000)


def test_ids_sort_by_the_millisecond_they_were_made_in() -> None:
    later = ids.uuid7(NOON + timedelta(milliseconds=1), b"\x00" * 10)

    assert ids.uuid7(NOON, b"\xff" * 10) < later


@pytest.mark.parametrize(
    ("error", "metadata"),
    [
        (errors.ScopeMissing("data.read"), {"scope": "data.read"}),
        (errors.RecordExists(4), {"revision": "4"}),
        (errors.RevisionMismatch(0), {"revision": "0"}),
        (errors.QuotaExceeded(10), {"limit": "10"}),
        (errors.TokenInvalid(), {}),
    ],
)
def test_everything_variable_is_in_the_metadata(
    error: errors.DomainError, metadata: dict[str, str]
) -> None:
    assert error.metadata == metadata
    assert str(error) == error.__doc__


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimited(timedelta(seconds=3)),
        errors.Overloaded(timedelta(seconds=3)),
        errors.DatabaseUnavailable(timedelta(seconds=3)),
        errors.NotReady(timedelta(seconds=3)),
    ],
)
def test_what_passes_says_when_to_try_again(error: errors.DomainError) -> None:
    assert error.retry_after == timedelta(seconds=3)


def test_what_is_missing_is_named() -> None:
    assert errors.UserNotFound("7").resource == ("sixfold.auth.v1.User", "7")
    assert errors.RecordNotFound("c", "k").resource == ("sixfold.data.v1.Record", "c/k")
