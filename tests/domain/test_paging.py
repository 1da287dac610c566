"""Page tokens: positions that only this service makes, for one caller and one query."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import limits, paging
from service.domain.errors import PageTokenInvalid
from service.domain.models import Caller

KEY = b"k" * 32
ANN = Caller(UUID(int=1), UUID(int=2), "test", frozenset(), datetime(2030, 1, 1, tzinfo=UTC))
QUERY = "ListRecords notes"
TOKEN = paging.seal(KEY, ANN, QUERY, ("notes", "first"))


@pytest.mark.parametrize(
    ("asked", "given_"),
    [(0, limits.PAGE_SIZE_DEFAULT), (1, 1), (1000, 1000), (5000, limits.PAGE_SIZE_MAX)],
)
def test_a_page_is_as_large_as_asked_within_reason(asked: int, given_: int) -> None:
    assert paging.size(asked) == given_


def test_no_token_is_the_beginning() -> None:
    assert paging.unseal(KEY, ANN, QUERY, "") == ("", "")


@given(st.text(), st.text())
def test_a_position_is_read_back_as_it_was_made(collection: str, key: str) -> None:
    try:
        (collection + key).encode()
    except UnicodeEncodeError:
        return  # no request can hold a lone surrogate

    token = paging.seal(KEY, ANN, QUERY, (collection, key))

    assert paging.unseal(KEY, ANN, QUERY, token) == (collection, key)


def test_the_longest_position_fits_the_contract() -> None:
    longest = paging.seal(KEY, ANN, QUERY, ("c" * 128, "é" * 256))

    assert len(longest) <= 2048


def test_another_session_of_the_caller_may_go_on() -> None:
    other = replace(ANN, session_id=UUID(int=3))

    assert paging.unseal(KEY, other, QUERY, TOKEN) == ("notes", "first")


@pytest.mark.parametrize(
    ("key", "caller", "query", "token"),
    [
        (b"x" * 32, ANN, QUERY, TOKEN),
        (KEY, replace(ANN, user_id=UUID(int=9)), QUERY, TOKEN),
        (KEY, ANN, "GetUserData notes", TOKEN),
        (KEY, ANN, "ListRecords note", TOKEN),
        (KEY, ANN, QUERY, TOKEN[:-4]),
        (KEY, ANN, QUERY, TOKEN[:10]),
        (KEY, ANN, QUERY, "junk"),
        (KEY, ANN, QUERY, "é"),
        (KEY, ANN, QUERY, "A" + TOKEN[1:]),
    ],
)
def test_a_token_made_otherwise_or_for_another_is_refused(
    key: bytes, caller: Caller, query: str, token: str
) -> None:
    with pytest.raises(PageTokenInvalid):
        paging.unseal(key, caller, query, token)
