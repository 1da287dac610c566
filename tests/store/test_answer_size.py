"""Where answers of many records end is what a running sum over their values says, however Postgres
comes to know it.
"""

import random
from collections.abc import Sequence

import pytest
from sixfold.data.v1 import data_pb2 as pb

from service.domain import limits
from service.domain.models import Caller
from service.store import records
from service.store.db import Database
from tests.rpc.wire import connected
from tests.store.test_concurrency import somebody

KIB = 1024
# Few and many, around what fits a hundred times into an answer (10,485 bytes) and what pages take
# for small (16 KiB).
SIZES = [2, 200, 1_000, 10_485, 10_486, 11 * KIB, 16 * KIB, 16 * KIB + 1, 60 * KIB, 256 * KIB]


async def fill(database_url: str, me: Caller, sizes: Sequence[int]) -> list[str]:
    """A record of each size; their keys, in order, which is not that of the collections."""
    keys = [f"{number:03}" for number in range(len(sizes))]
    async with connected(database_url) as connection:
        await connection.executemany(
            """INSERT INTO records (user_id, collection, key, json, revision, create_time,
                                    update_time)
               VALUES ($1, $2, $3, to_jsonb(repeat('x', $4::integer - 2)), 1, now(), now())""",
            [
                (me.user_id, collection(key), key, size)
                for key, size in zip(keys, sizes, strict=True)
            ],
        )
    return keys


def collection(key: str) -> str:
    return f"c{-int(key) % 3}"


def fitting(sizes: Sequence[int]) -> int:
    """How many records an answer has: it is full at a mebibyte, and not before the first."""
    before = 0
    for count, size in enumerate(sizes):
        if before >= limits.PAGE_BYTES:
            return count
        before += size
    return len(sizes)


@pytest.mark.parametrize("seed", range(20))
async def test_a_batch(pool: Database, database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    me = await somebody(pool)
    some = chance.sample(SIZES[: chance.choice([7, len(SIZES)])], k=chance.randint(1, 4))
    size_of = dict(enumerate(chance.choices(some, k=100)))
    await fill(database_url, me, list(size_of.values()))
    # Some twice, and some that are not there.
    asked = chance.choices(range(120), k=chance.choice([1, 7, 100]))

    found = await records.batch_get(pool, me, [(collection(f"{n:03}"), f"{n:03}") for n in asked])

    there = [number for number in asked if number in size_of]
    read = [pb.GetRecordResponse.FromString(each).record for each in found if each]
    assert [int(record.key) for record in read] == there[: fitting([size_of[n] for n in there])]
    assert [each is None for each in found] == [number not in size_of for number in asked]


@pytest.mark.parametrize("seed", range(20))
async def test_a_page(pool: Database, database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    me = await somebody(pool)
    some = chance.sample(SIZES[: chance.choice([7, len(SIZES)])], k=chance.randint(1, 4))
    sizes = chance.choices(some, k=chance.choice([0, 150, 150]))
    keys = await fill(database_url, me, sizes)
    ordered = sorted(zip(keys, sizes, strict=True), key=lambda each: (collection(each[0]), each[0]))
    most = chance.choice([20, 1_000, 1_000])

    page = await records.page(pool, me, "", ("", ""), most)

    count = fitting([size for _, size in ordered[:most]])
    read = [pb.GetRecordResponse.FromString(each).record for each in page.records]
    assert [record.key for record in read] == [key for key, _ in ordered[:count]]
    assert page.more == (count < len(ordered))
