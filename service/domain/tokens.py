"""Access tokens: JWTs of RFC 9068, signed with ES256, in exactly one spelling.

PyJWT checks the signature; everything it is generous about (padding, duplicate names, types,
audiences, missing claims, `typ`) is checked here, strictly. What is wrong is never said:
TokenInvalid is all an attacker learns.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import jwt

from service.domain import json_text, limits
from service.domain.errors import TokenExpired, TokenInvalid
from service.domain.keys import KeySet, SigningKey
from service.domain.models import Caller

# Ours are about 600 characters. gRPC's metadata limit is 8 KiB for all of a call's metadata.
MAX_CHARACTERS: Final = limits.ACCESS_TOKEN_CHARACTERS
MAX_LEEWAY: Final = timedelta(seconds=60)  # RFC 7519 4.1.4: "no more than a few minutes"
_MAX_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second a datetime can hold

_PART: Final = "[A-Za-z0-9_-]"
_COMPACT: Final = re.compile(rf"({_PART}+)\.({_PART}+)\.({_PART}{{86}})")  # 86: 64 bytes, r and s
_CANONICAL_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_CLIENT_ID: Final = re.compile(r"[\x20-\x7e]+")  # RFC 6749 A.1
_ONE_SCOPE: Final = r"[\x21\x23-\x5b\x5d-\x7e]+"  # RFC 6749 3.3
_SCOPE: Final = re.compile(rf"(?:{_ONE_SCOPE}(?: {_ONE_SCOPE})*)?")

# The other algorithms are not registered in this object at all, so nothing can select them.
_ES256: Final = jwt.PyJWS(algorithms=["ES256"])
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068 4


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Whose tokens, for whom, for how long. `leeway` forgives clocks that differ, either way."""

    issuer: str
    audience: str
    lifetime: timedelta
    leeway: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        """Raises ValueError for a policy that would weaken every check, at start, not in a call."""
        if not timedelta(0) <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"the leeway must be between 0 and {MAX_LEEWAY.seconds} s")
        if self.lifetime < timedelta(seconds=1):
            raise ValueError("the lifetime must be at least 1 s")


def mint(
    policy: TokenPolicy,
    key: SigningKey,
    *,
    user_id: UUID,
    session_id: UUID,
    client_id: str,
    scopes: Sequence[str],
    token_id: UUID,
    now: datetime,
) -> tuple[str, datetime]:
    """A signed token and when it expires (a whole second, at most `lifetime` after `now`).

    Raises ValueError for a client or scope that `verify` would refuse or read otherwise: a scope
    with a space in it would become two.
    """
    if not _CLIENT_ID.fullmatch(client_id):
        raise ValueError("the client id is not one of RFC 6749")
    if not all(re.fullmatch(_ONE_SCOPE, scope) for scope in scopes):
        raise ValueError("a scope is not one of RFC 6749")
    issued = int(now.timestamp())
    expires = issued + int(policy.lifetime.total_seconds())
    claims = {
        "iss": policy.issuer,
        "aud": policy.audience,
        "sub": str(user_id),
        "client_id": client_id,
        "iat": issued,
        "exp": expires,
        "jti": str(token_id),
        "sid": str(session_id),
        "scope": " ".join(scopes),
    }
    headers = {"typ": "at+jwt", "kid": key.kid}
    token = jwt.encode(claims, key.private_key, algorithm="ES256", headers=headers)
    return token, datetime.fromtimestamp(expires, UTC)


def verify(policy: TokenPolicy, keys: KeySet, token: str, now: datetime) -> Caller:
    """Whom the token speaks for.

    Raises TokenExpired for a token that was good until its time ran out, TokenInvalid for every
    other input, and nothing else. The text of a token is not its identity: by ECDSA's nature a
    second valid signature follows from the first, so deny by `jti` or `sid`, never by text.
    """
    try:
        kid = _kid(token)
        public_key = keys.public_key(kid, now)
        if public_key is None:
            raise TokenInvalid()
        verified = _ES256.decode_complete(token, public_key, algorithms=["ES256"])
        return _caller(policy, _json_object(verified["payload"]), now)
    # RuntimeError has RecursionError, ArithmeticError has OverflowError; json, binascii and UUID
    # raise ValueError. The checks above leave no way to most of these, but PyJWT has surprised
    # before (a list as `iss`), and a surprise must be a refusal, not INTERNAL.
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError):
        raise TokenInvalid() from None


def key_id(token: str) -> str | None:
    """The kid a token claims, unverified; None if it is not even shaped like one of ours.

    For deciding whether an unknown key is worth a reload, and for nothing else.
    """
    try:
        return _kid(token)
    except (TokenInvalid, ValueError):
        return None


def _kid(token: str) -> str:
    """The kid of a token in our one spelling. Raises TokenInvalid or ValueError."""
    # The length first: the rest costs time in proportion to it.
    match = _COMPACT.fullmatch(token) if len(token) <= MAX_CHARACTERS else None
    if match is None:
        raise TokenInvalid()
    header, _, _ = (_canonical(part) for part in match.groups())
    members = _json_object(header)
    # Exactly these three: a member we do not know could change the meaning (crit, b64, zip) or
    # offer a key (jwk, jku, x5c, x5u).
    if members.keys() != {"alg", "typ", "kid"} or members["alg"] != "ES256":
        raise TokenInvalid()
    kind, kid = members["typ"], members["kid"]
    if not isinstance(kind, str) or kind.lower() not in _TYPES or not isinstance(kid, str):
        raise TokenInvalid()
    return kid


def _canonical(part: str) -> bytes:
    """The bytes of a part that is spelled as RFC 7515 spells them: its unused bits are zero."""
    decoded = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != part.encode():
        raise TokenInvalid()
    return decoded


def _json_object(data: bytes) -> dict[str, object]:
    """A JSON object in UTF-8. Raises TokenInvalid or ValueError."""
    value = json_text.parse(data.decode())
    if not isinstance(value, dict):
        raise TokenInvalid()
    return value


def _caller(policy: TokenPolicy, claims: dict[str, object], now: datetime) -> Caller:
    """The caller of genuine claims. Expiry is the last question, so that TokenExpired means that
    nothing else is wrong.
    """
    if claims["iss"] != policy.issuer or claims["aud"] != policy.audience:
        raise TokenInvalid()
    user_id, session_id, _ = (_uuid(claims[name]) for name in ("sub", "sid", "jti"))
    client_id = _text(claims["client_id"], _CLIENT_ID)
    scope = _text(claims["scope"], _SCOPE)
    issued, expires = _time(claims["iat"]), _time(claims["exp"])
    starts = _time(claims.get("nbf", claims["iat"]))  # we set none, but whoever does means it
    if max(issued, starts) > now + policy.leeway or expires <= issued:
        raise TokenInvalid()
    if expires <= now - policy.leeway:
        raise TokenExpired()
    return Caller(user_id, session_id, client_id, frozenset(scope.split()), expires)


def _text(claim: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(claim, str) or not pattern.fullmatch(claim):
        raise TokenInvalid()
    return claim


def _uuid(claim: object) -> UUID:
    # UUID() itself takes braces, upper case, "urn:uuid:" and no hyphens: many texts for one user.
    return UUID(_text(claim, _CANONICAL_UUID))


def _time(claim: object) -> datetime:
    """A NumericDate in whole seconds. Not a bool, which Python counts among the ints."""
    if type(claim) is not int or not 0 <= claim <= _MAX_TIME:
        raise TokenInvalid()
    return datetime.fromtimestamp(claim, UTC)
