"""Lines to a descriptor, from a thread of their own: a reader who stops costs lines, never a call.

A write to a full pipe waits until somebody reads. On the event loop that wait would be every
call's, and the liveness probe's; here it is a daemon thread's, which does nothing else.
"""

import atexit
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TextIO

Write = Callable[[bytes], None]
Say = Callable[[int], bytes]

# Bytes that may wait for the reader: about 30,000 access lines, some seconds of a busy process,
# which is what restarting a log collector takes. In bytes, not lines, because a traceback is long
# and the sum is what fills memory: with the batch being written, twice this.
BOUND: Final = 8 * 2**20
# A write takes all that came in the meantime, so a busy loop is woken and shares the interpreter
# fifty times a second, not once per line. The first line after a silence does not wait.
PAUSE_SECONDS: Final = 0.02
# A loop that never idles gives up the interpreter for too short a time for another thread to get
# it; so each time this many bytes more wait, it is given up for long enough. At most 128 times
# while a reader stands still.
STEP: Final = 2**16
YIELD_SECONDS: Final = 0.00005
# A living reader takes a full queue in a tenth of this; a stopped one must not hold up the exit.
EXIT_SECONDS: Final = 2.0


class Writer:
    """One descriptor, the lines that wait for it, and the thread that writes them."""

    def __init__(self, descriptor: int, say: Say) -> None:
        self.say = say
        self.ended = False
        self.shared = False
        self._descriptor = descriptor
        self.start_over()

    def start_over(self) -> None:
        """Forget thread, locks and lines: in a forked child they are the parent's."""
        # Reentrant, because a destructor that logs may run anywhere, here too.
        self._lock = threading.RLock()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lines: list[bytes] = []
        self._size = self._dropped = self._lost = 0
        self._next_yield = STEP
        self._idle = True
        self._torn = False

    def put(self, line: bytes) -> None:
        """Queue a line, or several in one, or drop them when too much waits. Never waits for the
        reader, never raises.

        The newest is dropped: how the trouble began stays, the gap is in one place, and the line
        that tells of it stands exactly there.
        """
        with self._lock:
            if self._size >= BOUND:
                self._dropped += line.count(b"\n")
                return
            self._size += len(line)
            self._lines.append(line)
            wake, self._idle = self._idle, False
            crowded = self._size >= self._next_yield
            if crowded:
                self._next_yield = self._size + STEP
        if wake:
            self._wake()
        if crowded:
            time.sleep(YIELD_SECONDS)

    def settled(self, deadline: float) -> bool:
        """Wait until all is written, at most until `deadline`. False when lines are left."""
        if not self._idle:
            self._bell.put(None)  # cuts the pause short
        while not self._idle and time.monotonic() < deadline:
            time.sleep(0.001)
        return self._idle

    def _wake(self) -> None:
        if self.ended:  # what a dying interpreter says last; its threads no longer run
            while self._write_waiting():
                pass
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log lines", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had now; the next line asks again
                self._idle = True
                return
            self._thread = thread
        self._bell.put(None)

    def _run(self) -> None:
        while True:
            self._bell.get()
            while self._write_waiting():
                with suppress(Empty):
                    self._bell.get(timeout=PAUSE_SECONDS)

    def _write_waiting(self) -> bool:
        with self._lock:
            lines, self._lines = self._lines, []
            dropped, self._dropped = self._dropped, 0
            self._size, self._next_yield = 0, STEP
            self._idle = not lines
        if lines:
            self._write(lines, dropped)
        return bool(lines)

    def _write(self, lines: list[bytes], dropped: int) -> None:
        whole = b""
        done = 0
        if self.shared:
            self._lock_stream(fcntl.LOCK_EX)
        try:
            before = [self.say(self._lost)] if self._lost else []
            after = [self.say(dropped)] if dropped else []
            whole = b"".join([b"\n" if self._torn else b"", *before, *lines, *after])
            with memoryview(whole) as view:
                while done < len(whole):
                    done += self._write_some(view[done:])
            self._lost, self._torn = 0, False
        except Exception:  # a thread that ends would take every later line with it
            # What the reader left in the pipe is gone too, so no count could be exact.
            self._lost += sum(line.count(b"\n") for line in lines) + dropped
            if done:
                self._torn = whole[done - 1 : done] != b"\n"
        finally:
            if self.shared:
                self._lock_stream(fcntl.LOCK_UN)

    def _lock_stream(self, how: int) -> None:
        with suppress(OSError):  # macOS locks no pipes
            fcntl.lockf(self._descriptor, how)

    def _write_some(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view)
        except BlockingIOError:  # whoever shares the pipe may have made it non-blocking
            ready = select.poll()
            ready.register(self._descriptor, select.POLLOUT)
            ready.poll()
            return 0


# By stream, so that all who write to standard output share one order. Nothing leaves: a process
# has one log stream, and a stream that is closed must be flushed first.
_writers: Final[dict[TextIO, Writer]] = {}


def line_writer(stream: TextIO, say: Say) -> Write:
    """Whole lines to `stream`, in order. `say` makes the line that tells how many were dropped."""
    try:
        # Past Python's buffer from here on: bytes left in it by a broken pipe would be written
        # again with every later line, and once more, fatally, when the interpreter exits.
        stream.flush()
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return _in_memory(stream)
    writer = _writers.setdefault(stream, Writer(descriptor, say))
    writer.say = say
    return writer.put


def share(stream: TextIO) -> None:
    """Write to `stream` in turn with other processes that do so, too: what is longer than a full
    pipe has room for would be torn apart by theirs.
    """
    if stream in _writers:
        _writers[stream].shared = True


def flush(seconds: float) -> bool:
    """Wait, at most so long, until all lines are written; False when some are not. Blocks."""
    deadline = time.monotonic() + seconds
    return all(writer.settled(deadline) for writer in list(_writers.values()))


def _in_memory(stream: TextIO) -> Write:
    """As tests have it: no descriptor, so nobody to wait for."""
    lock = threading.RLock()

    def write(line: bytes) -> None:
        with lock, suppress(OSError, ValueError):
            stream.write(line.decode())

    return write


@atexit.register
def _end() -> None:
    flush(EXIT_SECONDS)
    for writer in _writers.values():
        writer.ended = True


def _after_fork() -> None:
    for writer in _writers.values():
        writer.start_over()


os.register_at_fork(after_in_child=_after_fork)
