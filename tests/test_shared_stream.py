"""Several processes write their lines to one pipe, as workers to their supervisor's output."""

import subprocess
import sys
from pathlib import Path

import pytest

LINES, LENGTH, BATCH = 6_000, 300, 500
# As a busy server: hundreds of lines wait for each write, more than a pipe holds.
WRITE = f"""
import sys
from service.telemetry import lines
write = lines.line_writer(sys.stdout, lambda dropped: b"")
lines.share(sys.stdout)
for number in range({LINES}):
    write(sys.argv[1].encode() * {LENGTH} + b"\\n")
    if number % {BATCH} == 0:
        lines.flush(30)
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS locks no pipes")
def test_no_line_is_torn_by_another_process() -> None:
    root = Path(__file__).parent.parent
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reading:
        assert reading.stdin
        assert reading.stdout
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITE, letter], stdout=reading.stdin, cwd=root)
            for letter in "abc"
        ]
        reading.stdin.close()
        found = reading.stdout.read().decode().splitlines()

    assert [each.wait(30) for each in writers] == [0] * 3
    assert len(found) == 3 * LINES
    assert set(found) == {letter * LENGTH for letter in "abc"}
