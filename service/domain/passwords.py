"""Passwords: which ones we take, and how they are kept.

NIST SP 800-63B-4 3.1.1.2 and the OWASP Password Storage Cheat Sheet, as numbers: length counts,
composition does not, nothing is cut off, and a guessable password is refused with its reason.

argon2id is libsodium's, which uses what vectors the processor has: with AVX-512, twice as many
hashes a second as argon2-cffi, which is the reference implementation.
"""

import re
import unicodedata
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from nacl.bindings import (
    crypto_pwhash_alg,
    crypto_pwhash_ALG_ARGON2ID13,
    crypto_pwhash_str_verify,
)
from nacl.exceptions import CryptoError

from service.domain.errors import InvalidArgument, Violation

# As in the protos (1,024 bytes). Checked before normalising, which takes quadratic time on long
# runs of accents: 2 ms for this many code points, 400 ms for 16,384.
MAX_RAW: Final = 1024

SALT_BYTES: Final = 16  # RFC 9106 3.1
_HASH_BYTES: Final = 32

# What a stored hash may ask of us, whoever wrote it: ory/kratos' limits on imported hashes, and
# four times as many threads as RFC 9106 recommends.
_MAX_MEMORY_KIB: Final = 1024 * 1024
_MAX_TIME_COST: Final = 10
_MAX_PARALLELISM: Final = 16
_PHC: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{16,86}"
)

# Fewer different characters than this outside common words and sequences is no password: six
# random digits are what an attacker tries first.
_MIN_DISTINCT: Final = 6
_COMMON: Final = re.compile(
    "sixfold|passwor[dt]|p[a@][s$]{2}w[o0]rd|motdepasse|contrase[nñ]a|parola|senha|letmein|welcome"
    "|iloveyou|love|changeme|secret|admin|istrator|root|user|login|default|guest|test|master"
    "|monkey|dragon|shadow|princess|sunshine|superman|batman|pokemon|starwars|trustno1|whatever"
    "|football|baseball|basketball|soccer|liverpool|chelsea|arsenal|michael|jordan|jennifer"
    "|charlie|daniel|ashley|hello|computer|internet|samsung|google|facebook|mustang|ferrari"
    "|spring|summer|autumn|winter|january|february|monday|friday|money|freedom|blink182"
    "|correct ?horse ?battery ?staple"  # xkcd 936: everybody's example, so everybody's password
)
_ROWS: Final = (
    "0123456789012",
    "abcdefghijklmnopqrstuvwxyzabc",
    "qwertyuiop[]",
    "qwertzuiopü",
    "azertyuiop",
    "asdfghjkl;'",
    "zxcvbnm,./",
    "!@#$%^&*()_+",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "1a2b3c4d5e6f7g8h9i0j",
    "0o0",
)
_STEPS: Final = frozenset(
    pair for row in _ROWS for line in (row, row[::-1]) for pair in pairwise(line)
)


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """What a password must be, in code points after `prepare`, and what hashing it costs.

    15 because the password is the only factor (63B-4); 19 MiB, 2 passes and the one lane that
    libsodium makes are OWASP's argon2id, 11 ms here.
    """

    min_length: int = 15
    max_length: int = 256
    memory_kib: int = 19_456
    time_cost: int = 2


def prepare(password: str) -> str:
    """The password as it is counted, compared and hashed (RFC 8265 OpaqueString).

    Other spaces become U+0020 and the text becomes NFC, because keyboards differ in both and the
    user cannot see it: "é" is one code point from one phone and two from another. Case, and spaces
    at the ends, stay: they are the user's entropy. Nothing is cut off, so that a password differing
    only in its last character is another one. Unlike the RFC we also take code points that Unicode
    has not assigned yet: next year's emoji.
    """
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in password)
    return unicodedata.normalize("NFC", spaced)


def check(policy: PasswordPolicy, password: str, *, username: str, field: str) -> None:
    """Refuse a new password that is too short, too long or too common.

    Raises InvalidArgument for `field`, which never holds the password.
    """
    prepared = prepare(password) if len(password) <= MAX_RAW else None
    if prepared is None or len(prepared) > policy.max_length:
        description = f"longer than {policy.max_length} characters"
        raise InvalidArgument(Violation(field, "PASSWORD_TOO_LONG", description))
    if len(prepared) < policy.min_length:
        description = f"shorter than {policy.min_length} characters"
        raise InvalidArgument(Violation(field, "PASSWORD_TOO_SHORT", description))
    if _is_common(prepared, username):
        description = "made of common words, sequences, repetitions or the username"
        raise InvalidArgument(Violation(field, "PASSWORD_COMMON", description))


def _is_common(prepared: str, username: str) -> bool:
    """Whether little remains when everything a guesser tries first is taken away.

    63B-4 3.1.1.2 asks to refuse what is commonly used, expected or compromised, and words of the
    context. At 15 characters and more that is almost always a few common words, keyboard walks and
    counts put together, so instead of a list of such passwords: take away the username, our own
    name, the commonest password words, and every character that repeats or continues the one
    before it (123, cba, qwer, 1qaz); then look whether 6 different characters remain. A text that
    is one piece repeated is refused too. Random words, letters or symbols pass; of random 15-digit
    numbers it refuses about one in eleven, and of random 15-letter ones one in seven hundred.
    """
    text = prepared.casefold()
    if text in (text + text)[1:-1]:
        return True
    rest = _COMMON.sub("", text.replace(username.casefold(), ""))
    kept = {b for a, b in pairwise(" " + rest) if a != b and (a, b) not in _STEPS}
    return len(kept - {" "}) < _MIN_DISTINCT


def hash_password(policy: PasswordPolicy, password: str, salt: bytes) -> str:
    """The PHC string to store. `salt` is 16 random bytes. Takes 11 ms without the GIL: call it in
    a thread.
    """
    digest = crypto_pwhash_alg(
        _HASH_BYTES,
        _secret(password),
        salt,
        policy.time_cost,
        policy.memory_kib * 1024,
        crypto_pwhash_ALG_ARGON2ID13,
    )
    return _phc(policy, salt, digest)


def verify_password(encoded: str, password: str) -> bool:
    """Whether the password is the stored one. Costs what `encoded` says, without the GIL.

    False, at once and without allocating, for a stored hash that is not argon2id, asks for more
    than the limits above or has more than the 127 characters that libsodium reads, and for a
    password longer than any we took.
    """
    if _cost(encoded) is None or len(password) > MAX_RAW:
        return False
    try:
        return crypto_pwhash_str_verify(encoded.encode("ascii"), _secret(password))
    except CryptoError:
        return False


def needs_rehash(policy: PasswordPolicy, encoded: str) -> bool:
    """Whether a hash that just verified was made with other costs than the policy's."""
    return _cost(encoded) != (policy.memory_kib, policy.time_cost, 1)


@lru_cache(maxsize=8)  # a process has one policy; tests have a few
def decoy(policy: PasswordPolicy) -> str:
    """A hash to verify against when there is no such user, so that it takes the same time.

    Its digest is all zeros and was never computed, so making it is free, and no password is known
    to match: finding one is a preimage of 256 bits.
    """
    return _phc(policy, bytes(SALT_BYTES), bytes(_HASH_BYTES))


def _phc(policy: PasswordPolicy, salt: bytes, digest: bytes) -> str:
    parts = (b64encode(part).rstrip(b"=").decode() for part in (salt, digest))
    return f"$argon2id$v=19$m={policy.memory_kib},t={policy.time_cost},p=1${'$'.join(parts)}"


def _cost(encoded: str) -> tuple[int, int, int] | None:
    """(KiB, passes, lanes) of a stored hash; None if it is not one we are willing to compute."""
    match = _PHC.fullmatch(encoded)
    if match is None:
        return None
    memory, time, lanes = (int(number) for number in match.groups())
    if memory > _MAX_MEMORY_KIB or time > _MAX_TIME_COST or lanes > _MAX_PARALLELISM:
        return None
    return memory, time, lanes


def _secret(password: str) -> bytes:
    # Protobuf strings hold no lone surrogates; another door's could, and must not fail on them.
    return prepare(password).encode("utf-8", "surrogatepass")
