"""Refresh tokens: opaque to callers, rotated at each use, at rest only as a hash.

A token is `sfr1_` and base64url of 84 bytes:

    user_id 16 · session_id 16 · generation 4 · secret 32 · tag 16

The ids let one statement find the session by its primary key. The tag (HMAC-SHA256, truncated as in
RFC 2104 section 5) proves that this service made the token, so garbage never reaches Postgres, and
so a token that is genuine but spent can be told from a forged one without keeping a row for each:
only the genuine one is a theft.

The successor's secret is an HMAC of a fresh random salt under the spent token's secret. The salt is
in the session's row, so whoever holds the spent token can be given the *same* successor again (a
lost answer, fifty parallel refreshes), while neither the database alone nor the spent token alone
yields it.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from service.domain.errors import TokenInvalid

PREFIX: Final = "sfr1_"
SECRET_BYTES: Final = 32
SALT_BYTES: Final = 16
_TAG_BYTES: Final = 16
_BODY: Final = struct.Struct(f">16s16sI{SECRET_BYTES}s")


@dataclass(frozen=True, slots=True, repr=False)
class RefreshToken:
    """One generation of a session's refresh token."""

    user_id: UUID
    session_id: UUID
    generation: int
    secret: bytes

    @property
    def digest(self) -> bytes:
        """What Postgres keeps. A plain SHA-256 does: the secret has 256 random bits."""
        return hashlib.sha256(self.secret).digest()

    def successor(self, salt: bytes) -> Self:
        """The one token that replaces this one under `salt`."""
        secret = hmac.digest(self.secret, b"sixfold refresh successor" + salt, "sha256")
        return type(self)(self.user_id, self.session_id, self.generation + 1, secret)

    def text(self, tag_key: bytes) -> str:
        """The token as callers carry it."""
        body = _BODY.pack(self.user_id.bytes, self.session_id.bytes, self.generation, self.secret)
        sealed = body + hmac.digest(tag_key, body, "sha256")[:_TAG_BYTES]
        return PREFIX + base64.urlsafe_b64encode(sealed).decode()


def parse(tag_key: bytes, text: str) -> RefreshToken:
    """Read a token back. Raises TokenInvalid for anything this service did not make."""
    if not text.startswith(PREFIX):
        raise TokenInvalid
    try:
        sealed = base64.b64decode(text[len(PREFIX) :], altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenInvalid from error
    body, tag = sealed[: _BODY.size], sealed[_BODY.size :]
    if not hmac.compare_digest(hmac.digest(tag_key, body, "sha256")[:_TAG_BYTES], tag):
        raise TokenInvalid
    user_id, session_id, generation, secret = _BODY.unpack(body)
    token = RefreshToken(UUID(bytes=user_id), UUID(bytes=session_id), generation, secret)
    # Base64 has other spellings of the same bytes, such as more padding; a token has one.
    if token.text(tag_key) != text:
        raise TokenInvalid
    return token
