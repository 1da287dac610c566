"""Access tokens: what is minted, what verifies, and when that ends."""

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from service.domain import keys, tokens
from service.domain.errors import TokenExpired, TokenInvalid
from service.domain.keys import KeySet, SigningKey
from service.domain.models import Caller
from service.domain.tokens import TokenPolicy

NOON = datetime(2026, 11, 23, 12, 0, 0, 900_000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
POLICY = TokenPolicy("https://issuer.example", "sixfold", timedelta(minutes=10))
PRIVATE = ec.derive_private_key(0xC0FFEE, ec.SECP256R1())
KEY = SigningKey(keys.thumbprint(PRIVATE.public_key()), PRIVATE, NOON, NOON)
KEYS = KeySet((KEY,))
USER = UUID("01941f29-7c00-7000-8000-000000000001")
SESSION = UUID("01941f29-7c00-7000-8000-000000000002")
TOKEN = UUID("01941f29-7c00-7000-8000-000000000003")
CLAIMS: dict[str, object] = {
    "iss": "https://issuer.example",
    "aud": "sixfold",
    "sub": str(USER),
    "client_id": "web",
    "iat": int(NOON.timestamp()),
    "exp": int(NOON.timestamp()) + 600,
    "jti": str(TOKEN),
    "sid": str(SESSION),
    "scope": "data.read data.write",
}


def minted(*, client_id: str = "web", scopes: tuple[str, ...] = ("data.read", "data.write")) -> str:
    token, _ = tokens.mint(
        POLICY,
        KEY,
        user_id=USER,
        session_id=SESSION,
        client_id=client_id,
        scopes=scopes,
        token_id=TOKEN,
        now=NOON,
    )
    return token


def signed(claims: dict[str, object], *, typ: str = "at+jwt") -> str:
    """A genuine token with any claims."""
    headers = {"typ": typ, "kid": KEY.kid}
    return jwt.encode(claims, PRIVATE, algorithm="ES256", headers=headers)


def part(token: str, index: int) -> object:
    return json.loads(urlsafe_b64decode(token.split(".")[index] + "=="))


def test_a_token_has_the_header_and_claims_of_rfc_9068_and_no_others() -> None:
    token = minted()

    assert part(token, 0) == {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid}
    assert part(token, 1) == CLAIMS
    assert len(token) < 1024


def test_a_minted_token_speaks_for_its_user_until_it_expires() -> None:
    token, expire_time = tokens.mint(
        POLICY,
        KEY,
        user_id=USER,
        session_id=SESSION,
        client_id="web",
        scopes=["data.read"],
        token_id=TOKEN,
        now=NOON,
    )

    assert expire_time == datetime(2026, 11, 23, 12, 10, tzinfo=UTC)
    assert tokens.verify(POLICY, KEYS, token, NOON) == Caller(
        USER, SESSION, "web", frozenset({"data.read"}), expire_time
    )


def test_a_token_without_scopes_allows_nothing() -> None:
    assert tokens.verify(POLICY, KEYS, minted(scopes=()), NOON).scopes == frozenset()


@pytest.mark.parametrize("scope", ["", "data.read account", 'a"b', "a\\b", "é", "a\n"])
def test_a_scope_that_would_be_read_otherwise_is_not_minted(scope: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        minted(scopes=("data.read", scope))


@pytest.mark.parametrize("client_id", ["", "é", "web\n", "\ud800"])
def test_a_client_that_would_not_verify_is_not_minted(client_id: str) -> None:
    with pytest.raises(ValueError, match="client"):
        minted(client_id=client_id)


@pytest.mark.parametrize(
    ("after_expiry", "leeway", "expired"),
    [
        pytest.param(-SECOND, 0, False, id="alive"),
        pytest.param(timedelta(0), 0, True, id="at exp, without leeway"),
        pytest.param(29 * SECOND, 30, False, id="within the leeway"),
        pytest.param(30 * SECOND, 30, True, id="at the end of the leeway"),
        pytest.param(timedelta(days=3650), 30, True, id="years later"),
    ],
)
def test_a_token_ends_at_exp_and_leeway(
    after_expiry: timedelta, leeway: int, expired: bool
) -> None:
    policy = TokenPolicy(POLICY.issuer, POLICY.audience, POLICY.lifetime, leeway * SECOND)
    now = datetime(2026, 11, 23, 12, 10, tzinfo=UTC) + after_expiry

    if expired:
        with pytest.raises(TokenExpired):
            tokens.verify(policy, KEYS, minted(), now)
    else:
        assert tokens.verify(policy, KEYS, minted(), now).user_id == USER


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param(CLAIMS | {"aud": "other"}, id="another audience"),
        pytest.param(CLAIMS | {"iss": "https://other.example"}, id="another issuer"),
        pytest.param(CLAIMS | {"sub": 7}, id="no user"),
    ],
)
def test_expired_is_said_only_of_a_token_that_was_good(claims: dict[str, object]) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(POLICY, KEYS, signed(claims), NOON + timedelta(days=1))


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        pytest.param({"iat": 29}, True, id="iat within the leeway"),
        pytest.param({"iat": 31}, False, id="iat in the future"),
        pytest.param({"iat": 31, "nbf": 0}, False, id="iat in the future, nbf not"),
        pytest.param({"nbf": 29}, True, id="nbf within the leeway"),
        pytest.param({"nbf": 31}, False, id="nbf in the future"),
        pytest.param({"nbf": -99}, True, id="nbf in the past"),
        pytest.param({"iat": -1, "exp": 0}, True, id="exp after iat"),
        pytest.param({"iat": 0, "exp": 0}, False, id="exp at iat"),
        pytest.param({"iat": 20, "exp": 10}, False, id="exp before iat"),
    ],
)
def test_a_token_is_good_from_iat_and_nbf_on(claims: dict[str, int], good: bool) -> None:
    noon = int(NOON.timestamp())
    token = signed(CLAIMS | {name: noon + offset for name, offset in claims.items()})

    if good:
        assert tokens.verify(POLICY, KEYS, token, NOON.replace(microsecond=0)).user_id == USER
    else:
        with pytest.raises(TokenInvalid):
            tokens.verify(POLICY, KEYS, token, NOON.replace(microsecond=0))


@pytest.mark.parametrize("exp", [253_402_300_799, 253_402_300_800])
def test_the_end_of_time_does_not_overflow(exp: int) -> None:
    token = signed(CLAIMS | {"exp": exp})

    if exp == 253_402_300_799:
        assert tokens.verify(POLICY, KEYS, token, NOON).expire_time.year == 9999
    else:
        with pytest.raises(TokenInvalid):
            tokens.verify(POLICY, KEYS, token, NOON)


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"])
def test_typ_is_compared_as_a_media_type(typ: str) -> None:
    assert tokens.verify(POLICY, KEYS, signed(CLAIMS, typ=typ), NOON).user_id == USER


def test_a_claim_added_by_a_later_release_is_ignored() -> None:
    token = signed(CLAIMS | {"acr": "2", "later": [{"deep": None}]})

    assert tokens.verify(POLICY, KEYS, token, NOON).user_id == USER


def test_a_token_verifies_up_to_4096_characters() -> None:
    by_length = {len(token): token for n in range(2600, 2720) if (token := padded(n))}

    assert tokens.verify(POLICY, KEYS, by_length[4096], NOON).user_id == USER
    with pytest.raises(TokenInvalid):
        tokens.verify(POLICY, KEYS, by_length[4098], NOON)


def padded(characters: int) -> str:
    return signed(CLAIMS | {"pad": "x" * characters})


def test_a_token_ends_with_its_key() -> None:
    dying = SigningKey(KEY.kid, PRIVATE, NOON, NOON, expire_time=NOON + SECOND)

    assert tokens.verify(POLICY, KeySet((dying,)), minted(), NOON).user_id == USER
    with pytest.raises(TokenInvalid):
        tokens.verify(POLICY, KeySet((dying,)), minted(), NOON + SECOND)


def test_the_key_id_of_a_token_can_be_read_before_its_key_is_known() -> None:
    assert tokens.key_id(minted()) == KEY.kid


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param("", id="empty"),
        pytest.param("a.b", id="two parts"),
        pytest.param(minted()[:-1], id="cut off"),
        pytest.param("x" * 4097, id="too long"),
        pytest.param("AAAA.AAAA." + "A" * 86, id="header is not JSON"),
        pytest.param("_w.AAAA." + "A" * 86, id="header is not UTF-8"),
        pytest.param("MQ.AAAA." + "A" * 86, id="header is a number"),
        pytest.param("e30.AAAA." + "A" * 86, id="header is empty"),
        pytest.param("A.AAAA." + "A" * 86, id="header is half a byte"),
        pytest.param(signed(CLAIMS, typ="JWT"), id="another typ"),
        pytest.param("\ud800", id="lone surrogate"),
    ],
)
def test_garbage_has_no_key_id(garbage: str) -> None:
    assert tokens.key_id(garbage) is None


@pytest.mark.parametrize("leeway", [-1, 61])
def test_a_leeway_that_weakens_expiry_is_refused(leeway: int) -> None:
    with pytest.raises(ValueError, match="leeway"):
        TokenPolicy("i", "a", timedelta(minutes=10), leeway * SECOND)


def test_a_token_without_a_life_is_refused() -> None:
    with pytest.raises(ValueError, match="lifetime"):
        TokenPolicy("i", "a", timedelta(milliseconds=999))
