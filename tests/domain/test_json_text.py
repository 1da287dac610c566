"""JSON text: one value, the same for every reader, and no bigger when written back."""

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import json_text
from service.domain.errors import InvalidArgument


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("null", id="bare value"),
        pytest.param(' {"a": [1, -2.5e3, true, "x"]}\r\n\t', id="object, with white space"),
        pytest.param('{"a": {"a": 1}}', id="the same name at two levels"),
        pytest.param('{"a": 1, "A": 2}', id="names that differ in case"),
        pytest.param('{"é": 1, "e\u0301": 2}', id="names that differ in normalisation"),
        pytest.param(r'"\ud83d\ude00 😀"', id="surrogate pair"),
        pytest.param(r'"\\u0000 \\ud800"', id="escaped backslash, not an escape"),
        pytest.param(r'"\"\n\u00e9\uFFFF"', id="other escapes"),
        pytest.param("1.7976931348623157e308", id="largest double"),
        pytest.param("-4.9406564584124654e-324", id="smallest double, in full"),
        pytest.param("9007199254740993", id="integer that no double holds"),
        pytest.param("1" + "0" * 308, id="309 digits"),
        pytest.param("-0." + "1" * 399, id="400 digits"),
        pytest.param("0.0e-99", id="zero"),
        pytest.param(nested(100), id="100 levels"),
        pytest.param("[" + "[]," * 1000 + "{}]", id="many brackets, few levels"),
        pytest.param('["' + "[" * 200 + r"\"{" + '"]', id="brackets in a string"),
        pytest.param('"' + "x" * (262_144 - 2) + '"', id="262,144 bytes"),
        pytest.param('"' + "é" * (131_072 - 1) + '"', id="262,144 bytes of two each"),
    ],
)
def test_i_json_is_taken(text: str) -> None:
    json_text.check(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "char 0", id="empty"),
        pytest.param("nul", "char 0", id="no value"),
        pytest.param("1 2", "char 2", id="two values"),
        pytest.param('{"a": SECRET}', "char 6", id="position"),
        pytest.param("{'SECRET': 1}", "char 1", id="single quotes"),
        pytest.param("[1,]", "char 3", id="trailing comma"),
        pytest.param('["SECRET', "char 1", id="unclosed string"),
        pytest.param('"\\', "char 0", id="lone backslash"),
        pytest.param('"\\x"', "escape", id="unknown escape"),
        pytest.param('"a\nb"', "control character", id="newline in a string"),
        pytest.param("\ufeff1", "char 0", id="BOM"),
        pytest.param("١", "char 0", id="Arabic-Indic digit"),
        pytest.param("01", "char 1", id="leading zero"),
        pytest.param("\u00a01", "char 0", id="no-break space"),
        pytest.param("NaN", "NaN", id="NaN"),
        pytest.param("[-Infinity]", "Infinity", id="Infinity"),
        pytest.param('{"SECRET": 1, "SECRET": 2}', "same member name", id="duplicate name"),
        pytest.param('{"a": 1, "\\u0061": 2}', "same member name", id="duplicate when unescaped"),
        pytest.param('[{"x": {"a": 1, "a": 1}}]', "same member name", id="duplicate deep inside"),
        pytest.param(r'"SECRET\u0000"', "character 7", id="U+0000"),
        pytest.param(r'{"\u0000": 1}', "character 2", id="U+0000 in a name"),
        pytest.param(r'"\ud83d"', "character 1", id="high surrogate alone"),
        pytest.param(r'"\ude00\ud83d"', "character 1", id="pair the wrong way round"),
        pytest.param(r'"\\\ud83d"', "character 3", id="surrogate after an escaped backslash"),
        pytest.param(r'"\ud83dxxxxxx"', "character 1", id="half a pair and text"),
        pytest.param('"\ud83d"', "character 1", id="literal surrogate"),
        pytest.param("1e309", "range", id="too large"),
        pytest.param("1" * 310, "range", id="integer too large"),
        pytest.param("1e-324", "range", id="too small, would become 0"),
        pytest.param("-0." + "1" * 400, "400 digits", id="401 digits"),
        pytest.param("1e-3901", "400 digits", id="3,901 decimals when written out"),
        pytest.param("0e-16383", "400 digits", id="zero with 16,383 decimals"),
        pytest.param("1e131071", "400 digits", id="131,072 digits when written out"),
        pytest.param("9" * 5000, "400 digits", id="more digits than int() takes"),
        pytest.param("1e" + "9" * 5000, "400 digits", id="exponent with 5,000 digits"),
        pytest.param(nested(101), "100 levels", id="101 levels"),
        pytest.param('{"a":' * 101 + "1" + "}" * 101, "100 levels", id="101 objects"),
        pytest.param(nested(100_000), "100 levels", id="100,000 levels"),
        pytest.param("[" * 200_000, "100 levels", id="200,000 levels, unclosed"),
        pytest.param("]" * 200 + "[" * 200, "char 0", id="closed before opened"),
        pytest.param("[" * 60 + '"' + "[" * 60, "char 60", id="brackets in an unclosed string"),
        pytest.param('"' + "x" * (262_144 - 1) + '"', "262144 bytes", id="one byte too long"),
        pytest.param('"' + "é" * 131_072 + '"', "262144 bytes", id="few characters, many bytes"),
    ],
)
def test_other_text_is_refused_with_the_reason_but_not_the_content(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        json_text.check(text, "records[3].json")

    (violation,) = caught.value.violations
    assert (violation.field, violation.reason) == ("records[3].json", "JSON_INVALID")
    assert says in violation.description
    assert "SECRET" not in violation.description
    assert caught.value.__suppress_context__


def test_depth_does_not_hang_on_how_deep_the_caller_is() -> None:
    def at_depth(frames: int) -> None:
        if frames:
            at_depth(frames - 1)
        else:
            json_text.check(nested(100))

    at_depth(sys.getrecursionlimit() // 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
@settings(deadline=None)
def test_what_a_json_writer_writes_is_read_back_or_refused(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)

    try:
        read = json_text.parse(text)
    except ValueError:
        assert "\\u0000" in text or "Infinity" in text
    else:
        assert read == value


@given(st.text(st.sampled_from('[]{}",:\\ud83de0019.-+eE tN\n'), max_size=60))
@settings(deadline=None, max_examples=500)
def test_any_text_is_taken_or_refused_and_nothing_else(text: str) -> None:
    try:
        json_text.check(text)
    except InvalidArgument:
        return

    json.loads(text, parse_constant=pytest.fail)


def test_numbers_keep_their_kind() -> None:
    assert json_text.parse("[1, 1.0, 1e2]") == [1, 1.0, 100.0]
    assert type(json_text.parse("1")) is int
    assert type(json_text.parse("1.0")) is float
    assert math.copysign(1, float(str(json_text.parse("-0.0")))) == -1
