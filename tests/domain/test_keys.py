"""Signing keys: which one signs, which ones verify, and that stored ones open only as meant."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm

from service.domain import keys
from service.domain.errors import NotReady
from service.domain.keys import KeySet, MasterKeyMismatch, SigningKey

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SCALAR = 0xC0FFEE
PRIVATE = ec.derive_private_key(SCALAR, ec.SECP256R1())
KEK = b"\x01" * 32
NONCE = b"\x02" * 12


def signing_key(
    kid: str,
    *,
    create_time: datetime = NOON - HOUR,
    sign_after: datetime = NOON - HOUR,
    expire_time: datetime | None = None,
) -> SigningKey:
    return SigningKey(kid, PRIVATE, create_time, sign_after, expire_time)


OLD = signing_key("old", create_time=NOON - 3 * HOUR)
NEW = signing_key("new", create_time=NOON - 2 * HOUR)
NEXT = signing_key("next", sign_after=NOON + HOUR)
DEAD = signing_key("dead", expire_time=NOON)


@pytest.mark.parametrize(
    ("held", "signer"),
    [
        pytest.param((OLD, NEW), "new", id="the newest"),
        pytest.param((NEW, OLD), "new", id="whatever the order"),
        pytest.param((OLD, NEXT), "old", id="not before its time"),
        pytest.param((OLD, DEAD), "old", id="not after its time"),
        pytest.param((OLD, signing_key("just", sign_after=NOON)), "just", id="at its time"),
        pytest.param((signing_key("a"), signing_key("b")), "b", id="the kid decides between twins"),
    ],
)
def test_the_newest_key_that_may_sign_signs(held: tuple[SigningKey, ...], signer: str) -> None:
    assert KeySet(held).signer(NOON).kid == signer


@pytest.mark.parametrize("held", [(), (NEXT,), (DEAD,)], ids=["none", "too early", "expired"])
def test_without_a_key_that_may_sign_the_service_is_not_ready(held: tuple[SigningKey, ...]) -> None:
    with pytest.raises(NotReady):
        KeySet(held).signer(NOON)


@pytest.mark.parametrize(
    ("kid", "now", "verifies"),
    [
        pytest.param("old", NOON, True, id="in use"),
        pytest.param("next", NOON, True, id="published before it signs"),
        pytest.param("dead", NOON - timedelta(microseconds=1), True, id="to its last moment"),
        pytest.param("dead", NOON, False, id="expired"),
        pytest.param("../../dev/null", NOON, False, id="unknown"),
    ],
)
def test_a_key_verifies_until_it_expires(kid: str, now: datetime, verifies: bool) -> None:
    held = KeySet((OLD, NEXT, DEAD))

    assert (held.public_key(kid, now) is not None) is verifies
    assert (kid in held.public_keys(now)) is verifies


def test_two_keys_with_one_kid_are_refused() -> None:
    with pytest.raises(ValueError, match="same kid"):
        KeySet((OLD, signing_key("old")))


def test_a_key_prints_no_private_part() -> None:
    assert "private_key" not in repr(KeySet((OLD,)))


def test_a_generated_key_is_a_new_one_on_p256() -> None:
    one, other = keys.generate(), keys.generate()

    assert one.curve.name == "secp256r1"
    assert one.private_numbers() != other.private_numbers()


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    # The key of RFC 9449's figures and the thumbprint it gives for it in section 6.1.
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    }
    public_key = ECAlgorithm.from_jwk(jwk)
    assert isinstance(public_key, ec.EllipticCurvePublicKey)

    assert keys.thumbprint(public_key) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_a_published_key_has_public_members_only() -> None:
    jwk = keys.public_jwk("k1", PRIVATE.public_key())

    assert jwk.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (jwk["kid"], jwk["alg"], jwk["use"]) == ("k1", "ES256", "sig")
    assert (jwk["kty"], jwk["crv"], len(jwk["x"]), len(jwk["y"])) == ("EC", "P-256", 43, 43)


def test_a_sealed_key_opens_to_the_same_key() -> None:
    sealed = keys.seal(KEK, "k1", PRIVATE, NONCE)

    assert len(sealed) == 61
    assert keys.unseal(KEK, "k1", sealed).private_numbers() == PRIVATE.private_numbers()


def test_a_sealed_key_does_not_show_the_key() -> None:
    scalar = SCALAR.to_bytes(32, "big")
    der = PRIVATE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    sealed = keys.seal(KEK, "k1", PRIVATE, NONCE)

    assert scalar not in sealed
    assert der not in sealed


SEALED = keys.seal(KEK, "k1", PRIVATE, NONCE)


@pytest.mark.parametrize(
    ("kek", "kid", "sealed"),
    [
        pytest.param(b"\x09" * 32, "k1", SEALED, id="another master key"),
        pytest.param(KEK, "k2", SEALED, id="moved under another kid"),
        pytest.param(KEK, "k1", b"\x02" + SEALED[1:], id="another version"),
        pytest.param(KEK, "k1", SEALED[:-1], id="cut off"),
        pytest.param(KEK, "k1", SEALED[:-1] + bytes([SEALED[-1] ^ 1]), id="one bit changed"),
        pytest.param(KEK, "k1", SEALED[:5], id="cut off in the nonce"),
        pytest.param(KEK, "k1", SEALED + b"\0", id="a byte more"),
        pytest.param(KEK, "k1", b"", id="empty"),
    ],
)
def test_a_sealed_key_opens_in_no_other_way_and_says_nothing(
    kek: bytes, kid: str, sealed: bytes
) -> None:
    with pytest.raises(MasterKeyMismatch) as caught:
        keys.unseal(kek, kid, sealed)

    assert str(caught.value).startswith(f"key {kid} ")
    assert kek.hex() not in str(caught.value)
    assert repr(kek) not in str(caught.value)
    assert caught.value.__cause__ is None


def test_each_purpose_has_its_own_key_and_every_process_the_same() -> None:
    seal_key = keys.derive(b"m" * 32, "signing keys")
    page_key = keys.derive(b"m" * 32, "page tokens")

    assert seal_key == keys.derive(b"m" * 32, "signing keys")
    assert len(seal_key) == 32
    assert seal_key != page_key
    assert seal_key != keys.derive(b"n" * 32, "signing keys")
