"""Pages: every record exactly once, in byte order, by tokens that nobody else can use or make."""

import asyncio
import base64
from typing import Any

import grpc
import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import Api, Person, refused, serving
from tests.rpc.conftest import QUIET
from tests.rpc.wire import code, connected, statements

ODD = ["B", "a", "aa", "a\u0301", "é", "z", "Z", "_", "%", "\\", " ", "🦊", "中"]
KEYS = sorted(ODD, key=str.encode)
COLLECTIONS = ["B", "a", "a-b", "a.b", "a_b", "aa"]  # in byte order
METHODS = ["ListRecords", "GetUserData"]
MIB = 1024 * 1024


def put(api: Api, ann: Person, key: str, collection: str = "c", json: str = "1") -> Any:
    request = pb.PutRecordRequest(collection=collection, key=key, json=json)
    return api.data.PutRecord(request, metadata=ann.metadata)


def page(api: Api, ann: Person, method: str = "ListRecords", **fields: Any) -> Any:
    if method == "ListRecords":
        listing = pb.ListRecordsRequest(**({"collection": "c"} | fields))
        return api.data.ListRecords(listing, metadata=ann.metadata)
    return api.data.GetUserData(pb.GetUserDataRequest(**fields), metadata=ann.metadata)


async def pages(api: Api, ann: Person, method: str = "ListRecords", **fields: Any) -> list[Any]:
    """All pages, each asked for with the token of the one before."""
    found = [await page(api, ann, method, **fields)]
    while found[-1].next_page_token:
        fields["page_token"] = found[-1].next_page_token
        found.append(await page(api, ann, method, **fields))
    return found


def names(found: list[Any]) -> list[tuple[str, str]]:
    return [(record.collection, record.key) for each in found for record in each.records]


async def fill(database_url: str, ann: Person, count: int) -> None:
    """Many records without as many calls."""
    async with connected(database_url) as connection:
        await connection.execute(
            """INSERT INTO records (user_id, collection, key, json, revision, create_time,
                                    update_time)
               SELECT $1, 'c', to_char(n, 'FM00000'), to_jsonb(n), n, now(), now()
                 FROM generate_series(1, $2::integer) AS n""",
            ann.user_id,
            count,
        )


@pytest.mark.parametrize("size", [1, 2, 5, 12, 13, 14])
async def test_all_records_of_a_collection_come_once_in_byte_order(
    api: Api, ann: Person, size: int
) -> None:
    for key in reversed(KEYS):
        await put(api, ann, key)
        await put(api, ann, key, collection="other")

    found = await pages(api, ann, page_size=size)

    assert names(found) == [("c", key) for key in KEYS]
    assert len(found) == -(-len(KEYS) // size)


@pytest.mark.parametrize("size", [1, 4, 7, 100])
async def test_all_records_come_once_by_collection_and_key(
    api: Api, ann: Person, size: int
) -> None:
    expected = [(collection, key) for collection in COLLECTIONS for key in KEYS[:3]]
    for collection, key in reversed(expected):
        await put(api, ann, key, collection)

    assert names(await pages(api, ann, "GetUserData", page_size=size)) == expected


async def test_user_data_can_be_of_one_collection(api: Api, ann: Person) -> None:
    for collection in COLLECTIONS:
        await put(api, ann, "1", collection)
        await put(api, ann, "2", collection)

    found = await pages(api, ann, "GetUserData", page_size=1, collection="a-b")

    assert names(found) == [("a-b", "1"), ("a-b", "2")]


async def test_what_is_written_behind_the_cursor_shows_nothing_twice(api: Api, ann: Person) -> None:
    for number in range(20):
        await put(api, ann, f"m{number:02}")

    seen = []
    token = ""
    while True:
        got = await page(api, ann, page_size=3, page_token=token)
        seen += [record.key for record in got.records]
        await put(api, ann, f"a{len(seen)}")
        await put(api, ann, "m00", json="2")
        token = got.next_page_token
        if not token:
            break

    assert seen == [f"m{number:02}" for number in range(20)]


async def test_every_record_that_stays_is_seen_whatever_others_write(api: Api, ann: Person) -> None:
    stays = [f"k{number:03}" for number in range(0, 100, 2)]
    for key in stays:
        await put(api, ann, key)

    async def write() -> None:
        for number in range(1, 100, 2):
            await put(api, ann, f"k{number:03}")
            await api.data.DeleteRecord(
                pb.DeleteRecordRequest(collection="c", key=f"k{number:03}"),
                metadata=ann.metadata,
            )

    writing = asyncio.ensure_future(write())
    found = [key for _, key in names(await pages(api, ann, page_size=3))]
    await writing

    assert [key for key in found if key in stays] == stays
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("size", "returned"),
    [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (5000, 1000), (2**31 - 1, 1000)],
)
@pytest.mark.parametrize("method", METHODS)
async def test_a_page_size_is_a_wish(
    api: Api, ann: Person, database_url: str, method: str, size: int, returned: int
) -> None:
    await fill(database_url, ann, 1002)

    got = await page(api, ann, method, page_size=size)

    assert len(got.records) == returned
    assert got.next_page_token


@pytest.mark.parametrize("method", METHODS)
async def test_a_negative_page_size_is_refused(api: Api, ann: Person, method: str) -> None:
    why = await refused(page(api, ann, method, page_size=-1))

    assert why.violations == {"page_size": "INT32_GTE"}


@pytest.mark.parametrize("method", METHODS)
async def test_a_page_costs_one_statement_wherever_it_is(
    api: Api, ann: Person, database_url: str, method: str
) -> None:
    await fill(database_url, ann, 30)
    token = (await page(api, ann, method, page_size=10)).next_page_token

    sent = await statements(api, page(api, ann, method, page_size=10, page_token=token))

    assert len(sent) == 1


@pytest.mark.parametrize("method", METHODS)
async def test_a_page_ends_at_two_mebibytes_and_the_next_goes_on(
    api: Api, ann: Person, method: str
) -> None:
    large = '"' + "x" * (250 * 1024) + '"'
    for number in range(20):
        await put(api, ann, f"k{number:02}", json=large)

    found = await pages(api, ann, method, page_size=1000)

    assert [key for _, key in names(found)] == [f"k{number:02}" for number in range(20)]
    assert len(found) == 3
    for each in found:
        assert each.ByteSize() < 2 * MIB + 300 * 1024


async def test_one_largest_record_is_always_returned(api: Api, ann: Person) -> None:
    largest = '"' + "x" * (256 * 1024 - 2) + '"'
    await put(api, ann, "a", json=largest)
    await put(api, ann, "b", json=largest)

    assert [len(each.records) for each in await pages(api, ann, page_size=1)] == [1, 1]


@pytest.mark.parametrize("method", METHODS)
async def test_nothing_is_an_empty_page_and_no_error(api: Api, ann: Person, method: str) -> None:
    got = await page(api, ann, method)

    assert (list(got.records), got.next_page_token) == ([], "")


async def test_user_data_has_the_profile_on_every_page(api: Api, ann: Person) -> None:
    for key in "abc":
        await put(api, ann, key)
    profile = (await api.auth.GetUser(auth_pb2.GetUserRequest(), metadata=ann.metadata)).user

    found = await pages(api, ann, "GetUserData", page_size=2)

    assert [each.user for each in found] == [profile, profile]
    assert [each.revision for each in found] == [3, 3]
    assert (await page(api, await api.new_user(), "GetUserData")).revision == 0


async def test_the_longest_names_there_are_make_a_token_that_works(api: Api, ann: Person) -> None:
    collection, keys = "c" * 128, ['"' * 512, "\\" * 512]
    for key in keys:
        await put(api, ann, key, collection)

    for method in METHODS:
        found = await pages(api, ann, method, collection=collection, page_size=1)
        assert names(found) == [(collection, key) for key in keys]


async def token_of(api: Api, ann: Person, method: str = "ListRecords", **fields: Any) -> str:
    for key in "abc":
        await put(api, ann, key)
        await put(api, ann, key, "d")
    token: str = (await page(api, ann, method, page_size=1, **fields)).next_page_token
    assert token
    return token


def turned(token: str) -> dict[str, str]:
    """The token with one bit of one byte turned, for every byte; and other near misses."""
    sealed = base64.urlsafe_b64decode(token)
    flipped = {
        f"byte {index}": sealed[:index] + bytes([byte ^ 1]) + sealed[index + 1 :]
        for index, byte in enumerate(sealed)
    }
    other = flipped | {
        "half": sealed[: len(sealed) // 2],
        "no body": sealed[:16],
        "no mac": sealed[16:],
        "a byte more": sealed + b" ",
        "zeros": bytes(len(sealed)),
    }
    return {name: base64.urlsafe_b64encode(data).decode() for name, data in other.items()} | {
        "garbage": "garbage",
        "not ASCII": "é",
        "one character": "A",
        "space": " ",
    }


async def test_a_tampered_token_is_refused_without_a_statement(api: Api, ann: Person) -> None:
    token = await token_of(api, ann)

    for name, text in turned(token).items():
        call = page(api, ann, page_size=1, page_token=text)
        assert await statements(api, call) == [], name
        why = await refused(call)
        assert (why.code, why.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        ), name


async def test_a_token_is_of_one_user_one_method_and_one_collection(
    api: Api, ann: Person, bob: Person
) -> None:
    listed = await token_of(api, ann)
    everything = await token_of(api, ann, "GetUserData")
    of_c = await token_of(api, ann, "GetUserData", collection="c")
    await token_of(api, bob)

    calls = [
        page(api, bob, page_token=listed),
        page(api, bob, "GetUserData", page_token=everything),
        page(api, ann, "GetUserData", page_token=listed),
        page(api, ann, "GetUserData", page_token=listed, collection="c"),
        page(api, ann, page_token=of_c),
        page(api, ann, page_token=listed, collection="d"),
        page(api, ann, "GetUserData", page_token=everything, collection="c"),
        page(api, ann, "GetUserData", page_token=of_c),
    ]

    assert {(await refused(call)).reason for call in calls} == {"PAGE_TOKEN_INVALID"}


async def test_a_token_goes_on_in_another_session_and_at_another_server(
    api: Api, ann: Person, database_url: str
) -> None:
    token = await token_of(api, ann)

    async with serving(database_url, **QUIET) as other:
        again = await other.login(ann.username)
        got = await page(other, again, page_token=token)

    assert [record.key for record in got.records] == ["b", "c"]


async def test_a_token_outlives_no_session(api: Api, ann: Person) -> None:
    token = await token_of(api, ann)
    await api.auth.Logout(auth_pb2.LogoutRequest(), metadata=ann.metadata)

    assert (await refused(page(api, ann, page_token=token))).reason == "SESSION_REVOKED"


async def test_a_token_goes_on_after_its_record_is_gone(api: Api, ann: Person) -> None:
    token = await token_of(api, ann)
    for key in "ab":
        await api.data.DeleteRecord(
            pb.DeleteRecordRequest(collection="c", key=key), metadata=ann.metadata
        )

    got = await page(api, ann, page_token=token)

    assert [record.key for record in got.records] == ["c"]


async def test_a_token_longer_than_any_is_refused(api: Api, ann: Person) -> None:
    assert await code(page(api, ann, page_token="A" * 2049)) is grpc.StatusCode.INVALID_ARGUMENT
