"""What Postgres puts on the wire itself is what the generated code would have written."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sixfold.data.v1 import data_pb2 as pb

from service.store.db import Database
from tests.rpc.wire import connected

# asyncpg sends the very first moment as -infinity.
FIRST = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
EDGES = [
    FIRST,
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(2026, 11, 26, 10, tzinfo=UTC),
    LAST - timedelta(microseconds=1),
    LAST,  # which asyncpg sends as infinity
]
REVISIONS = [0, 1, 127, 128, 2**14 - 1, 2**14, 2**32, 2**56, 2**63 - 1, -1]


def moment() -> datetime:
    span = (LAST - FIRST) // timedelta(microseconds=1)
    return (
        random.choice(EDGES)
        if random.random() < 0.3
        else FIRST + timedelta(microseconds=random.randrange(span))
    )


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


def text(length: int) -> str:
    return "".join(random.choice("aé€😀") for _ in range(length))


async def test_a_record_is_kept_as_its_message(pool: Database) -> None:
    random.seed(7)
    for _ in range(300):
        collection, key = text(random.randint(1, 128)), text(random.randint(1, 128))
        value = json.dumps(text(random.choice([0, 1, 40, 126, 128, 16_384, 65_536])))
        revision = random.choice(REVISIONS)
        created, updated = moment(), moment()
        expires = moment() if random.random() < 0.5 else None
        expected = pb.Record(
            collection=collection,
            key=key,
            json=json.dumps(json.loads(value), ensure_ascii=False),
            revision=revision,
            create_time=stamp(created),
            update_time=stamp(updated),
            expire_time=stamp(expires) if expires else None,
        )

        row = await pool.row(
            "SELECT record_message($1, $2, $3, $4, $5, $6, $7)",
            collection,
            key,
            value,
            revision,
            created,
            updated,
            expires,
        )

        assert row is not None
        assert row[0] == pb.GetRecordResponse(record=expected).SerializeToString(), expected


@pytest.mark.parametrize("size", [2**7, 2**14])
async def test_a_length_of_any_size_stands_before_it(pool: Database, size: int) -> None:
    for length in range(size - 80, size + 2):
        expected = pb.Record(
            collection="c",
            key="k",
            json="1" * length,
            revision=1,
            create_time=stamp(EDGES[2]),
            update_time=stamp(EDGES[2]),
        )

        row = await pool.row(
            "SELECT record_message('c', 'k', repeat('1', $1)::jsonb, 1, $2, $2, NULL)",
            length,
            EDGES[2],
        )

        assert row is not None
        assert row[0] == pb.GetRecordResponse(record=expected).SerializeToString()


async def test_who_restores_a_dump_or_renames_the_schema_computes_them_too(
    database_url: str,
) -> None:
    """Neither has the search path of who made them."""
    async with connected(database_url) as connection:
        schema = await connection.fetchval("SELECT current_schema()")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"ALTER SCHEMA {schema} RENAME TO other")
        await connection.execute("SET LOCAL search_path = ''")

        message = await connection.fetchval(
            "SELECT other.record_message('c', 'k', '[]', 1, now(), now(), NULL)"
        )
        await transaction.rollback()

    assert pb.GetRecordResponse.FromString(message).record.json == "[]"
