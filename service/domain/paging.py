"""Page tokens (AIP-158): a position that only this service can make, for one caller and one query.

A token grants nothing: the statement it continues checks owner and session again. The HMAC is there
so that a token is data from us, never input from a stranger, and cannot wander between queries.
"""

import base64
import binascii
import hmac
import json
from typing import Final

from service.domain import limits
from service.domain.errors import PageTokenInvalid
from service.domain.models import Caller

_MAC_BYTES: Final = 16


def size(requested: int) -> int:
    """How many records to return for `page_size` (AIP-158: 0 is the default, too many are cut)."""
    return min(requested or limits.PAGE_SIZE_DEFAULT, limits.PAGE_SIZE_MAX)


def seal(key: bytes, caller: Caller, query: str, position: tuple[str, str]) -> str:
    """A token that continues `query` after `position` (collection, key)."""
    body = json.dumps(position, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_mac(key, caller, query, body) + body).decode()


def unseal(key: bytes, caller: Caller, query: str, token: str) -> tuple[str, str]:
    """The position in `token`; before everything for an empty one.

    Raises PageTokenInvalid unless `seal` made it for the same caller and query.
    """
    if not token:
        return ("", "")
    try:
        sealed = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise PageTokenInvalid from error
    mac, body = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, caller, query, body)):
        raise PageTokenInvalid
    collection, record_key = json.loads(body)
    return (collection, record_key)


def _mac(key: bytes, caller: Caller, query: str, body: bytes) -> bytes:
    bound = caller.user_id.bytes + len(query).to_bytes(2, "big") + query.encode() + body
    return hmac.digest(key, bound, "sha256")[:_MAC_BYTES]
