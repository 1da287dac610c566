"""Two users, the same names, each other's ids: neither ever sees or changes what is the other's."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2 as pb

from service.domain.errors import SessionRevoked
from service.domain.models import Caller
from service.store import record_deletes, record_writes, records, sessions, users
from service.store.db import Database
from service.store.record_deletes import Deletion
from service.store.record_writes import Write
from service.store.write_requests import Request
from tests.conftest import Api, Person, refusal, refused

# Few names, so that the two meet at every one of them.
COLLECTIONS, KEYS = ("notes", "todo"), ("first", "second", "a/b", "%", "é")
REQUEST_IDS = [str(uuid4()) for _ in range(40)]
OK = grpc.StatusCode.OK
Place = tuple[str, str]
Outcome = tuple[grpc.StatusCode, Any]


@dataclass
class Model:
    """What one user must find: a dict, and nothing of anybody else's."""

    rows: dict[Place, tuple[str, int]] = field(default_factory=dict)
    revision: int = 0
    answered: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def write(self, request: Any, place: Place, json: str | None) -> int:
        self.revision += 1
        if json is None:
            del self.rows[place]
        else:
            self.rows[place] = json, self.revision
        if request.request_id:
            self.answered[request.request_id] = asked(request), self.revision
        return self.revision

    def replay(self, request: Any) -> Outcome | None:
        if request.request_id not in self.answered:
            return None
        first, revision = self.answered[request.request_id]
        if first != asked(request):
            return grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"
        return OK, revision


def asked(request: Any) -> bytes:
    serialised: bytes = request.SerializeToString(deterministic=True)
    return type(request).__name__.encode() + serialised


class Somebody:
    """A user, what it must find, and every call it can make, each checked against that."""

    def __init__(self, api: Api, person: Person, chance: random.Random) -> None:
        self.api, self.person, self.chance = api, person, chance
        self.model = Model()
        self.page_tokens: list[tuple[str, str]] = []

    async def ask(self, method: Callable[..., Awaitable[Any]], request: Any) -> Outcome:
        try:
            return OK, await method(request, metadata=self.person.metadata)
        except grpc.RpcError as error:
            why = refusal(error)
            return why.code, why.reason

    def place(self) -> Place:
        return self.chance.choice(COLLECTIONS), self.chance.choice(KEYS)

    def maybe_request_id(self) -> str:
        return self.chance.choice(REQUEST_IDS) if self.chance.random() < 0.3 else ""

    async def get(self, _: "Somebody") -> None:
        place = self.place()

        code, answer = await self.ask(
            self.api.data.GetRecord, pb.GetRecordRequest(collection=place[0], key=place[1])
        )

        if place in self.model.rows:
            assert (answer.record.json, answer.record.revision) == self.model.rows[place]
        else:
            assert (code, answer) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND")

    async def batch(self, _: "Somebody") -> None:
        places = self.chance.choices([(c, k) for c in COLLECTIONS for k in KEYS], k=6)
        names = [pb.RecordName(collection=place[0], key=place[1]) for place in places]

        code, answer = await self.ask(
            self.api.data.BatchGetRecords, pb.BatchGetRecordsRequest(names=names)
        )

        assert code is OK
        found = [(r.collection, r.key, r.json, r.revision) for r in answer.records]
        rows = self.model.rows
        assert found == [(*place, *rows[place]) for place in places if place in rows]
        missing = [(name.collection, name.key) for name in answer.missing]
        assert missing == [place for place in places if place not in rows]

    async def put(self, other: "Somebody") -> None:
        place, json = self.place(), f'"{self.person.username} {self.chance.random()}"'
        request = pb.PutRecordRequest(
            collection=place[0], key=place[1], json=json, request_id=self.maybe_request_id()
        )
        kind = self.chance.choice(("plain", "absent", "own", "theirs"))
        found = self.model.rows.get(place)
        if kind == "absent":
            request.if_absent = True
        elif kind == "own" and found:
            request.if_revision = found[1]
        elif kind == "theirs" and place in other.model.rows:
            request.if_revision = other.model.rows[place][1]
        expected = self.model.replay(request)
        if not expected and request.if_absent and found:
            expected = grpc.StatusCode.ALREADY_EXISTS, "RECORD_EXISTS"
        given = request.if_revision
        if not expected and given and (not found or found[1] != given):
            expected = grpc.StatusCode.ABORTED, "REVISION_MISMATCH"

        code, answer = await self.ask(self.api.data.PutRecord, request)

        expected = expected or (OK, self.model.write(request, place, json))
        assert (code, answer.revision if code is OK else answer) == expected

    async def delete(self, _: "Somebody") -> None:
        place = self.place()
        request = pb.DeleteRecordRequest(
            collection=place[0], key=place[1], request_id=self.maybe_request_id()
        )
        expected = self.model.replay(request)
        if not expected and place not in self.model.rows:
            expected = grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND"

        code, answer = await self.ask(self.api.data.DeleteRecord, request)

        expected = expected or (OK, self.model.write(request, place, None))
        assert (code, answer.revision if code is OK else answer) == expected

    async def list_(self, _: "Somebody") -> None:
        collection, size = self.chance.choice(COLLECTIONS), self.chance.choice((1, 2, 50))
        found: dict[Place, tuple[str, int]] = {}
        token = ""
        for _page in range(10):
            request = pb.ListRecordsRequest(collection=collection, page_size=size, page_token=token)
            code, answer = await self.ask(self.api.data.ListRecords, request)
            assert code is OK
            found |= {(r.collection, r.key): (r.json, r.revision) for r in answer.records}
            token = answer.next_page_token
            if not token:
                break
            self.page_tokens.append((collection, token))

        mine = {place: row for place, row in self.model.rows.items() if place[0] == collection}
        assert found == mine

    async def everything(self, _: "Somebody") -> None:
        code, answer = await self.ask(self.api.data.GetUserData, pb.GetUserDataRequest())

        assert code is OK
        assert (answer.user.user_id, answer.revision) == (self.person.user_id, self.model.revision)
        found = {(r.collection, r.key): (r.json, r.revision) for r in answer.records}
        assert found == self.model.rows

    async def turn_their_page(self, other: "Somebody") -> None:
        if not other.page_tokens:
            return
        collection, token = self.chance.choice(other.page_tokens)

        outcome = await self.ask(
            self.api.data.ListRecords,
            pb.ListRecordsRequest(collection=collection, page_token=token),
        )

        assert outcome == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")

    async def look_them_up(self, other: "Somebody") -> None:
        outcome = await self.ask(
            self.api.auth.GetUser, auth_pb2.GetUserRequest(user_id=other.person.user_id)
        )

        assert outcome == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")

    async def look_myself_up(self, _: "Somebody") -> None:
        code, answer = await self.ask(self.api.auth.GetUser, auth_pb2.GetUserRequest())

        assert (code, answer.user.user_id) == (OK, self.person.user_id)


async def rows_of(connection: asyncpg.Connection, person: Person) -> dict[Place, tuple[str, int]]:
    rows = await connection.fetch(
        "SELECT collection, key, json::text AS json, revision FROM records WHERE user_id = $1",
        UUID(person.user_id),
    )
    return {(row["collection"], row["key"]): (row["json"], row["revision"]) for row in rows}


@pytest.mark.parametrize("seed", [1, 2])
async def test_in_1000_random_calls_nobody_meets_anybody_else(
    api: Api, database_url: str, seed: int
) -> None:
    """D-1. Each call's answer, and every 20 calls the tables, are as if the other did not exist."""
    chance = random.Random(seed)
    ann = Somebody(api, await api.new_user(), chance)
    bob = Somebody(api, await api.new_user(), chance)
    connection = await asyncpg.connect(database_url)

    for n in range(1000):
        actor, other = chance.choice(((ann, bob), (bob, ann)))
        calls = (
            *(actor.get, actor.batch, actor.put, actor.put, actor.delete, actor.list_),
            *(actor.everything, actor.turn_their_page, actor.look_them_up, actor.look_myself_up),
        )
        await chance.choice(calls)(other)
        if n % 20 == 0:
            assert await rows_of(connection, ann.person) == ann.model.rows
            assert await rows_of(connection, bob.person) == bob.model.rows

    await connection.close()
    assert min(ann.model.revision, bob.model.revision) > 50
    assert ann.page_tokens
    assert bob.page_tokens


async def test_someone_elses_record_is_refused_in_the_words_of_one_that_is_not_there(
    api: Api, ann: Person, bob: Person
) -> None:
    put = pb.PutRecordRequest(collection="c", key="theirs", json="1")
    await api.data.PutRecord(put, metadata=bob.metadata)

    methods: tuple[tuple[Any, Any], ...] = (
        (api.data.GetRecord, pb.GetRecordRequest),
        (api.data.DeleteRecord, pb.DeleteRecordRequest),
    )
    for method, request in methods:
        theirs = await refused(method(request(collection="c", key="theirs"), metadata=ann.metadata))
        nobodys = await refused(
            method(request(collection="c", key="nobodys"), metadata=ann.metadata)
        )
        assert (theirs.code, theirs.reason) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND")
        assert theirs.message == nobodys.message
        assert theirs.metadata == nobodys.metadata


async def test_a_session_opens_no_other_users_rows(
    api: Api, pool: Database, ann: Person, bob: Person
) -> None:
    """A caller that never can be: Ann's id with Bob's session. Each statement checks it itself, so
    not even a fault in the token layer would let it through.
    """
    put = pb.PutRecordRequest(collection="c", key="k", json="1")
    for person in (ann, bob):
        await api.data.PutRecord(put, metadata=person.metadata)
    chimera = Caller(
        UUID(ann.user_id),
        UUID(bob.tokens.session_id),
        "default",
        frozenset(("account", "data.read", "data.write")),
        datetime.now(UTC) + timedelta(minutes=1),
    )
    request = Request(uuid4(), b"")

    for call in (
        records.get(pool, chimera, "c", "k"),
        records.batch_get(pool, chimera, [("c", "k")]),
        records.page(pool, chimera, "", ("", ""), 10),
        records.page(pool, chimera, "c", ("c", ""), 10),
        record_writes.put(pool, chimera, Write("c", "k", "2"), request),
        record_writes.put(pool, chimera, Write("c", "k", "2", if_revision=1), request),
        record_writes.put(pool, chimera, Write("c", "new", "2", if_absent=True), request),
        record_deletes.delete(pool, chimera, Deletion("c", "k"), request),
        users.get(pool, chimera),
        users.caller_credentials(pool, chimera),
        users.change_password(pool, chimera, 0, "hash", keep_other_sessions=False),
    ):
        with pytest.raises(SessionRevoked):
            await call
    await sessions.end(pool, chimera)

    for person in (ann, bob):
        got = await api.data.GetUserData(pb.GetUserDataRequest(), metadata=person.metadata)
        assert [(r.key, r.json, r.revision) for r in got.records] == [("k", "1", 1)]
