"""JSON text that every reader reads the same way, and that jsonb keeps whole.

RFC 8259 leaves duplicate names, huge numbers and lone surrogates to the reader; RFC 7493 (I-JSON)
does not. Readers that differ are how data gets lost (jsonb keeps one of two equal names) and how a
check is passed by one reader and evaded before another, so access tokens are read here too.
"""

import json
import math
import re
from itertools import accumulate
from typing import Final, NoReturn

from service.domain import limits
from service.domain.errors import InvalidArgument, Violation

MAX_BYTES: Final = limits.VALUE_BYTES

# Python's reader recurses once per level and its limit is 1,000 frames in all; 100 is far beyond
# data made by people, and leaves the caller's frames alone.
MAX_DEPTH: Final = 100

# jsonb stores numeric and writes it in full: 1e131071 comes back as 131,072 digits and 1e-16383 as
# 16,385 characters, so a small request would become a huge answer. Every IEEE double passes:
# the longest, 4.9406564584124654e-324, is 17 digits and an exponent of 324.
MAX_DIGITS: Final = 400

# The largest double is 1.8e308: a whole number with fewer digits than this is always in range.
_SAFE_INTEGER_DIGITS: Final = 300

# The text without its strings and everything else that neither opens nor closes a level.
_NOT_BRACKETS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^\[\]{}"]++', re.DOTALL)
_STEP: Final = {"[": 1, "{": 1, "]": -1, "}": -1}

# The longest prefix whose characters and escapes are Unicode scalar values other than U+0000.
# Possessive, so that it never goes back: linear, and no stack.
_SCALARS: Final = re.compile(
    r"(?:[^\\\ud800-\udfff]++"
    r"|\\(?:[^u]|u(?!0000|[dD][89a-fA-F]))"
    r"|\\u[dD][89abAB]..\\u[dD][c-fC-F])*+",
    re.DOTALL,
)


def check(text: str, field: str = "json") -> None:
    """Refuse text that is not one I-JSON value within the limits above.

    Raises InvalidArgument(JSON_INVALID) for `field`. The description tells the rule, and the
    position where there is one, but nothing of the content. Linear in the length of the text.
    """
    try:
        parse(text)
    except ValueError as error:
        # `from None`: JSONDecodeError holds the whole text, and a chained one gets logged.
        raise InvalidArgument(Violation(field, "JSON_INVALID", str(error))) from None


def parse(text: str) -> object:
    """The value of one I-JSON text within the limits above.

    Raises ValueError, without content, for anything else. Noncharacters (U+FFFE …) pass, against
    RFC 7493 but with Unicode's Corrigendum 9: they harm no reader and jsonb keeps them.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    value: object = _DECODER.decode(text)
    # After the decoder, so that every backslash is known to begin an escape inside a string.
    rest = _SCALARS.sub("", text, count=1)
    if rest:
        raise ValueError(f"lone surrogate or U+0000 at character {len(text) - len(rest)}")
    return value


def _depth(text: str) -> int:
    """The deepest level of well-formed text, without recursion.

    Of malformed text it is right as far as the text is well-formed, which is as far as the decoder
    goes.
    """
    brackets = _NOT_BRACKETS.sub("", text)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    """An object's members. Names are compared after unescaping, as jsonb does."""
    result = dict(members)
    if len(result) != len(members):
        raise ValueError("an object has the same member name twice")
    return result


def _integer(literal: str) -> int:
    if len(literal) > _SAFE_INTEGER_DIGITS:
        _double(literal)
    return int(literal)


def _double(literal: str) -> float:
    """The nearest double, of a number that has one and is short when written out."""
    mantissa, _, exponent = literal.lower().partition("e")
    # An exponent of six characters is out of range, or padded; int() of a longer one could be slow.
    if len(exponent) > 5 or len(mantissa) + abs(int(exponent or 0)) > MAX_DIGITS + len("-."):
        raise ValueError(f"a number has more than {MAX_DIGITS} digits when written out")
    value = float(literal)
    if math.isinf(value) or (value == 0 and mantissa.strip("-0.")):
        raise ValueError("a number is outside the range of an IEEE double")
    return value


def _constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


# All hooks of the C scanner; none of them makes it fall back to the Python one.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=_integer,
    parse_float=_double,
    parse_constant=_constant,
)
