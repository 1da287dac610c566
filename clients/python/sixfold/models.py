"""What the client gives back: frozen values, with times as aware datetimes in UTC."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in. `username` is in its canonical form (lower case, NFC)."""

    user_id: str
    username: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Tokens:
    """A session, to be stored and restored: `Client(refresh_token=tokens.refresh_token)`."""

    access_token: str = field(repr=False)
    access_token_expire_time: datetime
    refresh_token: str = field(repr=False)
    refresh_token_expire_time: datetime
    session_id: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeySet:
    """The public keys access tokens are verified with, and how long they may be cached."""

    keys: tuple[dict[str, str], ...]
    max_age: timedelta

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The set as RFC 7517 spells it, for `jwt.PyJWKSet.from_dict` and its like."""
        return {"keys": [dict(key) for key in self.keys]}


@dataclass(frozen=True, slots=True)
class Json:
    """A value given as JSON text, where Python's own types would lose something (1.10)."""

    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One value a user keeps. `json` is its exact text, `revision` grows with every write."""

    collection: str
    key: str
    json: str
    revision: int
    create_time: datetime
    update_time: datetime
    expire_time: datetime | None

    @property
    def value(self) -> Any:
        """The value: integers exact, other numbers as float. Parsed anew at every use."""
        return self.decode()

    def decode(self, *, parse_float: Callable[[str], Any] = float) -> Any:
        """The value, with numbers that have a point or exponent made by `parse_float`.

        `parse_float=decimal.Decimal` keeps them exact.
        """
        return json.loads(self.json, parse_float=parse_float)


@dataclass(frozen=True, slots=True)
class Written:
    """What a put has done: `revision` is the record's and, at that moment, the user's."""

    revision: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class UserData:
    """One page of everything a user keeps, by collection, then key.

    A page can be short or empty and not be the last: only `next_page_token == ""` is the end.
    `revision` is the user's newest, of the same instant as `records`.
    """

    user: User
    revision: int
    records: tuple[Record, ...]
    next_page_token: str


def encode(value: Any) -> str:
    """JSON text of a value. Raises TypeError or ValueError for what JSON cannot say (NaN too)."""
    if isinstance(value, Json):
        return value.text
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
