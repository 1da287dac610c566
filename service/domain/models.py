"""The things the service talks about, as frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a verified access token speaks for. That the session is alive is not yet known:
    the statement that touches the data checks it.
    """

    user_id: UUID
    session_id: UUID
    client_id: str
    scopes: frozenset[str]
    expire_time: datetime
    # User and session as text: made once, because every read asks with them.
    ids: tuple[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", (str(self.user_id), str(self.session_id)))


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in. `username` is canonical."""

    user_id: UUID
    username: str
    create_time: datetime
    update_time: datetime


# Revision; then create, update and expire time in microseconds since the year 2000, as Postgres
# keeps them. Whatever is read has not expired, so an expiry before all time is none.
Stamps: TypeAlias = tuple[int, int, int, int]
NEVER: Final = -(2**63)
# One value a user keeps: collection, key, the value as Postgres' canonical text of it, stamps.
# Tuples of text and numbers: a datetime costs a read more than any other part of a record.
Record: TypeAlias = tuple[str, str, str, Stamps]
