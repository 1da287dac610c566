"""Raw argon2id at the service's default cost, on as many threads as there are cores.

A process that takes jobs, {"of": "ours" or "reference", "end": Unix time}, on stdin; answers with
a sample per hash. The service's library is faster than the reference implementation, so there is a
row for each.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from argon2.low_level import Type, hash_secret

from bench import calls
from service.domain import passwords

POLICY: Final = passwords.PasswordPolicy()
SALT: Final = bytes(passwords.SALT_BYTES)


def ours() -> None:
    """What the service does at each Login."""
    passwords.hash_password(POLICY, calls.PASSWORD, SALT)


def reference() -> None:
    """The same by argon2-cffi."""
    password = calls.PASSWORD.encode()
    hash_secret(password, SALT, POLICY.time_cost, POLICY.memory_kib, 1, hash_len=32, type=Type.ID)


def hashes(one: Callable[[], None], end: float) -> list[tuple[float, float]]:
    """One thread's work: (ended, seconds) of each."""
    samples = []
    while (start := time.time()) < end:
        one()
        ended = time.time()
        samples.append((ended, ended - start))
    return samples


def main() -> None:
    """One thread per core, as the service's pool has."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for line in sys.stdin:
            job = json.loads(line)
            one = {"ours": ours, "reference": reference}[job["of"]]
            found = pool.map(partial(hashes, one), [job["end"]] * threads)
            samples = [sample for each in found for sample in each]
            print(json.dumps({"samples": samples, "complaints": []}), flush=True)


if __name__ == "__main__":
    main()
