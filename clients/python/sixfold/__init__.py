"""The Python client for Sixfold: who a user is, and what a user keeps.

client.py, async_client.py  the two clients: the same methods, for threads and for asyncio
models.py, errors/          what they return and raise

_calls.py    one flow per method: request, call, value
_flows.py    what surrounds a call: token, renewal, single flight; generators without I/O
_session.py  which tokens there are and when they need renewing; pure
_sync.py, _async.py, _driver.py, _channel.py, _health.py   the I/O that carries flows out
_convert.py  message to value
auth/v1, data/v1, errors/v1   generated from protos/, and public: `client.stubs` speaks them
"""

from sixfold import errors
from sixfold.async_client import AsyncClient
from sixfold.client import Client
from sixfold.errors import SixfoldError
from sixfold.models import Json, KeySet, Record, Tokens, User, UserData, Written

__all__ = [
    "AsyncClient",
    "Client",
    "Json",
    "KeySet",
    "Record",
    "SixfoldError",
    "Tokens",
    "User",
    "UserData",
    "Written",
    "errors",
]
