"""The client that looks at every answer: a process that takes jobs, a JSON line each, on stdin.

    {"job": "prepare", "target": …}                        makes the cast; answers who they are
    {"job": "knock", "target": …}                          one call that needs no Postgres
    {"job": "closed", "call": …, "in_flight": …, …}        so many calls at any time
    {"job": "open", "call": …, "rate": …, …}               so many calls a second, come what may

The last two take "target" and "end" (Unix time) and answer with samples [ended, seconds] and what
was wrong. In an open loop a call's time starts when it was due, so a server that stalls cannot hide
the calls that would have come meanwhile.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import grpc.aio
from sixfold.auth.v1 import auth_pb2 as auth
from sixfold.data.v1 import data_pb2 as data

from bench import calls
from bench.checks import CHECKS, TIMEOUT, Api, Person
from service.loop import new_loop

T = TypeVar("T")

AT_ONCE = 16  # while preparing: within any server's limits
COMPLAINTS = 5  # one is enough to spoil a cell; a few help to find out why
STRANGERS = 256  # how many of one call the others can have in flight, in an open loop


class Client:
    """The cast, and the connections to each server."""

    def __init__(self) -> None:
        self._apis: dict[str, Api] = {}
        self._people: list[Person] = []

    async def do(self, job: dict[str, Any]) -> object:
        """One job's answer."""
        target = job["target"]
        api = self._apis.setdefault(target, Api(target))
        if job["job"] == "prepare":
            return await self._prepare(api)
        if job["job"] == "knock":
            return await api.knock()
        name = job["call"]
        shift = Shift(api, name, self._crowd(name))
        if job["job"] == "open":
            await shift.open(job["rate"], job["end"])
        else:
            await shift.closed(job["in_flight"], job["end"])
        return {"samples": shift.samples, "complaints": shift.complaints}

    async def _prepare(self, api: Api) -> list[dict[str, str]]:
        spelled = [f"bench-{number}" for number in range(calls.USERS)]
        ids = await _gather(_sign_up(api, name) for name in spelled)
        users = [Person(*each) for each in zip(range(calls.USERS), spelled, ids, strict=True)]
        names = calls.ROLES["names"]
        own = names.stop - names.start
        self._people = [replace(users[n % (calls.USERS - own)]) for n in range(calls.SESSIONS)]
        self._people += users[-own:]
        await _gather(_log_in(api, who) for who in self._people[: calls.SESSIONS])
        await _gather(_fill(api, who) for who in self._people[calls.ROLES["readers"]])
        return [
            {
                "user_id": who.user_id,
                "session_id": who.session_id,
                "access_token": who.access_token,
                "record": data.GetRecordResponse(record=who.records[0]).SerializeToString().hex()
                if who.records
                else "",
            }
            for who in self._people
        ]

    def _crowd(self, name: str) -> deque[Person]:
        """Who is free to make a call. A refresh token is for one call at a time."""
        call = calls.CALLS.get(name, calls.ECHO)
        people = self._people[calls.ROLES[call.role]]
        copies = 1 if call.role == "sessions" else STRANGERS // len(people)
        return deque(people * copies)


async def _gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it, not all at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(each: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await each

    return await asyncio.gather(*map(one, work))


async def _sign_up(api: Api, username: str) -> str:
    request = auth.CreateUserRequest(username=username, password=calls.PASSWORD)
    return str((await api.auth.CreateUser(request, timeout=TIMEOUT)).user.user_id)


async def _log_in(api: Api, who: Person) -> None:
    request = auth.LoginRequest(username=who.username, password=calls.PASSWORD)
    tokens = (await api.auth.Login(request, timeout=TIMEOUT)).tokens
    who.session_id = tokens.session_id
    who.access_token, who.refresh_token = tokens.access_token, tokens.refresh_token


async def _fill(api: Api, who: Person) -> None:
    """Records to read, and what reading them must give."""
    who.batch = [await _put(api, who, calls.BATCH, n) for n in range(calls.BATCH_SIZE)]
    who.records = [await _put(api, who, calls.COLLECTION, n) for n in range(calls.RECORDS)]


async def _put(api: Api, who: Person, collection: str, number: int) -> data.Record:
    put = data.PutRecordRequest(
        collection=collection, key=calls.key(number), json=calls.json(who.number, number)
    )
    wrote = await api.data.PutRecord(put, metadata=who.metadata, timeout=TIMEOUT)
    return data.Record(
        collection=put.collection,
        key=put.key,
        json=put.json,
        revision=wrote.revision,
        create_time=wrote.create_time,
        update_time=wrote.update_time,
    )


class Shift:
    """One job's calls and what came of them."""

    def __init__(self, api: Api, name: str, crowd: deque[Person]) -> None:
        self._api = api
        self._check = CHECKS[name]
        self._crowd = crowd
        self.samples: list[tuple[float, float]] = []
        self.complaints: list[str] = []

    async def closed(self, in_flight: int, end: float) -> None:
        """`in_flight` callers, each waiting for its answer before the next call."""

        async def caller() -> None:
            while (start := time.time()) < end:
                await self._call(start)

        await asyncio.gather(*(caller() for _ in range(in_flight)))

    async def open(self, rate: float, end: float) -> None:
        """Calls at random moments, `rate` a second on average, as from many strangers."""
        moments = random.Random(rate)
        due = time.time()
        async with asyncio.TaskGroup() as calls_made:
            while (due := due + moments.expovariate(rate)) < end:
                await asyncio.sleep(due - time.time())
                calls_made.create_task(self._call(due))

    async def _call(self, start: float) -> None:
        try:
            who = self._crowd.popleft()
        except IndexError:
            self._complain("more calls in flight than people to make them")
            return
        try:
            await self._check(self._api, who)
        except Exception as error:  # whatever an answer breaks, it was wrong
            self._complain(_told(error))
        finally:
            self._crowd.append(who)
        ended = time.time()
        self.samples.append((ended, ended - start))

    def _complain(self, text: str) -> None:
        if len(self.complaints) < COMPLAINTS:
            self.complaints.append(text)


def _told(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Do jobs until stdin ends."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        client = Client()
        for line in sys.stdin:
            print(json.dumps(runner.run(client.do(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
