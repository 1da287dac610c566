"""A background load, and the history it leaves: every call, its answer, and what must be found."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import Api, Person, Refusal, refusal

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
CALL_SECONDS = 5.0
PAUSE_SECONDS = 0.005


@dataclass(frozen=True)
class Outcome:
    """One call: to which server, of which kind, when (monotonic), and how it ended."""

    server: int
    write: bool
    began: float
    ended: float
    why: Refusal | None

    @property
    def code(self) -> grpc.StatusCode:
        return self.why.code if self.why else OK


class Load:
    """Readers and writers, each bound to one of `apis`.

    A writer has a user of its own and makes one record after another, each with a request_id, and
    goes on when a call fails: what became of that one is found out by `settle`, which asks again
    with the same request_id. Then a user's revision must be the number of its writes exactly: an
    acknowledged write that was lost makes it less, one that was done twice makes it more.
    """

    def __init__(
        self, apis: Sequence[Api], *, readers: int, writers: int, patience: float = CALL_SECONDS
    ) -> None:
        """So many of each per server; `patience` is the seconds for a call."""
        self._apis = apis
        self._patience = patience
        self._readers, self._writers = readers, writers
        self._stop = asyncio.Event()
        self.outcomes: list[Outcome] = []
        self.people: list[Person] = []
        self._acknowledged: dict[str, dict[str, int]] = {}  # user → key → revision
        self._unknown: list[tuple[Person, pb.PutRecordRequest]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load while the block runs. Nothing raises but a wrong answer."""
        self._stop.clear()
        kinds = [self._read] * self._readers + [self._write] * self._writers
        work = [
            kind(server, api, await self._somebody(api))
            for server, api in enumerate(self._apis)
            for kind in kinds
        ]
        tasks = asyncio.gather(*work)
        try:
            yield
        finally:
            self._stop.set()
            await tasks

    async def _somebody(self, api: Api) -> Person:
        person = await api.new_user()
        put = pb.PutRecordRequest(collection="load", key="0", json='"0"', request_id=str(uuid4()))
        written = await api.data.PutRecord(put, metadata=person.metadata)
        self.people.append(person)
        self._acknowledged[person.user_id] = {"0": written.revision}
        return person

    async def _read(self, server: int, api: Api, person: Person) -> None:
        while not self._stop.is_set():
            request = pb.GetRecordRequest(collection="load", key="0")
            answer = await self._call(server, api.data.GetRecord, request, person, write=False)
            assert answer is None or (answer.record.json, answer.record.revision) == ('"0"', 1)

    async def _write(self, server: int, api: Api, person: Person) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            request = pb.PutRecordRequest(
                collection="load", key=str(number), json=f'"{number}"', request_id=str(uuid4())
            )
            answer = await self._call(server, api.data.PutRecord, request, person, write=True)
            if answer is None:
                self._unknown.append((person, request))
            else:
                self._acknowledged[person.user_id][request.key] = answer.revision

    async def _call(
        self, server: int, method: Any, request: Any, person: Person, *, write: bool
    ) -> Any:
        answer, why, began = None, None, time.monotonic()
        try:
            answer = await method(request, metadata=person.metadata, timeout=self._patience)
        except grpc.RpcError as error:
            why = refusal(error)
        self.outcomes.append(Outcome(server, write, began, time.monotonic(), why))
        # A dead server refuses within microseconds, which would be all the load there is.
        await asyncio.sleep(PAUSE_SECONDS if why is None else 10 * PAUSE_SECONDS)
        return answer

    def since(self, moment: float) -> list[Outcome]:
        """The calls that began after it."""
        return [each for each in self.outcomes if each.began >= moment]

    def rate(self, began: float, ended: float) -> float:
        """Calls a second that were answered OK between two moments."""
        done = [each for each in self.outcomes if began <= each.ended < ended and not each.why]
        return len(done) / (ended - began)

    def codes(self) -> Counter[str]:
        """How often each outcome."""
        return Counter(
            f"{each.code.name} {each.why.reason}".strip() if each.why else "OK"
            for each in self.outcomes
        )

    async def settle(self, api: Api) -> int:
        """Find out what became of the writes without an answer; how many there were."""
        for person, request in self._unknown:
            answer = await api.data.PutRecord(request, metadata=person.metadata)
            self._acknowledged[person.user_id][request.key] = answer.revision
        settled, self._unknown = len(self._unknown), []
        return settled

    async def check(self, api: Api) -> int:
        """Every acknowledged write is there, each was done once, nothing else is there; how many.

        Call `settle` first.
        """
        assert not self._unknown
        total = 0
        for person in self.people:
            expected = self._acknowledged[person.user_id]
            found: dict[str, tuple[str, int]] = {}
            token, revision = "", 0
            for _ in range(100):
                page = await api.data.GetUserData(
                    pb.GetUserDataRequest(page_size=1000, page_token=token),
                    metadata=person.metadata,
                )
                found |= {each.key: (each.json, each.revision) for each in page.records}
                token, revision = page.next_page_token, page.revision
                if not token:
                    break
            assert found == {key: (f'"{key}"', at) for key, at in expected.items()}
            assert sorted(expected.values()) == list(range(1, len(expected) + 1))
            assert revision == len(expected)
            total += len(expected)
        return total
