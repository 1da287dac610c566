"""The rpcs that are measured. A new one is a row in CALLS and a function in checks.py."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from sixfold.data.v1 import data_pb2

PASSWORD: Final = "a bench needs a password too"

COLLECTION: Final = "bench"
RECORDS: Final = 20
# What a batch reads: a collection of its own, so that pages stay as they were without it.
BATCH: Final = "batch"
BATCH_SIZE: Final = 100
WRITTEN: Final = data_pb2.PutRecordRequest(
    collection="written", key="one", json='{"n": 1, "text": "' + 160 * "w" + '"}'
)

# Who makes which calls. The first 128 are sessions, of 36 users in turn; then come 32 users that
# are only names. Writers are many, because the writes of one user wait for each other; names are,
# because logins by one name count against it; sessions, as each token can be in one call only.
SESSIONS: Final = 128
USERS: Final = 68
ROLES: Final = {
    "readers": slice(0, 4),
    "writers": slice(4, 36),
    "sessions": slice(0, SESSIONS),
    "names": slice(SESSIONS, SESSIONS + 32),
}


def key(number: int) -> str:
    """The key of a record that every reader has."""
    return f"record-{number:02}"


def json(person: int, number: int) -> str:
    """Its value: nobody else's, and in Postgres' canonical form, so that it comes back as it is."""
    return f'{{"n": {number}, "text": "{f"{person}/{number} ".ljust(160, "r")}"}}'


@dataclass(frozen=True, slots=True)
class Call:
    """`request` is the same at each call, so h2load can make it; None: only our client can.
    `limit` is what it is compared with.
    """

    path: str
    role: str
    request: Message | None = None
    limit: str = ""
    # Connections, each with the token of somebody else, that h2load spreads its calls over.
    connections: int = 4


AUTH: Final = "/sixfold.auth.v1.AuthService/"
DATA: Final = "/sixfold.data.v1.DataService/"
CALLS: Final = {
    "GetRecord": Call(
        DATA + "GetRecord",
        "readers",
        data_pb2.GetRecordRequest(collection=COLLECTION, key=key(0)),
        limit="pgbench get",
    ),
    "BatchGetRecords": Call(
        DATA + "BatchGetRecords",
        "readers",
        data_pb2.BatchGetRecordsRequest(
            names=[data_pb2.RecordName(collection=BATCH, key=key(n)) for n in range(BATCH_SIZE)]
        ),
        limit="pgbench batch",
    ),
    "GetUserData": Call(
        DATA + "GetUserData", "readers", data_pb2.GetUserDataRequest(collection=COLLECTION)
    ),
    "PutRecord": Call(DATA + "PutRecord", "writers", WRITTEN, limit="pgbench put", connections=32),
    "Login": Call(AUTH + "Login", "names", limit="argon2 ours"),
    "RefreshTokens": Call(AUTH + "RefreshTokens", "sessions"),
}
ECHO: Final = Call("/bench.Echo/Echo", "readers")


def framed(message: bytes) -> bytes:
    """As gRPC sends it: not compressed, this long, the message."""
    return b"\0" + len(message).to_bytes(4, "big") + message
