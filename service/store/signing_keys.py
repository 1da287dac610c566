"""The signing_keys table: private parts sealed with the master key, rotation without a leader."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from service.domain import keys
from service.domain.keys import KeySet, SigningKey
from service.store.db import Database


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new key may sign after it is published, and how long an old one is kept after that:
    until the last token it signed has expired, everywhere.
    """

    publish: timedelta
    retain: timedelta


LIST: Final = """
    SELECT kid, sealed_key, create_time, sign_after, expire_time
      FROM signing_keys
     WHERE expire_time IS NULL OR expire_time > now()
     ORDER BY create_time, kid
"""


async def load(db: Database, kek: bytes) -> KeySet:
    """All keys that sign, will sign, or signed tokens that still live. Raises MasterKeyMismatch."""
    rows = await db.rows(LIST)
    loaded = [
        SigningKey(
            kid=row["kid"],
            private_key=keys.unseal(kek, row["kid"], row["sealed_key"]),
            create_time=row["create_time"],
            sign_after=row["sign_after"],
            expire_time=row["expire_time"],
        )
        for row in rows
    ]
    return KeySet(tuple(loaded))


# The very first key signs at once: nobody can have cached a set without it.
PUBLISH: Final = """
    WITH time AS (
        SELECT CASE WHEN EXISTS (SELECT FROM signing_keys
                                  WHERE expire_time IS NULL OR expire_time > now())
                    THEN now() + $3::interval ELSE now() END AS sign_after
    ), outgoing AS (
        UPDATE signing_keys SET expire_time = time.sign_after + $4::interval
          FROM time WHERE expire_time IS NULL OR expire_time > time.sign_after + $4::interval
    )
    INSERT INTO signing_keys (kid, sealed_key, sign_after)
    SELECT $1, $2, sign_after FROM time
    RETURNING kid, create_time, sign_after, expire_time
"""


async def publish(
    db: Database, kek: bytes, key: ec.EllipticCurvePrivateKey, nonce: bytes, rotation: Rotation
) -> tuple[str, datetime]:
    """Publish a new key and date the end of the others. Returns its kid and when it may sign."""
    kid = keys.thumbprint(key.public_key())
    row = await db.write(
        PUBLISH, kid, keys.seal(kek, kid, key, nonce), rotation.publish, rotation.retain
    )
    assert row is not None  # an INSERT without a conflict clause returns its row or raises
    return kid, row["sign_after"]
