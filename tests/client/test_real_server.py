"""Every method of both clients, against the real server and its Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import jwt
import pytest
import sixfold

from tests.client.real import (
    Connect,
    both_clients,
    counting,
    credentials,
    end_session,
    new_name,
    target,
)
from tests.conftest import PASSWORD, Api

pytestmark = both_clients


async def test_a_user_is_made_logs_in_and_is_known(api: Api, connect: Connect) -> None:
    name = new_name()

    async with connect(target(api)) as client:
        made = await client.create_user(name.upper(), PASSWORD)
        user = await client.login(name, PASSWORD)

        assert made == user == await client.me()
        assert user.username == name
        assert user.create_time.tzinfo is UTC


async def test_a_login_gives_tokens_with_scopes_and_ends(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api), scopes=["data.read"]) as client:
        assert client.tokens is None
        await client.login(ann.username, PASSWORD)
        tokens = client.tokens

    assert tokens is not None
    assert tokens.scopes == ("data.read",)
    assert datetime.now(UTC) < tokens.access_token_expire_time < tokens.refresh_token_expire_time
    assert tokens.access_token not in repr(tokens)


async def test_the_service_is_ready(api: Api, connect: Connect) -> None:
    async with connect(target(api)) as client:
        await client.ready(timeout=5)


async def test_keys_verify_access_tokens(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api)) as client:
        keys = await client.keys()

    (key,) = jwt.PyJWKSet.from_dict(dict(keys.jwks)).keys
    claims = jwt.decode(ann.tokens.access_token, key, algorithms=["ES256"], audience="sixfold")
    assert claims["sub"] == ann.user_id
    assert keys.max_age > timedelta(0)


async def test_a_record_comes_back_as_it_was_put(api: Api, connect: Connect) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    value = {"text": "ü", "list": [1, None, True], "big": 2**60}

    async with connect(target(api), **credentials(await api.new_user())) as client:
        written = await client.put("notes", "a/ü", value, expire_time=tomorrow)
        record = await client.get("notes", "a/ü")

    assert (record.collection, record.key, record.value) == ("notes", "a/ü", value)
    assert (record.revision, record.update_time) == (written.revision, written.update_time)
    assert record.create_time == written.create_time
    assert record.expire_time is not None
    assert abs(record.expire_time - tomorrow) < timedelta(milliseconds=1)


async def test_many_records_come_by_name(api: Api, connect: Connect) -> None:
    names = [("many", f"{number}") for number in range(130)]

    async with connect(target(api), **credentials(await api.new_user()), timeout=20) as client:
        for collection, key in names[:110]:
            await client.put(collection, key, {"at": key})
        found = await client.get_many(names[::-1])

        assert list(found) == names[109::-1]
        assert found["many", "7"] == await client.get("many", "7")


async def test_more_than_one_answer_holds_comes_in_several(api: Api, connect: Connect) -> None:
    names = [("large", key) for key in "abcdef"]

    async with connect(target(api), **credentials(await api.new_user())) as client:
        for collection, key in names:
            await client.put(collection, key, key * 250_000)
        async with counting(api) as arrived:
            found = await client.get_many(names)

    assert [record.value[0] for record in found.values()] == list("abcdef")
    assert arrived["BatchGetRecords"] == 2


@pytest.mark.parametrize(
    "text",
    ["1.10", "0.1000000000000000055511151231257827", "123456789012345678901234567890", "-0.0"],
)
async def test_numbers_keep_every_digit(api: Api, connect: Connect, text: str) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        await client.put("prices", "exact", sixfold.Json(f'{{"price": {text}}}'))
        record = await client.get("prices", "exact")

    assert record.decode(parse_float=Decimal)["price"] == Decimal(text)
    assert text.removeprefix("-0.0") in record.json  # Postgres' numeric has no negative zero


async def test_a_deleted_record_is_gone(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        written = await client.put("notes", "first", 1)

        assert await client.delete("notes", "first", if_revision=written.revision) == 2
        assert await client.delete("notes", "first", allow_missing=True) == 0
        with pytest.raises(sixfold.errors.NotFound):
            await client.get("notes", "first")


async def test_a_request_id_writes_once(api: Api, connect: Connect) -> None:
    request_id = str(uuid4())

    async with connect(target(api), **credentials(await api.new_user())) as client:
        first = await client.put("notes", "first", 1, request_id=request_id)
        again = await client.put("notes", "first", 1, request_id=request_id)
        page = await client.user_data()

    assert first == again
    assert page.revision == 1


async def test_ten_updates_at_once_lose_nothing(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user()), timeout=20) as client:
        await asyncio.gather(
            *(client.update("counters", "n", lambda count: (count or 0) + 1) for _ in range(10))
        )
        record = await client.get("counters", "n")

    assert (record.value, record.revision) == (10, 10)


async def test_iterators_walk_every_page(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        for number in range(5):
            await client.put("many", f"{number}", number)
        await client.put("other", "one", "last")

        listed = [record.value async for record in client.list("many", page_size=2)]
        everything = [record.value async for record in client.records(page_size=2)]
        of_many = [record.value async for record in client.records("many", page_size=2)]

    assert listed == of_many == [0, 1, 2, 3, 4]  # three pages: 2, 2, 1
    assert everything == [0, 1, 2, 3, 4, "last"]


async def test_a_page_says_who_and_where_to_go_on(api: Api, connect: Connect) -> None:
    async with connect(target(api), **credentials(await api.new_user())) as client:
        for number in range(3):
            await client.put("many", f"{number}", number)

        first = await client.user_data("many", page_size=2)
        last = await client.user_data("many", page_size=2, page_token=first.next_page_token)

        assert first.user == await client.me()
        assert first.revision == 3
        assert [record.value for record in (*first.records, *last.records)] == [0, 1, 2]
        assert last.next_page_token == ""


async def test_a_new_password_ends_the_other_sessions(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api), **credentials(ann)) as client, connect(target(api)) as other:
        await other.login(ann.username, PASSWORD)
        await client.change_password(PASSWORD, PASSWORD + "!", keep_other_sessions=True)
        assert (await other.me()).username == ann.username

        await client.change_password(PASSWORD + "!", PASSWORD + "?")
        assert (await client.me()).username == ann.username
        with pytest.raises(sixfold.errors.Unauthenticated, match="SESSION_REVOKED"):
            await other.me()


async def test_the_changed_password_is_the_one_to_log_in_with_again(
    api: Api, connect: Connect
) -> None:
    ann = await api.new_user()

    async with connect(target(api), **credentials(ann)) as client:
        await client.change_password(PASSWORD, PASSWORD + "!")
        assert client.tokens is not None
        await end_session(api, client.tokens)

        assert (await client.me()).username == ann.username
