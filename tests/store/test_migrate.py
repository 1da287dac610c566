"""Migrations: applied once, by one, in order, and never behind anybody's back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.store import connecting, embedded, migrate

ONE = "20260101000000_pre_one.sql"
TWO = "20260102000000_post_two.sql"
THREE = "20260103000000_pre_three.sql"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.EmbeddedPostgres]:
    data_dir = tmp_path_factory.mktemp("migrate") / "data"
    with embedded.running(data_dir, durable=False) as running:
        yield running


@pytest.fixture
async def url(server: embedded.EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database of the test's own."""
    async with connection_to(server.url) as admin:
        await admin.execute("CREATE DATABASE empty")
        yield server.url.replace("/postgres?", "/empty?")
        await admin.execute("DROP DATABASE empty WITH (FORCE)")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in (ONE, TWO, THREE):
        write(tmp_path / name, up=f"CREATE TABLE t{name[:14]} ();")
    return tmp_path


@contextlib.asynccontextmanager
async def connection_to(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def write(path: Path, *, up: str, down: str = "") -> None:
    path.write_text(f"-- migrate:up\n{up}\n\n-- migrate:down\n{down}\n")


async def is_current(url: str, *required: str) -> bool:
    second = timedelta(seconds=1)
    async with connecting.pooled(url, size=1, acquire_seconds=5, statement_timeout=second) as pool:
        if required:
            return await migrate.is_current(pool, required=[name[:14] for name in required])
        return await migrate.is_current(pool)


async def test_the_releases_own_migrations_make_an_empty_database_current(url: str) -> None:
    before = await is_current(url)

    async with connection_to(url) as connection:
        applied = await migrate.up(connection)

    assert applied == [file.name for file in migrate.known()]
    assert applied[-1].startswith(migrate.PRE_VERSIONS[-1])
    assert (before, await is_current(url)) == (False, True)


async def test_the_releases_own_migrations_can_be_taken_back(url: str) -> None:
    """The runner never does; dbmate can, and half a `down` part is worse than none."""
    objects = """
        SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace
               AND relname NOT LIKE 'schema_migration%'
    """
    async with connection_to(url) as connection:
        await migrate.up(connection)

        for file in reversed(migrate.known()):
            await connection.execute(file.path.read_text().partition("-- migrate:down\n")[2])

        assert await connection.fetchval(objects) == 0


async def test_a_second_run_finds_nothing_to_do(url: str, directory: Path) -> None:
    async with connection_to(url) as connection:
        assert await migrate.up(connection, directory=directory) == [ONE, TWO, THREE]
        assert await migrate.up(connection, directory=directory) == []


async def test_of_three_starters_one_applies(url: str, directory: Path) -> None:
    async def start() -> list[str]:
        async with connection_to(url) as connection:
            return await migrate.up(connection, directory=directory)

    applied = await asyncio.gather(start(), start(), start())

    assert sorted(applied) == [[], [], [ONE, TWO, THREE]]


async def test_the_table_is_the_one_dbmate_makes(url: str, directory: Path) -> None:
    columns = """
        SELECT column_name || ' ' || data_type FROM information_schema.columns
         WHERE table_name = 'schema_migrations'
    """
    async with connection_to(url) as connection:
        await migrate.up(connection, directory=directory)

        assert await connection.fetchval(columns) == "version character varying"


async def test_what_dbmate_applied_is_not_applied_again(url: str, directory: Path) -> None:
    async with connection_to(url) as connection:
        await connection.execute(migrate.CREATE_VERSIONS)
        await connection.execute("INSERT INTO schema_migrations VALUES ($1)", ONE[:14])

        assert await migrate.up(connection, directory=directory) == [TWO, THREE]


async def test_a_file_changed_after_it_was_applied_is_refused_by_name(
    url: str, directory: Path
) -> None:
    async with connection_to(url) as connection:
        await migrate.up(connection, directory=directory)
        write(directory / TWO, up="SELECT 'something else';")
        write(directory / "20260104000000_pre_four.sql", up="CREATE TABLE four ();")

        with pytest.raises(migrate.MigrationError, match=TWO):
            await migrate.up(connection, directory=directory)

        assert await connection.fetchval("SELECT to_regclass('four')") is None


async def test_a_changed_down_part_is_nobodys_business(url: str, directory: Path) -> None:
    async with connection_to(url) as connection:
        await migrate.up(connection, directory=directory)
        write(directory / ONE, up=f"CREATE TABLE t{ONE[:14]} ();", down="SELECT 1;")

        assert await migrate.up(connection, directory=directory) == []


async def test_a_failing_file_leaves_nothing_and_lets_the_lock_go(
    url: str, directory: Path
) -> None:
    write(directory / TWO, up="CREATE TABLE half (); SELECT 1 / 0;")
    async with connection_to(url) as connection, connection_to(url) as other:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate.up(connection, directory=directory)

        assert await connection.fetchval("SELECT to_regclass('half')") is None
        write(directory / TWO, up="CREATE TABLE whole ();")
        assert await migrate.up(other, directory=directory) == [TWO, THREE]


async def test_post_migrations_can_wait_for_the_old_processes_to_go(
    url: str, directory: Path
) -> None:
    async with connection_to(url) as connection:
        assert await migrate.up(connection, directory=directory, phases=["pre"]) == [ONE, THREE]
        assert await is_current(url, ONE, THREE)
        assert await migrate.up(connection, directory=directory) == [TWO]


async def test_status_says_what_is_applied_and_changes_nothing(url: str, directory: Path) -> None:
    async with connection_to(url) as connection:
        before = await migrate.status(connection, directory=directory)
        tables = await connection.fetchval("SELECT to_regclass('schema_migrations')")
        await migrate.up(connection, directory=directory, phases=["pre"])
        after = await migrate.status(connection, directory=directory)

    assert tables is None
    assert [line.applied for line in before] == [False, False, False]
    assert after == [
        migrate.Migration(ONE[:14], ONE, applied=True),
        migrate.Migration(TWO[:14], TWO, applied=False),
        migrate.Migration(THREE[:14], THREE, applied=True),
    ]


async def test_current_is_every_pre_migration_and_more_is_fine(url: str, directory: Path) -> None:
    (directory / ONE).rename(directory / "kept")
    async with connection_to(url) as connection:
        await migrate.up(connection, directory=directory)

    assert await is_current(url, THREE)
    assert not await is_current(url, ONE, THREE)  # older than the newest, and missing all the same


@pytest.mark.parametrize(
    "name", ["1_pre_short.sql", "20260101000000_what.sql", "20260101000000_pre_twin.sql"]
)
def test_a_name_that_cannot_be_put_in_order_is_refused(directory: Path, name: str) -> None:
    write(directory / name, up="SELECT 1;")

    with pytest.raises(migrate.MigrationError, match=r"_pre_|_what"):
        migrate.known(directory)


@pytest.mark.parametrize(
    "text", ["SELECT 1;", "-- migrate:up transaction:false\nSELECT 1;\n-- migrate:down\n"]
)
async def test_markers_that_would_mean_something_else_are_refused(
    url: str, directory: Path, text: str
) -> None:
    (directory / TWO).write_text(text)

    async with connection_to(url) as connection:
        with pytest.raises(migrate.MigrationError, match=TWO):
            await migrate.up(connection, directory=directory)
        assert await connection.fetchval("SELECT to_regclass('schema_migrations')") is None
