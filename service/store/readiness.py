"""Whether Postgres can do what this process needs: asked before traffic is."""

from typing import Final

from service.domain.errors import DatabaseUnavailable
from service.store.db import Database

# A transactional message in the write-ahead log needs a transaction id and a flushed commit, so it
# fails on a standby and on a full disk, touches no table and waits for no lock.
PROBE: Final = """
    SELECT current_setting('transaction_read_only') = 'off' AS writable,
           pg_logical_emit_message(true, 'sixfold.probe', '') IS NOT NULL AS written
"""


async def probe(db: Database) -> None:
    """Prove that Postgres takes writes. Raises DatabaseUnavailable."""
    row = await db.write(PROBE)
    if row is None or not row["writable"]:
        raise DatabaseUnavailable
