"""The keys that sign access tokens: which one signs, which ones verify, and how they are stored.

Rotation without a leader: a new key is published at once and signs from `sign_after` (later than
any verifier's cache lives), the old one verifies until `expire_time` (when the last token it signed
has expired). Every process works this out from the same rows, so none has to be told.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import ECAlgorithm

from service.domain.errors import NotReady

# First byte of every sealed key, so that another way of sealing can be told apart later.
_VERSION: Final = b"\x01"
NONCE_BYTES: Final = 12  # what AES-GCM is defined for without hashing the nonce (NIST SP 800-38D)
_SCALAR_BYTES: Final = 32  # a P-256 private key
_TAG_BYTES: Final = 16
_SEALED_BYTES: Final = len(_VERSION) + NONCE_BYTES + _SCALAR_BYTES + _TAG_BYTES


class MasterKeyMismatch(Exception):
    """A stored key does not open: the master key is another one, or the row was changed.

    Carries the kid, which is public, and nothing else.
    """


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair. Times are aware UTC; without `expire_time` it is in use."""

    kid: str
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    create_time: datetime
    sign_after: datetime
    expire_time: datetime | None = None

    def lives(self, now: datetime) -> bool:
        """Whether what it signed may still be believed. At `expire_time` it may not."""
        return self.expire_time is None or now < self.expire_time


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys of this service at one moment. Raises ValueError when two share a kid: the set is
    then not to be used at all, because which of them verifies would be chance.
    """

    keys: tuple[SigningKey, ...]
    # Derived once: a public key costs 4 µs to make out of a private one, and every call needs one.
    _by_kid: Mapping[str, tuple[SigningKey, ec.EllipticCurvePublicKey]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        by_kid = {key.kid: (key, key.private_key.public_key()) for key in self.keys}
        if len(by_kid) != len(self.keys):
            raise ValueError("two keys have the same kid")
        # Frozen also for us: the dataclass way to set a derived field.
        object.__setattr__(self, "_by_kid", MappingProxyType(by_kid))

    def signer(self, now: datetime) -> SigningKey:
        """The newest key that may sign. Raises NotReady when there is none."""
        ready = [key for key in self.keys if key.sign_after <= now and key.lives(now)]
        if not ready:
            raise NotReady()
        # The kid decides between twins, so that all processes choose the same one.
        return max(ready, key=lambda key: (key.create_time, key.kid))

    def public_key(self, kid: str, now: datetime) -> ec.EllipticCurvePublicKey | None:
        """What verifies tokens of this kid; None for unknown and for expired keys alike."""
        key, public_key = self._by_kid.get(kid, (None, None))
        return public_key if key is not None and key.lives(now) else None

    def public_keys(self, now: datetime) -> dict[str, ec.EllipticCurvePublicKey]:
        """kid → key, of every key that verifies or will: what a JWKS publishes."""
        return {kid: public for kid, (key, public) in self._by_kid.items() if key.lives(now)}


def generate() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key. Its entropy is OpenSSL's: the library takes none by argument."""
    return ec.generate_private_key(ec.SECP256R1())


def thumbprint(public_key: ec.EllipticCurvePublicKey) -> str:
    """The kid: RFC 7638 SHA-256 thumbprint, 43 characters of base64url. The same in every process,
    and no two keys share one.
    """
    # The required members of an EC key in lexicographic order, without spaces (RFC 7638 3.2, 3.3).
    members = json.dumps(_point(public_key), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(members.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def public_jwk(kid: str, public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The key as published (RFC 7517): kty crv x y kid alg use. Never a private member."""
    return _point(public_key) | {"kid": kid, "alg": "ES256", "use": "sig"}


def _point(public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    return dict(ECAlgorithm.to_jwk(public_key, as_dict=True))


def seal(kek: bytes, kid: str, private_key: ec.EllipticCurvePrivateKey, nonce: bytes) -> bytes:
    """The private key as stored: version, nonce, AES-256-GCM of the 32-byte scalar, 61 bytes.

    `kek` is 32 bytes, `nonce` 12 and never used twice with one kek. The version and the kid are
    authenticated, so a row's key cannot be moved under another row's kid.
    """
    scalar = private_key.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")
    return _VERSION + nonce + AESGCM(kek).encrypt(nonce, scalar, _VERSION + kid.encode())


def unseal(kek: bytes, kid: str, sealed: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key that `seal` stored. Raises MasterKeyMismatch when it does not open."""
    if len(sealed) != _SEALED_BYTES or not sealed.startswith(_VERSION):
        raise MasterKeyMismatch(f"key {kid} is sealed in a way this release does not know")
    nonce, box = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    try:
        scalar = AESGCM(kek).decrypt(nonce, box, _VERSION + kid.encode())
    except InvalidTag:
        raise MasterKeyMismatch(f"key {kid} does not open with this master key") from None
    # From the bare scalar, so that no stored byte can choose the curve.
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())


def derive(master: bytes, label: str) -> bytes:
    """A 32-byte key for one purpose, by HKDF-SHA256 (RFC 5869) with the label as info.

    `master` must be at least 32 random bytes: HKDF separates purposes, it does not stretch weak
    secrets. No salt, because every process must derive the same key from the master key alone.
    """
    return HKDF(hashes.SHA256(), length=32, salt=None, info=label.encode()).derive(master)
