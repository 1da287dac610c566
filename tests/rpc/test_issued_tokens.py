"""Access tokens as issued, the key set that verifies them, and keys that change under way."""

import asyncio
import base64
import hashlib
import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import jwt
import pytest
from sixfold.auth.v1 import auth_pb2 as pb

from service import admin, app, policies
from service.domain import keys, tokens
from service.domain.keys import KeySet, MasterKeyMismatch
from service.store import signing_keys
from service.store.db import Database
from tests.conftest import MASTER_KEY, Api, Person, execute, make_settings, refused, serving
from tests.rpc.conftest import QUIET
from tests.rpc.wire import code, connected

CLAIMS = {"iss", "aud", "sub", "client_id", "iat", "exp", "jti", "sid", "scope"}
JWKS = pb.GetJsonWebKeySetRequest()


def decoded(person: Person) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of an access token, unverified."""
    header, claims, _ = person.tokens.access_token.split(".")
    read = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, claims))
    return next(read), next(read)


async def over_http(api: Api) -> dict[str, Any]:
    def ask() -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=5)
        try:
            connection.request("GET", "/.well-known/jwks.json")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    answer: dict[str, Any] = await asyncio.to_thread(ask)
    return answer


async def key_set(api: Api) -> list[dict[str, str]]:
    keys = (await api.auth.GetJsonWebKeySet(JWKS)).keys
    names = ("kty", "crv", "x", "y", "kid", "alg", "use")
    return [{name: getattr(key, name) for name in names} for key in keys]


def get_user(api: Api, metadata: Any) -> Any:
    return api.auth.GetUser(pb.GetUserRequest(), metadata=metadata)


def thumbprint(key: dict[str, str]) -> str:
    """RFC 7638 3.1, from the published members alone."""
    members = {name: key[name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@asynccontextmanager
async def real_keys(database_url: str) -> AsyncIterator[KeySet]:
    """The keys the servers of this database sign with."""
    settings = make_settings(database_url)
    async with app.database(settings) as pool:
        yield await signing_keys.load(pool, policies.key_encryption_key(settings))


async def test_a_token_has_the_claims_of_rfc_9068_and_the_session(api: Api, ann: Person) -> None:
    header, claims = decoded(ann)

    assert header.keys() == {"alg", "typ", "kid"}
    assert (header["alg"], header["typ"]) == ("ES256", "at+jwt")
    assert claims.keys() == CLAIMS
    assert (claims["iss"], claims["aud"]) == ("https://sixfold.test", "sixfold")
    assert (claims["sub"], claims["sid"]) == (ann.user_id, ann.tokens.session_id)
    assert claims["client_id"] == "default"
    assert claims["scope"].split() == list(ann.tokens.scopes)
    assert claims["exp"] - claims["iat"] == 600
    assert claims["exp"] == ann.tokens.access_token_expire_time.seconds


async def test_a_token_says_which_client_it_was_made_for(api: Api, ann: Person) -> None:
    login = pb.LoginRequest(
        username=ann.username, password="a password for ann to keep", client_id="web:1/a_b.c-d"
    )

    made = Person(ann.username, ann.user_id, (await api.auth.Login(login)).tokens)

    assert decoded(made)[1]["client_id"] == "web:1/a_b.c-d"


async def test_a_token_is_small_and_says_nothing_personal(api: Api) -> None:
    ann = await api.new_user(f"ann.personal.{uuid4().hex}")

    assert len(ann.tokens.access_token) < 1024
    assert ann.username not in json.dumps(decoded(ann))
    assert UUID(ann.user_id).version == 7


async def test_no_two_tokens_share_an_id(api: Api, ann: Person) -> None:
    made = [ann]
    for _ in range(20):
        request = pb.RefreshTokensRequest(refresh_token=made[-1].tokens.refresh_token)
        answer = await api.auth.RefreshTokens(request)
        made.append(Person(ann.username, ann.user_id, answer.tokens))

    ids = [decoded(person)[1]["jti"] for person in made]

    assert len(set(ids)) == 21


async def test_the_key_set_verifies_the_token_with_nothing_else_known(
    api: Api, ann: Person
) -> None:
    published = jwt.PyJWKSet.from_dict({"keys": await key_set(api)})

    header, _ = decoded(ann)
    claims = jwt.decode(
        ann.tokens.access_token, published[header["kid"]], algorithms=["ES256"], audience="sixfold"
    )

    assert claims["sub"] == ann.user_id


async def test_the_key_set_is_the_same_over_grpc_and_http_and_only_public(api: Api) -> None:
    keys = await key_set(api)

    assert (await over_http(api)) == {"keys": keys}
    for key in keys:
        assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
        assert key["kid"] == thumbprint(key)
    assert (await api.auth.GetJsonWebKeySet(JWKS)).max_age.seconds == 300


async def test_a_new_key_is_public_at_once_and_does_not_sign_yet(
    api: Api, database_url: str
) -> None:
    before = {key["kid"] for key in await key_set(api)}

    kid = (await admin.keys_rotate(make_settings(database_url)))["kid"]

    async with serving(database_url, **QUIET) as fresh:
        assert {key["kid"] for key in await key_set(fresh)} == before | {kid}
        assert decoded(await fresh.new_user())[0]["kid"] in before


async def test_a_key_that_replaces_a_leaked_one_is_believed_at_once_and_the_leaked_one_no_more(
    api: Api, ann: Person, database_url: str
) -> None:
    await admin.keys_rotate(make_settings(database_url))  # one that is still waiting ends, too
    kid = (await admin.keys_rotate(make_settings(database_url), now=True))["kid"]

    async with serving(database_url, **QUIET) as fresh:
        bob = await fresh.new_user()

        assert decoded(bob)[0]["kid"] == kid
        assert (await get_user(api, bob.metadata)).user.user_id == bob.user_id
        for server in (api, fresh):
            assert (await refused(get_user(server, ann.metadata))).reason == "TOKEN_INVALID"
        assert len(await admin.keys_list(make_settings(database_url))) == 1


async def test_a_server_signs_with_a_new_key_without_being_restarted(database_url: str) -> None:
    async with serving(database_url, readiness_seconds=60, key_refresh_seconds=1) as running:
        await running.new_user()

        kid = (await admin.keys_rotate(make_settings(database_url), now=True))["kid"]

        async with asyncio.timeout(10):
            while decoded(await running.new_user())[0]["kid"] != kid:
                await asyncio.sleep(0.1)


async def test_a_key_that_cannot_be_opened_leaves_the_last_good_set(
    new_database: Callable[[], AbstractAsyncContextManager[str]],
) -> None:
    strange = jwt.encode({}, keys.generate(), "ES256", {"typ": "at+jwt", "kid": "strange"})

    async with new_database() as url, serving(url, **QUIET) as running:
        ann = await running.new_user()
        await execute(
            url, "INSERT INTO signing_keys (kid, sealed_key, sign_after) VALUES ('x', 'x', now())"
        )

        why = await refused(get_user(running, (("authorization", f"Bearer {strange}"),)))

        assert why.reason == "TOKEN_INVALID"
        assert await code(get_user(running, ann.metadata)) is grpc.StatusCode.OK
        assert (await running.login(ann.username)).user_id == ann.user_id


async def test_private_keys_are_sealed_in_the_database(database_url: str) -> None:
    async with real_keys(database_url) as keys, connected(database_url) as connection:
        stored = await connection.fetch("SELECT kid, sealed_key FROM signing_keys")

    scalars = [
        key.private_key.private_numbers().private_value.to_bytes(32, "big") for key in keys.keys
    ]
    assert {row["kid"] for row in stored} >= {key.kid for key in keys.keys}
    assert [row["kid"] for row in stored for scalar in scalars if scalar in row["sealed_key"]] == []


@pytest.mark.parametrize(
    ("age", "reason"),
    [(0, ""), (599, ""), (628, ""), (632, "TOKEN_EXPIRED"), (-32, "TOKEN_INVALID")],
)
async def test_a_token_expires_with_half_a_minute_for_clocks_that_differ(
    api: Api, ann: Person, database_url: str, age: int, reason: str
) -> None:
    now = app.utc_now()
    async with real_keys(database_url) as keys:
        token, _ = tokens.mint(
            tokens.TokenPolicy("https://sixfold.test", "sixfold", timedelta(minutes=10)),
            keys.signer(now),
            user_id=UUID(ann.user_id),
            session_id=UUID(ann.tokens.session_id),
            client_id="default",
            scopes=["account"],
            token_id=uuid4(),
            now=now - timedelta(seconds=age),
        )

    call = get_user(api, (("authorization", f"Bearer {token}"),))

    assert (await code(call)).name == ("UNAUTHENTICATED" if reason else "OK")
    if reason:
        assert (await refused(call)).reason == reason


async def test_an_expired_token_of_an_ended_session_says_expired(
    api: Api, ann: Person, pool: Database, database_url: str
) -> None:
    """The session is not looked at: nobody learns more from a token than that its time is over."""
    await api.auth.Logout(pb.LogoutRequest(), metadata=ann.metadata)
    key = (
        await signing_keys.load(pool, policies.key_encryption_key(make_settings(database_url)))
    ).keys
    token, _ = tokens.mint(
        tokens.TokenPolicy("https://sixfold.test", "sixfold", timedelta(minutes=10)),
        key[0],
        user_id=UUID(ann.user_id),
        session_id=UUID(ann.tokens.session_id),
        client_id="default",
        scopes=[],
        token_id=uuid4(),
        now=app.utc_now() - timedelta(hours=1),
    )

    why = await refused(get_user(api, (("authorization", f"Bearer {token}"),)))

    assert why.reason == "TOKEN_EXPIRED"


async def test_a_server_with_another_master_key_refuses_to_start(database_url: str) -> None:
    other = base64.b64encode(bytes(range(32))).decode()
    assert other != MASTER_KEY

    with pytest.raises(MasterKeyMismatch):
        async with serving(database_url, master_key=other):
            pass
