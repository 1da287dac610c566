"""The things the service talks about, as frozen values."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
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


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in. `username` is canonical."""

    user_id: UUID
    username: str
    create_time: datetime
    update_time: datetime


class Record(NamedTuple):
    """One value a user keeps; `json` is Postgres' canonical text of it."""

    collection: str
    key: str
    json: str
    revision: int
    create_time: datetime
    update_time: datetime
    expire_time: datetime | None
