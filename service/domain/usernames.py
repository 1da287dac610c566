"""Usernames: one canonical form for all spellings of one name."""

import re
from typing import Final

from precis_i18n import get_profile

from service.domain.errors import InvalidArgument, Violation

MAX_CODE_POINTS: Final = 64
MAX_BYTES: Final = 255  # of UTF-8; the widest name, 64 code points of 4 bytes, is one too long

# Width mapping keeps the length and NFC shortens at most 4 to 1 (U+1F82), so more than this cannot
# become a name. Before mapping, because NFC takes quadratic time on long runs of accents.
_MAX_RAW: Final = 4 * MAX_CODE_POINTS

# RFC 8265 3.3: no spaces, controls, symbols or unassigned code points; lower case; full- and
# half-width forms mapped; NFC; the Bidi Rule. Case is mapped by toLowerCase, as the RFC prefers,
# so "ß" and "ss" stay two names.
_PROFILE: Final = get_profile("UsernameCaseMapped")

# Of these all are allowed, and only case is mapped: for most names the library, which is an eighth
# of what a login has to do but for its hash, is not asked.
_ASCII: Final = re.compile("[!-~]+")


def canonical(username: str) -> str:
    """The form that is stored and compared: at most 64 code points and 255 bytes, idempotent.

    Raises InvalidArgument(USERNAME_INVALID), without the name, for anything that is not a name.
    """
    if len(username) > _MAX_RAW:
        raise _invalid(f"longer than {MAX_CODE_POINTS} characters")
    try:
        ascii_only = _ASCII.fullmatch(username)
        name: str = username.lower() if ascii_only else _PROFILE.enforce(username)
    except UnicodeError:
        # All PRECIS refusals are this. Its reason names Unicode tables, and it holds the name.
        raise _invalid("empty, or has characters no username has (RFC 8265)") from None
    if len(name) > MAX_CODE_POINTS or len(name.encode()) > MAX_BYTES:
        raise _invalid(f"longer than {MAX_CODE_POINTS} characters or {MAX_BYTES} bytes")
    return name


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument(Violation("username", "USERNAME_INVALID", description))
