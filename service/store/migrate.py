"""Brings the schema up to date from migrations/*.sql, which are dbmate's files with dbmate's table,
so operators may run dbmate instead.

Old and new processes run side by side during a deploy: old code works after every `pre` file, and
`post` files wait until the old code has gone. Connect directly, not through PgBouncer in
transaction mode, where a session's lock belongs to nobody.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, Literal

import asyncpg

from service.domain.errors import NotReady
from service.store.db import Database

MIGRATIONS: Final = files("service.store") / "migrations"
# Any number would do, if nothing else in the database takes it: "sixfold" in ASCII.
LOCK_KEY: Final = int.from_bytes(b"sixfold")

LOCK: Final = "SELECT pg_advisory_lock($1)"
UNLOCK: Final = "SELECT pg_advisory_unlock($1)"
# Exactly dbmate's, which is why the checksums have a table of their own.
CREATE_VERSIONS: Final = """
    CREATE TABLE IF NOT EXISTS schema_migrations (version varchar PRIMARY KEY)
"""
CREATE_CHECKSUMS: Final = """
    CREATE TABLE IF NOT EXISTS schema_migration_checksums (
        version varchar PRIMARY KEY,
        sha256  text NOT NULL
    )
"""
APPLIED: Final = "SELECT version FROM schema_migrations"
CHECKSUMS: Final = "SELECT version, sha256 FROM schema_migration_checksums"
RECORD: Final = """
    WITH applied AS (INSERT INTO schema_migrations (version) VALUES ($1))
    INSERT INTO schema_migration_checksums (version, sha256) VALUES ($1, $2)
"""
# Not max(version): a branch merged late brings a version older than the newest applied.
IS_CURRENT: Final = """
    SELECT count(*) = cardinality($1::varchar[]) AS current
      FROM schema_migrations
     WHERE version = ANY ($1::varchar[])
"""

_NAME: Final = re.compile(r"(\d{14})_(pre|post)_\w+\.sql")
# Nothing may follow the markers: dbmate's `transaction:false` would be ignored here, so is refused.
_UP: Final = re.compile(r"\s*-- migrate:up\n(.*?)^-- migrate:down$", re.DOTALL | re.MULTILINE)


class MigrationError(Exception):
    """The migrations cannot be used as they are; the message names the file."""


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One file: what it is called, and what applying it runs."""

    version: str
    name: str
    phase: Literal["pre", "post"]
    path: Traversable

    def up(self) -> str:
        """The SQL between the markers. Raises MigrationError when it cannot be told."""
        found = _UP.match(self.path.read_text(encoding="utf-8"))
        if not found:
            raise MigrationError(f"{self.name}: needs `-- migrate:up`, then `-- migrate:down`")
        return found[1]


@dataclass(frozen=True, slots=True)
class Migration:
    """One line of `sixfold migrate --status`."""

    version: str
    name: str
    applied: bool


def known(directory: Traversable = MIGRATIONS) -> list[MigrationFile]:
    """The files of this release, in order. Raises MigrationError on a name out of format or a
    version used twice.
    """
    found: dict[str, MigrationFile] = {}
    for path in sorted(directory.iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".sql"):
            continue
        parts = _NAME.fullmatch(path.name)
        if not parts:
            raise MigrationError(f"{path.name}: not <14 digits>_pre_<what>.sql or …_post_….sql")
        if other := found.get(parts[1]):
            raise MigrationError(f"{path.name}: has the version of {other.name}")
        phase: Literal["pre", "post"] = "pre" if parts[2] == "pre" else "post"
        found[parts[1]] = MigrationFile(parts[1], path.name, phase, path)
    return list(found.values())


_KNOWN: Final = known()
REQUIRED_VERSION: Final = _KNOWN[-1].version if _KNOWN else ""
PRE_VERSIONS: Final = tuple(file.version for file in _KNOWN if file.phase == "pre")


async def up(
    connection: asyncpg.Connection,
    *,
    directory: Traversable = MIGRATIONS,
    phases: Collection[Literal["pre", "post"]] = ("pre", "post"),
) -> list[str]:
    """Apply what is missing, in order, each file in its own transaction; the names applied now.

    Any number may run at once: one applies, the others wait and find nothing to do. Versions the
    database has and this release does not know are left alone. Raises MigrationError when a file
    was changed after it was applied, before anything runs; what dbmate applied is not checked.
    """
    migrations = known(directory)
    texts = {file.version: file.up() for file in migrations}
    sums = {version: checksum(text) for version, text in texts.items()}
    names = []
    async with _alone(connection):
        await connection.execute(CREATE_VERSIONS)
        await connection.execute(CREATE_CHECKSUMS)
        recorded = {row["version"]: row["sha256"] for row in await connection.fetch(CHECKSUMS)}
        for file in migrations:
            if recorded.get(file.version, sums[file.version]) != sums[file.version]:
                raise MigrationError(f"{file.name}: changed after it was applied; write a new one")
        applied = await _applied(connection)
        for file in migrations:
            if file.version in applied or file.phase not in phases:
                continue
            async with connection.transaction():
                await connection.execute(texts[file.version])
                await connection.execute(RECORD, file.version, sums[file.version])
            names.append(file.name)
    return names


async def status(
    connection: asyncpg.Connection, *, directory: Traversable = MIGRATIONS
) -> list[Migration]:
    """Every known migration, in order; changes nothing, and takes no lock."""
    try:
        applied = await _applied(connection)
    except asyncpg.UndefinedTableError:
        applied = set()
    return [
        Migration(file.version, file.name, file.version in applied) for file in known(directory)
    ]


async def is_current(db: Database, *, required: Collection[str] = PRE_VERSIONS) -> bool:
    """Whether every `pre` migration this release knows is applied. A newer schema is fine, and so
    is a `post` that waits: old and new processes run side by side.
    """
    try:
        row = await db.row(IS_CURRENT, list(required))
    except NotReady:
        return False
    return row is not None and bool(row["current"])


def checksum(text: str) -> str:
    """SHA-256 of a migration's up part, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


async def _applied(connection: asyncpg.Connection) -> set[str]:
    return {row["version"] for row in await connection.fetch(APPLIED)}


@asynccontextmanager
async def _alone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    await connection.execute(LOCK, LOCK_KEY)
    try:
        yield
    finally:
        # A closed connection has given its lock back, and asking would hide why it closed.
        if not connection.is_closed():
            await connection.execute(UNLOCK, LOCK_KEY)
