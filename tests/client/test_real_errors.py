"""What a refused call raises, from a real refusal: class, reason and what it says besides."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import sixfold
from sixfold import errors

from tests.client.real import Connect, both_clients, credentials, end_session, new_name, target
from tests.conftest import PASSWORD, Api

pytestmark = both_clients

WRONG = "not the password of anybody"


@pytest.fixture
async def client(api: Api, connect: Connect) -> AsyncIterator[sixfold.AsyncClient]:
    """Somebody new, with one record: notes/first at revision 1."""
    async with connect(target(api), **credentials(await api.new_user())) as opened:
        await opened.put("notes", "first", 1, request_id=REQUEST_ID)
        yield opened


REQUEST_ID = str(uuid4())
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], type[errors.SixfoldError], str]] = [
    ("get", ("notes", "none"), {}, errors.NotFound, "RECORD_NOT_FOUND"),
    ("delete", ("notes", "none"), {}, errors.NotFound, "RECORD_NOT_FOUND"),
    ("put", ("notes", "first", 2), {"if_absent": True}, errors.AlreadyExists, "RECORD_EXISTS"),
    ("put", ("notes", "first", 2), {"if_revision": 9}, errors.Conflict, "REVISION_MISMATCH"),
    ("put", ("notes", "none", 2), {"if_revision": 9}, errors.Conflict, "REVISION_MISMATCH"),
    ("delete", ("notes", "first"), {"if_revision": 9}, errors.Conflict, "REVISION_MISMATCH"),
    (
        "put",
        ("notes", "first", 2),
        {"request_id": REQUEST_ID},
        errors.InvalidArgument,
        "REQUEST_ID_REUSED",
    ),
    ("put", ("a b", "", 1), {}, errors.InvalidArgument, "INVALID_ARGUMENT"),
    ("put", ("a", "b", sixfold.Json("{")), {}, errors.InvalidArgument, "INVALID_ARGUMENT"),
    ("put", ("a", "b", sixfold.Json("1e400")), {}, errors.InvalidArgument, "INVALID_ARGUMENT"),
    ("user_data", (), {"page_token": "junk"}, errors.InvalidArgument, "PAGE_TOKEN_INVALID"),
    ("change_password", (WRONG, PASSWORD), {}, errors.Unauthenticated, "BAD_CREDENTIALS"),
    ("login", ("nobody", WRONG), {}, errors.Unauthenticated, "BAD_CREDENTIALS"),
]


@pytest.mark.parametrize(
    ("method", "arguments", "options", "kind", "reason"),
    CALLS,
    ids=[f"{call[0]}-{call[4]}-{number}" for number, call in enumerate(CALLS)],
)
async def test_a_refusal_has_its_class_and_reason(
    client: sixfold.AsyncClient,
    method: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: type[errors.SixfoldError],
    reason: str,
) -> None:
    with pytest.raises(errors.SixfoldError) as caught:
        await getattr(client, method)(*arguments, **options)

    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert caught.value.request_id
    assert caught.value.message
    assert caught.value.__cause__ is not None


async def test_a_taken_name_says_so(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api)) as client:
        with pytest.raises(errors.AlreadyExists, match="USERNAME_TAKEN"):
            await client.create_user(ann.username, PASSWORD)


async def test_a_conflict_says_which_revision_is_there(client: sixfold.AsyncClient) -> None:
    written = await client.put("notes", "first", 2)

    with pytest.raises(errors.Conflict) as mismatch:
        await client.put("notes", "first", 3, if_revision=1)
    with pytest.raises(errors.AlreadyExists) as exists:
        await client.put("notes", "first", 3, if_absent=True)
    with pytest.raises(errors.Conflict) as missing:
        await client.put("notes", "none", 3, if_revision=1)

    assert mismatch.value.revision == exists.value.revision == written.revision == 2
    assert missing.value.revision == 0


async def test_every_bad_field_is_named(client: sixfold.AsyncClient) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await client.put("a b", "", 1, request_id="no uuid")

    assert [each.field for each in caught.value.violations] == ["collection", "key", "request_id"]
    assert all(each.reason and each.description for each in caught.value.violations)
    assert "collection:" in str(caught.value)


async def test_a_weak_password_is_named_and_not_repeated(api: Api, connect: Connect) -> None:
    async with connect(target(api)) as client:
        with pytest.raises(errors.InvalidArgument) as caught:
            await client.create_user(new_name(), "hunter2")

    assert [each.field for each in caught.value.violations] == ["password"]
    assert "hunter2" not in repr(caught.value)


async def test_a_missing_scope_is_named(api: Api, connect: Connect) -> None:
    ann = credentials(await api.new_user())

    async with connect(target(api), **ann, scopes=["data.read"]) as client:
        with pytest.raises(errors.PermissionDenied, match="SCOPE_MISSING") as caught:
            await client.put("notes", "first", 1)

    assert caught.value.metadata["scope"] == "data.write"


async def test_too_many_wrong_passwords_say_how_long_to_wait(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api)) as client:
        for _ in range(21):  # the 21st is still looked at, and starts the waiting
            with pytest.raises(errors.Unauthenticated):
                await client.login(ann.username, WRONG)
        with pytest.raises(errors.ResourceExhausted, match="RATE_LIMITED") as caught:
            await client.login(ann.username, PASSWORD)

    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 900


async def test_an_ended_session_says_so(api: Api, connect: Connect) -> None:
    ann = await api.new_user()

    async with connect(target(api)) as client:
        await client.login(ann.username, PASSWORD)
        assert client.tokens is not None
        await end_session(api, client.tokens)

        with pytest.raises(errors.Unauthenticated) as caught:
            await client.me()

    assert caught.value.reason == "SESSION_REVOKED"
