"""How many connections Postgres has for us: asked once, when a process starts, because a pool that
is too large shows only under load, and then to others, too.
"""

from typing import Final

from service.store.db import Database


class TooFewConnections(Exception):
    """The processes of this start could together want more connections than there are."""


# Settings that a Postgres-like engine does not have are NULL, which LEAST passes over. A limit of
# -1 is none.
CONNECTIONS: Final = """
    SELECT LEAST(
               current_setting('max_connections', true)::int
                   - COALESCE(current_setting('superuser_reserved_connections', true)::int, 0)
                   - COALESCE(current_setting('reserved_connections', true)::int, 0),
               NULLIF(datconnlimit, -1),
               NULLIF(rolconnlimit, -1)
           ) AS most
      FROM pg_database, pg_roles
     WHERE datname = current_database() AND rolname = session_user
"""


async def check(db: Database, wanted: int) -> None:
    """Raises TooFewConnections, and DatabaseUnavailable. Of other replicas nobody here knows."""
    row = await db.row(CONNECTIONS)
    if row and row["most"] is not None and wanted > row["most"]:
        raise TooFewConnections(
            f"{wanted} connections are wanted (SIXFOLD_WORKERS times SIXFOLD_POOL_SIZE and two), "
            f"but Postgres has {row['most']} for this user"
        )
