"""Every limit that is not a setting, in one table. The proto comments state the same numbers, and
a test holds them together.
"""

from datetime import timedelta
from typing import Final

RECORDS_PER_USER: Final = 10_000
SESSIONS_PER_USER: Final = 100  # live ones; a login beyond it ends the oldest

# What one record may hold is in the contract (protovalidate) and in a CHECK of the records table:
# 256 KiB of JSON, collection names of 128 characters, keys of 512 bytes.
VALUE_BYTES: Final = 256 * 1024

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1_000
# A full page (or batch), with 1,000 longest names around it, stays well under the 4 MiB that gRPC
# clients accept; and a caller who does not read its answers holds no more than this for each.
PAGE_BYTES: Final = 1024 * 1024
# Names in one BatchGetRecords, and items of any list in a request.
BATCH_SIZE_MAX: Final = 100

# The largest valid request is one value and its names; the rest is room for framing. 64 KiB would
# do for AuthService, whose fields protovalidate bounds one by one.
MESSAGE_BYTES: Final = 320 * 1024
METADATA_BYTES: Final = 8 * 1024  # gRPC's own soft limit
ACCESS_TOKEN_CHARACTERS: Final = 4_096

LOGIN_FREE_ATTEMPTS: Final = 20  # NIST SP 800-63B-4 3.2.2 allows 100 in a row
LOGIN_LONGEST_WAIT: Final = timedelta(minutes=15)

REQUEST_ID_MEMORY: Final = timedelta(hours=24)  # AIP-155 wants an hour or more
SESSION_MEMORY: Final = timedelta(hours=24)  # ended sessions answer SESSION_REVOKED for so long
