"""What a record can hold and be called: JSON exactly as it was meant, names as bytes."""

import json
from typing import Any

import grpc
import pytest
from sixfold.data.v1 import data_pb2 as pb

from service.domain import limits
from tests.conftest import Api, Person, refused
from tests.rpc.wire import code, statements

OK = grpc.StatusCode.OK
KIB = 1024
MIB = 1024 * KIB


def put(api: Api, ann: Person, json: str, key: str = "k", collection: str = "c") -> Any:
    request = pb.PutRecordRequest(collection=collection, key=key, json=json)
    return api.data.PutRecord(request, metadata=ann.metadata)


async def kept(api: Api, ann: Person, key: str = "k", collection: str = "c") -> str:
    request = pb.GetRecordRequest(collection=collection, key=key)
    return (await api.data.GetRecord(request, metadata=ann.metadata)).record.json


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "true",
        '""',
        "0",
        "1.10",
        "100000000000000000000000000000000000000000000000001",
        "0.1000000000000000055511151231257827",
        "123456789.987654321000",
        '"é 中 🦊 \u2028 \ufffe"',
        '"\\"\\\\/"',
        "[]",
        "{}",
        '{"": 1}',
        '{"a": {"a": [1, 2.50, null]}}',
    ],
)
async def test_canonical_text_comes_back_as_it_is(api: Api, ann: Person, text: str) -> None:
    await put(api, ann, text)

    assert await kept(api, ann) == text


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        (" [1,2 ,\n3]\t", "[1, 2, 3]"),
        ("1e2", "100"),
        ("1E-2", "0.01"),
        ("1.50e1", "15.0"),
        ("-0.0", "0.0"),
        ('{"bb": 1, "a": 2}', '{"a": 2, "bb": 1}'),
        ('"\\u00e9\\ud83e\\udd8a"', '"é🦊"'),
        ('"\\u001f\\u007f"', '"\\u001f\x7f"'),
    ],
)
async def test_other_text_comes_back_in_the_canonical_form(
    api: Api, ann: Person, sent: str, canonical: str
) -> None:
    await put(api, ann, sent)

    assert await kept(api, ann) == canonical


@pytest.mark.parametrize(
    "text",
    ["1.7976931348623157e308", "4.9406564584124654e-324", "-1.5e300", "9" * 308],
)
async def test_every_double_is_kept_exactly(api: Api, ann: Person, text: str) -> None:
    await put(api, ann, text)

    assert float(await kept(api, ann)) == float(text)


NOT_JSON = {
    "nothing but space": " ",
    "unquoted": "hello",
    "two values": "1 2",
    "trailing comma": "[1,]",
    "single quotes": "{'a': 1}",
    "comment": "1 // one",
    "leading zero": "01",
    "plus": "+1",
    "no digit after the point": "1.",
    "hexadecimal": "0x10",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "raw newline in a string": '"a\nb"',
    "raw NUL in a string": '"a\0b"',
    "unknown escape": '"\\x41"',
    "no-break space": "\u00a01",
    "BOM": "\ufeff1",
    "member twice": '{"a": 1, "a": 2}',
    "member twice, escaped": '{"a": 1, "\\u0061": 2}',
    "member twice, deep": '[{"x": {"a": 1, "b": 2, "a": 1}}]',
    "U+0000": '"\\u0000"',
    "U+0000 in a name": '{"\\u0000": 1}',
    "high surrogate": '"\\ud83e"',
    "low surrogate": '"\\udd8a"',
    "surrogates the wrong way round": '"\\udd8a\\ud83e"',
    "number bomb": "1e131071",
    "small number bomb": "1e-16383",
    "beyond the doubles": "1e309",
    "below the doubles": "1e-400",
    "huge exponent": "1e99999999999999999999",
    "500 digits": "9" * 500,
    "250,000 digits": "9" * 250_000,
    "101 levels": "[" * 101 + "]" * 101,
    "100,000 levels": "[" * 100_000 + "]" * 100_000,
    "100,000 levels, open": "[" * 100_000,
    "200 levels of objects": '{"a":' * 200 + "1" + "}" * 200,
}


@pytest.mark.parametrize("name", NOT_JSON)
async def test_what_readers_would_read_differently_is_refused(
    api: Api, ann: Person, name: str
) -> None:
    call = put(api, ann, NOT_JSON[name])

    assert await statements(api, call) == []
    why = await refused(call)
    assert (why.code, why.violations) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        {"json": "JSON_INVALID"},
    )


async def test_a_hundred_levels_are_kept(api: Api, ann: Person) -> None:
    await put(api, ann, "[" * 100 + "]" * 100)

    assert await kept(api, ann) == "[" * 100 + "]" * 100


async def test_256_kib_are_kept_and_a_byte_more_is_not(api: Api, ann: Person) -> None:
    largest = '"' + "x" * (limits.VALUE_BYTES - 2) + '"'
    await put(api, ann, largest)
    assert await kept(api, ann) == largest

    why = await refused(put(api, ann, largest + " "))

    assert why.violations == {"json": "STRING_MAX_BYTES"}


async def test_the_limit_is_of_bytes_and_not_of_characters(api: Api, ann: Person) -> None:
    fits = '"' + "🦊" * (limits.VALUE_BYTES // 4 - 1) + '"'
    await put(api, ann, fits)
    assert await kept(api, ann) == fits

    assert await code(put(api, ann, fits.replace("🦊", "🦊🦊", 1))) is not OK


async def test_the_limit_is_also_of_the_canonical_form(api: Api, ann: Person) -> None:
    # Postgres writes a space after each comma.
    count = limits.VALUE_BYTES // 3
    fits = json.dumps([0] * count, separators=(",", ":"))
    await put(api, ann, fits)
    assert len(await kept(api, ann)) == 3 * count

    why = await refused(put(api, ann, json.dumps([0] * (count + 1), separators=(",", ":"))))

    assert why.violations == {"json": "JSON_TOO_LARGE"}
    assert len(await kept(api, ann)) == 3 * count


async def test_small_texts_cannot_make_large_values(api: Api, ann: Person) -> None:
    why = await refused(put(api, ann, f"[{','.join(['1e308'] * 2000)}]"))

    assert why.violations == {"json": "JSON_TOO_LARGE"}


@pytest.mark.parametrize("compression", grpc.Compression)
async def test_a_message_over_the_limit_is_refused_however_packed(
    api: Api, ann: Person, compression: grpc.Compression
) -> None:
    large = pb.PutRecordRequest(collection="c", key="k", json="1" * 64 * MIB)

    call = api.data.PutRecord(large, metadata=ann.metadata, compression=compression)

    assert await statements(api, call) == []
    assert await code(call) is grpc.StatusCode.RESOURCE_EXHAUSTED


NAMES = [
    "%",
    "_",
    "\\",
    "a%b_c\\d",
    "'; DROP TABLE records; --",
    '"',
    "$1",
    " ",
    " leading and trailing ",
    "../../etc/passwd",
    "a/b",
    "é",
    "e\u0301",
    "É",
    "🦊" * 128,
    "x" * 512,
    "\u202e",
    "\u0085\u2028",
    "null",
    "-1",
]


async def test_keys_are_taken_literally_and_told_apart(api: Api, ann: Person) -> None:
    for number, key in enumerate(NAMES):
        await put(api, ann, str(number), key)

    for number, key in enumerate(NAMES):
        assert await kept(api, ann, key) == str(number), key
    listing = pb.ListRecordsRequest(collection="c", page_size=1000)
    page = await api.data.ListRecords(listing, metadata=ann.metadata)
    assert [record.key for record in page.records] == sorted(NAMES, key=str.encode)


@pytest.mark.parametrize("key", ["%", "_", "x_z", "x%", "X"])
async def test_a_key_is_no_pattern(api: Api, ann: Person, key: str) -> None:
    for other in ("x", "xyz", "a"):
        await put(api, ann, "1", other)

    why = await refused(
        api.data.DeleteRecord(
            pb.DeleteRecordRequest(collection="c", key=key), metadata=ann.metadata
        )
    )

    assert why.reason == "RECORD_NOT_FOUND"


@pytest.mark.parametrize(
    ("field", "name", "rule"),
    [
        ("key", "", "STRING_MIN_LEN"),
        ("key", "x" * 513, "STRING_MAX_BYTES"),
        ("key", "é" * 257, "STRING_MAX_BYTES"),
        ("key", "a\0b", "STRING_PATTERN"),
        ("key", "a\n", "STRING_PATTERN"),
        ("key", "\x7f", "STRING_PATTERN"),
        ("collection", "", "STRING_PATTERN"),
        ("collection", "c" * 129, "STRING_PATTERN"),
        ("collection", "a b", "STRING_PATTERN"),
        ("collection", "a/b", "STRING_PATTERN"),
        ("collection", "é", "STRING_PATTERN"),
        ("collection", "c\n", "STRING_PATTERN"),
        ("collection", "%", "STRING_PATTERN"),
    ],
)
async def test_a_name_outside_the_rule_is_refused_by_every_method(
    api: Api, ann: Person, field: str, name: str, rule: str
) -> None:
    named: dict[str, Any] = {"collection": "c", "key": "k"} | {field: name}
    calls = [
        api.data.PutRecord(pb.PutRecordRequest(json="1", **named), metadata=ann.metadata),
        api.data.GetRecord(pb.GetRecordRequest(**named), metadata=ann.metadata),
        api.data.DeleteRecord(pb.DeleteRecordRequest(**named), metadata=ann.metadata),
    ]

    for call in calls:
        assert (await refused(call)).violations == {field: rule}


@pytest.mark.parametrize("collection", ["C", "c" * 128, "a.b-c_d", "..", "0"])
async def test_collections_are_told_apart_by_every_character(
    api: Api, ann: Person, collection: str
) -> None:
    await put(api, ann, "1")
    await put(api, ann, "2", collection=collection)

    assert await kept(api, ann) == "1"
    assert await kept(api, ann, collection=collection) == "2"
