"""What makes load. Each starts at once and returns how to wait for its end.

All of them say when each answer came (Unix time), so one window of time fits them all, and nothing
has to trust another program's idea of warm-up or average.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, Self

from bench.children import ROOT, BenchError, environment

Sample = tuple[float, float]  # when it ended, how long it took; seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a load: its answers, and what was wrong with some."""

    samples: list[Sample]
    complaints: list[str] = field(default_factory=list)


Finish = Callable[[], Outcome]
_SUMMARY: Final = re.compile(r"requests: .* (\d+) failed, (\d+) errored, (\d+) timeout")


def h2load(
    folder: Path, url: str, senders: Sequence[tuple[str, bytes]], in_flight: int, end: float
) -> Finish:
    """`in_flight` calls at any time, over a connection for each of `senders` (token, body).

    A process per connection, because h2load has one body and one set of headers.
    """
    here = Path(mkdtemp(dir=folder))
    connections = min(in_flight, len(senders))
    running = []
    for number, (token, body) in enumerate(senders[:connections]):
        (here / f"{number}.body").write_bytes(body)
        streams = in_flight // connections + (number < in_flight % connections)
        headers = ("te: trailers", "content-type: application/grpc", f"authorization: {token}")
        running.append(
            subprocess.Popen(
                [
                    *("h2load", "--clients=1", "--threads=1"),
                    f"--max-concurrent-streams={streams}",
                    f"--duration={max(1, round((end - time.time()) * 1000))}ms",
                    f"--data={here / f'{number}.body'}",
                    f"--log-file={here / f'{number}.log'}",
                    *(f"--header={header}" for header in headers),
                    url,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    def finish() -> Outcome:
        samples, complaints = [], []
        for number, process in enumerate(running):
            said, _ = process.communicate()
            summary = _SUMMARY.search(said)
            if process.returncode or not summary or any(map(int, summary.groups())):
                complaints.append(f"h2load: {summary[0] if summary else said[-300:]}")
            for line in (here / f"{number}.log").read_text().splitlines():
                start, _, micros = map(int, line.split("\t"))
                samples.append(((start + micros) / 1e6, micros / 1e6))
        return Outcome(samples, complaints)

    return finish


def pgbench(
    folder: Path,
    program: Path,
    url: str,
    scripts: Sequence[str],
    variables: Mapping[str, str],
    clients: int,
    end: float,
) -> Finish:
    """`clients` connections that run one of `scripts` after the other, each time a random one."""
    here = Path(mkdtemp(dir=folder))
    files = [here / f"{number}.sql" for number in range(len(scripts))]
    for file, script in zip(files, scripts, strict=True):
        file.write_text(script)
    process = subprocess.Popen(
        [
            *(str(program), "--no-vacuum", "--protocol=prepared", f"--client={clients}"),
            f"--jobs={min(clients, os.cpu_count() or 1)}",
            f"--time={math.ceil(end - time.time())}",  # it knows no shorter than a second
            *("--log", f"--log-prefix={here / 'log'}"),
            *(f"--file={file}" for file in files),
            *(f"--define={name}={value}" for name, value in variables.items()),
            url,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def finish() -> Outcome:
        said, _ = process.communicate()
        if process.returncode or "number of failed transactions: 0" not in said:
            raise BenchError(f"pgbench failed:\n{said}")
        samples = []
        for log in here.glob("log.*"):
            for line in log.read_text().splitlines():
                _, _, micros, _, second, part = map(int, line.split()[:6])
                samples.append((second + part / 1e6, micros / 1e6))
        return Outcome(samples)

    return finish


class Jobs:
    """A Python module as a process that takes jobs on stdin and answers each; JSON lines both ways.

    Started before the rounds, because its imports take longer than a window.
    """

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment({}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """For its CPU time."""
        return self._process.pid

    def ask(self, **job: Any) -> Callable[[], Any]:
        """Begin a job; one at a time."""
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)

        def answer() -> Any:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                raise BenchError(f"{self._process.args!r} ended with {self._process.wait()}")
            return json.loads(line)

        return answer

    def load(self, **job: Any) -> Finish:
        """A job that is load: see client.py and hashes.py."""
        answer = self.ask(**job)

        def finish() -> Outcome:
            told = answer()
            return Outcome(list(map(tuple, told["samples"])), told["complaints"])

        return finish
