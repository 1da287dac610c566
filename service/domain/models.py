"""The things the service talks about, as frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeAlias
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


class User(NamedTuple):
    """Somebody who can log in. `username` is canonical."""

    user_id: UUID
    username: str
    create_time: datetime
    update_time: datetime


# One value a user keeps, as it is sent: a sixfold.data.v1.GetRecordResponse in the Protocol Buffers
# encoding, several of which in a row are what the other responses have of records. An object and
# its datetimes would cost a read more than everything else about a record.
Record: TypeAlias = bytes
