"""The memo of verified tokens saves work and never changes an answer."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from service.domain import keys, tokens
from service.domain.errors import TokenExpired, TokenInvalid
from service.domain.keys import KeySet, SigningKey
from service.domain.tokens import TokenPolicy
from service.rpc import verified
from service.rpc.verified import VerifiedTokens

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = TokenPolicy("https://sixfold.test", "sixfold", timedelta(minutes=10))


def key() -> SigningKey:
    private = keys.generate()
    return SigningKey(keys.thumbprint(private.public_key()), private, NOW, NOW)


def token(signer: SigningKey) -> str:
    text, _ = tokens.mint(
        POLICY,
        signer,
        user_id=uuid4(),
        session_id=uuid4(),
        client_id="test",
        scopes=("account",),
        token_id=uuid4(),
        now=NOW,
    )
    return text


def test_a_token_seen_before_is_not_verified_again() -> None:
    signer = key()
    known, text, memo = KeySet((signer,)), token(signer), VerifiedTokens(POLICY)

    first = memo.caller(known, text, NOW)

    assert memo.caller(known, text, NOW) is first


def test_a_remembered_token_ends_with_its_time() -> None:
    signer = key()
    known, text, memo = KeySet((signer,)), token(signer), VerifiedTokens(POLICY)
    memo.caller(known, text, NOW)

    with pytest.raises(TokenExpired):
        memo.caller(known, text, NOW + POLICY.lifetime + POLICY.leeway)


def test_a_remembered_token_ends_with_its_key() -> None:
    signer = key()
    text, memo = token(signer), VerifiedTokens(POLICY)
    memo.caller(KeySet((signer,)), text, NOW)

    with pytest.raises(TokenInvalid):
        memo.caller(KeySet((key(),)), text, NOW)


def test_a_refused_token_is_not_remembered() -> None:
    signer = key()
    text, memo = token(signer), VerifiedTokens(POLICY)

    with pytest.raises(TokenInvalid):
        memo.caller(KeySet((key(),)), text, NOW)

    assert memo.caller(KeySet((signer,)), text, NOW)


def test_the_memo_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "SIZE", 2)
    signer = key()
    known, memo = KeySet((signer,)), VerifiedTokens(POLICY)
    oldest = token(signer)
    first = memo.caller(known, oldest, NOW)

    for _ in range(2):
        memo.caller(known, token(signer), NOW)

    assert memo.caller(known, oldest, NOW) is not first
