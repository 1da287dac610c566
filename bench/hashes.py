"""Raw argon2id at the service's default cost, on as many threads as there are cores.

A process that takes jobs, {"end": Unix time}, on stdin; answers with a sample per hash.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench import calls
from service.domain import passwords


def hashes(end: float) -> list[tuple[float, float]]:
    """One thread's work: (ended, seconds) of each."""
    policy = passwords.PasswordPolicy()
    samples = []
    while (start := time.time()) < end:
        passwords.hash_password(policy, calls.PASSWORD, bytes(passwords.SALT_BYTES))
        ended = time.time()
        samples.append((ended, ended - start))
    return samples


def main() -> None:
    """One thread per core, as the service's pool has."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for line in sys.stdin:
            found = pool.map(hashes, [json.loads(line)["end"]] * threads)
            samples = [sample for each in found for sample in each]
            print(json.dumps({"samples": samples, "complaints": []}), flush=True)


if __name__ == "__main__":
    main()
