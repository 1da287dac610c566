"""Refresh tokens: ours and whole, or nothing; and the same successor for whoever holds the same."""

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import refresh
from service.domain.errors import TokenInvalid
from service.domain.refresh import RefreshToken

KEY = b"k" * 32
TOKEN = RefreshToken(UUID(int=7), UUID(int=9), 3, b"s" * refresh.SECRET_BYTES)
TEXT = TOKEN.text(KEY)


def test_a_token_is_read_back_as_it_was_made() -> None:
    assert refresh.parse(KEY, TEXT) == TOKEN


def test_a_token_of_another_key_is_refused() -> None:
    with pytest.raises(TokenInvalid):
        refresh.parse(b"x" * 32, TEXT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sfr1_",
        TEXT[5:],
        TEXT[:-1],
        TEXT[:-4],
        TEXT + "AAAA",
        TEXT + "=",
        "sfr1_é",
        TEXT.lower(),
    ],
)
def test_what_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(TokenInvalid):
        refresh.parse(KEY, text)


@given(st.integers(0, 8 * 84 - 1))
def test_no_bit_can_be_changed(bit: int) -> None:
    sealed = bytearray(base64.urlsafe_b64decode(TEXT.removeprefix(refresh.PREFIX)))
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(TokenInvalid):
        refresh.parse(KEY, refresh.PREFIX + base64.urlsafe_b64encode(sealed).decode())


def test_the_successor_depends_on_the_token_and_the_salt_and_nothing_else() -> None:
    first = TOKEN.successor(b"salt")

    assert first == TOKEN.successor(b"salt")
    assert first.generation == TOKEN.generation + 1
    assert (first.user_id, first.session_id) == (TOKEN.user_id, TOKEN.session_id)
    assert len({TOKEN.secret, first.secret, TOKEN.successor(b"other").secret}) == 3


def test_what_is_stored_and_what_is_printed_give_no_token_away() -> None:
    assert TOKEN.secret not in TOKEN.digest
    assert "ssss" not in repr(TOKEN)
