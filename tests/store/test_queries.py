"""Every SQL constant is prepared against the schema it is for, and the hot ones use an index."""

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from uuid import UUID, uuid4

import asyncpg
import pytest

from service import store
from service.store import migrate

STATEMENTS = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
# Owners and their rows: enough that Postgres would rather not read them all.
USERS, RECORDS = 2_000, 20_000
REQUEST_ID, IN_A_DAY = "019ac000-0000-7000-8000-000000000000", "tomorrow"


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(store.__path__):
        yield importlib.import_module(f"service.store.{found.name}")


def constants() -> dict[str, str]:
    """Every statement of service/store, by module.NAME."""
    return {
        f"{module.__name__.removeprefix('service.store.')}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if name.isupper()
        and isinstance(value, str)
        and value.lstrip().startswith(STATEMENTS)
        and not name.startswith("_")  # a part of others
    }


CONSTANTS = constants()


@pytest.fixture(scope="module")
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


def test_the_search_finds_what_is_there() -> None:
    """Or the test below would hold for a folder that was moved."""
    assert {
        "records.GET",
        "records.BATCH_GET",
        "record_writes.PUT",
        "record_deletes.DELETE",
        "sessions.ROTATE",
        "users.LOGIN_CREDENTIALS",
        "janitor.RECORDS",
        "readiness.PROBE",
        "signing_keys.PUBLISH",
        "migrate.RECORD",
    } <= CONSTANTS.keys()


@pytest.mark.parametrize("name", CONSTANTS)
async def test_a_statement_fits_the_schema(connection: asyncpg.Connection, name: str) -> None:
    if name.startswith("migrate."):
        await connection.execute(migrate.CREATE_VERSIONS)
        await connection.execute(migrate.CREATE_CHECKSUMS)

    statement = await connection.prepare(CONSTANTS[name])

    assert "$" not in CONSTANTS[name] or statement.get_parameters()


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_statement_names_its_columns(name: str) -> None:
    """`SELECT *` breaks old processes when a migration adds a column (two-step changes).

    `locked.*` and `page.*` repeat a list written a few lines before.
    """
    text = re.sub(r"\b(locked|page)\.\*|count\(\*\)", "", CONSTANTS[name])

    assert "*" not in re.sub(r" \* ", "", text)
    assert not re.search(r"INSERT INTO \w+ (?!\(|AS \w+ \()", text)


@pytest.fixture(scope="module")
async def full(connection: asyncpg.Connection) -> tuple[UUID, UUID]:
    """A database with 20,000 records of 2,000 users; one of them, and a session of theirs."""
    await connection.execute(
        """
        INSERT INTO users (user_id, username, password_hash)
        SELECT gen_random_uuid(), 'explain-' || n, 'x' FROM generate_series(1, $1::integer) n
        """,
        USERS,
    )
    await connection.execute("INSERT INTO user_counters (user_id) SELECT user_id FROM users")
    await connection.execute(
        """
        INSERT INTO sessions (user_id, session_id, epoch, client_id, scopes, refresh_hash,
                              idle_expire_time, expire_time)
        SELECT user_id, gen_random_uuid(), 0, 'c', '{}', ''::bytea,
               now() + interval '1 day', now() + interval '1 day'
          FROM users, generate_series(1, 2)
        """
    )
    await connection.execute(
        """
        INSERT INTO records (user_id, collection, key, json, revision, create_time, update_time)
        SELECT user_id, 'c' || n % 2, 'k' || n, '{"n": 1}', n, now(), now()
          FROM users, generate_series(1, $1::integer) n
        """,
        RECORDS // USERS,
    )
    await connection.execute(
        """
        INSERT INTO write_requests (user_id, request_id, request_hash, revision, create_time,
                                    update_time)
        SELECT user_id, gen_random_uuid(), '', n, now(), now()
          FROM users, generate_series(1, 5) n
        """
    )
    await connection.execute(
        """
        INSERT INTO login_throttles (subject, failures, retry_time, update_time)
        SELECT user_id, 1, now(), now() FROM users
        """
    )
    await connection.execute("VACUUM ANALYZE")
    row = await connection.fetchrow("SELECT user_id, session_id FROM sessions LIMIT 1")
    assert row is not None
    return row["user_id"], row["session_id"]


def together(*arguments: object) -> tuple[str, ...]:
    """As a statement that many share has them: an array for each."""
    return tuple(f'{{"{argument}"}}' for argument in arguments)


# After the user and the session.
ALONE = [
    ("records.GET", ("c1", "k1")),
    ("records.BATCH_GET", ("c1\x1fc0", "k1\x1ek2", "c1\x1fk1\x1ec0\x1fk2", 2**19, 2**20)),
    ("records.PAGE", ("\x01", "\x01", "~", 51, 2**20)),
    ("records.PAGE", ("c1", "\x01", "c1", 51, 2**20)),
    ("record_writes.PUT", (REQUEST_ID, "", "c1", "k1", "1", IN_A_DAY, 10_000, False)),
    ("record_writes.REPLACE", (REQUEST_ID, "", "c1", "k1", "1", IN_A_DAY, 1)),
    ("record_deletes.DELETE", (REQUEST_ID, "", "c1", "k1", 0, True)),
    ("sessions.ROTATE", ("", "", "", REQUEST_ID, "1 day", "c")),
    ("sessions.END", ()),
    ("users.GET", ()),
]
SHARED = [
    ("shared_puts.PUT", (*together(REQUEST_ID, "", "c1", "k1", "1", IN_A_DAY), 10_000)),
    ("sessions.OPEN", together(0, "c", "", "", "1 day", "1 day", 100)),
]
LOGIN = ("users.LOGIN_CREDENTIALS", together("explain-1", 20, 900))


@pytest.mark.parametrize(("name", "arguments"), ALONE)
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
async def test_no_hot_statement_reads_a_whole_table(
    connection: asyncpg.Connection,
    full: tuple[UUID, UUID],
    name: str,
    arguments: tuple[object, ...],
    plans: str,
) -> None:
    """Generic plans too: that is what a prepared statement ends up with after five executions."""
    await connection.execute(f"SET plan_cache_mode = {plans}")

    sql = CONSTANTS[name]
    plan = await explained(connection, sql, *full, *arguments)

    assert_only_lookups(plan)
    assert ("sessions_pkey" in plan, "records_pkey" in plan) == (True, "record" in name), plan


@pytest.mark.parametrize(("name", "arguments"), [*SHARED, LOGIN])
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
async def test_a_shared_write_reads_no_whole_table(
    connection: asyncpg.Connection,
    full: tuple[UUID, UUID],
    name: str,
    arguments: tuple[object, ...],
    plans: str,
) -> None:
    await connection.execute(f"SET plan_cache_mode = {plans}")
    who = () if (name, arguments) == LOGIN else together(*full)

    plan = await explained(connection, CONSTANTS[name], *who, *arguments)

    assert_only_lookups(plan)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, (uuid4(), uuid4(), *arguments)) for name, arguments in ALONE),
        *((name, (*together(uuid4(), uuid4()), *arguments)) for name, arguments in SHARED),
        LOGIN,
    ],
)
async def test_a_plan_made_for_an_empty_table_looks_rows_up_too(
    database_url: str, name: str, arguments: tuple[object, ...]
) -> None:
    """As the service has it: one plan, kept while the tables grow."""
    opened = await asyncpg.connect(database_url)
    emptied = opened.transaction()
    await emptied.start()
    try:
        await opened.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await opened.execute("SET LOCAL enable_seqscan = off")
        await opened.execute("TRUNCATE users, login_throttles CASCADE")
        await opened.execute("ANALYZE")
        plan = await explained(opened, CONSTANTS[name], *arguments)
    finally:
        await emptied.rollback()
        await opened.close()

    assert_only_lookups(plan)


def assert_only_lookups(plan: str) -> None:
    """That each scan of an index has a condition: in a join without, it reads the table whole."""
    assert "Seq Scan" not in plan, plan
    lines = plan.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.search(r"Index (Only )?Scan", line):
            assert "Index Cond" in following, plan


async def explained(connection: asyncpg.Connection, sql: str, *arguments: object) -> str:
    """EXPLAIN cannot have parameters itself, so it is asked about a statement prepared by name."""
    name = f"explained_{uuid4().hex}"
    literals = ", ".join(f"'{argument}'" for argument in arguments)
    await connection.execute(f"PREPARE {name} AS {sql}")
    rows = await connection.fetch(f"EXPLAIN EXECUTE {name} ({literals})")
    await connection.execute(f"DEALLOCATE {name}")
    return "\n".join(row[0] for row in rows)
