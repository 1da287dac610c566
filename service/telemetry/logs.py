"""Log lines: JSON for machines, text for a terminal. One event is one line, whatever is in it.

Standard logging and orjson, because importing structlog alone costs 0.25 s of start.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TextIO

import orjson

from service.telemetry.lines import Say, Write, line_writer

Render = Callable[[Mapping[str, object]], bytes]
SecurityEvent = Literal[
    "authn_login_success",
    "authn_login_fail",
    "authn_login_lock",
    "authn_password_change",
    "authn_token_reuse",
    "authn_token_revoked",
    "user_created",
    "authz_fail",
    "excess_rate_limit_exceeded",
]
# Names and levels are the OWASP logging vocabulary's, so that existing alert rules fit.
SECURITY_EVENTS: Final[Mapping[SecurityEvent, int]] = {
    "authn_login_success": logging.INFO,
    "authn_login_fail": logging.WARNING,
    "authn_login_lock": logging.WARNING,
    "authn_password_change": logging.INFO,
    "authn_token_reuse": logging.CRITICAL,
    "authn_token_revoked": logging.INFO,
    "user_created": logging.WARNING,
    "authz_fail": logging.CRITICAL,
    "excess_rate_limit_exceeded": logging.WARNING,
}
# Every other status is the caller's own affair.
SEVERITY: Final[Mapping[str, str]] = {
    **dict.fromkeys(("UNKNOWN", "INTERNAL", "DATA_LOSS"), "ERROR"),
    **dict.fromkeys(("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"), "WARNING"),
}
FOREIGN: Final = ("grpc", "asyncio", "asyncpg")
STANDARD: Final = {*logging.makeLogRecord({}).__dict__, "taskName", "fields"}
# orjson would serialize a dataclass field by field, past the repr that hides its secrets.
OPTIONS: Final = (
    orjson.OPT_UTC_Z
    | orjson.OPT_NAIVE_UTC
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_APPEND_NEWLINE
)
# JSON need not escape these, but some readers end a line, and terminals obey, at them.
BREAKS: Final = {char: f"\\u{char:04x}" for char in (*range(0x80, 0xA0), 0x2028, 0x2029)}


class Source(Protocol):
    """Whose call it is."""

    request_id: str
    peer: str


_source: ContextVar[Source | None] = ContextVar("source", default=None)
_security = logging.getLogger("sixfold.security")


def configure(
    level: str,
    format: str,  # noqa: A002 - as the setting
    stream: TextIO,
    **always: object,
) -> None:
    """Send all logging of this process to `stream`, with `always` in each line but the calls'.
    Replaces whatever was configured before.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    render = renderer(format, stream)
    root.handlers = [LineHandler(line_writer(stream, _gap(render)), render, always)]
    root.setLevel(threshold)
    logging.captureWarnings(True)
    # Who logged in must be on record whatever level an operator finds quiet enough (ASVS 16.3.1).
    _security.setLevel(logging.INFO)
    for name in FOREIGN:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True
        # Below warnings these describe calls in detail, and asyncpg's detail is queries.
        library.setLevel(max(threshold, logging.WARNING))


def bind(call: Source) -> None:
    """Say whose call this task serves, so that a guessing run can be tied to its source."""
    _source.set(call)


def security_event(name: SecurityEvent, **fields: object) -> None:
    """Log what a security team watches for, and what is bound. Never pass a token, password, hash
    or e-mail.
    """
    level = SECURITY_EVENTS.get(name, logging.WARNING)
    call = _source.get()
    source = {"request_id": call.request_id, "peer": call.peer} if call else {}
    _security.log(level, name, extra={"fields": {"event": name, **source, **fields}})


class AccessLog:
    """One line per call. Past `logging`, which costs four times as much per line."""

    __slots__ = ("_render", "_write")

    def __init__(self, stream: TextIO, format: str = "auto") -> None:  # noqa: A002 - as above
        self._render = renderer(format, stream)
        self._write = line_writer(stream, _gap(self._render))

    def __call__(self, *calls: Mapping[str, object]) -> None:
        """Never raises. What is told of a call that has just ended: `method`, `code`, which is the
        status' name, `reason`, which is ErrorInfo's if there is any, `duration_ms`, `request_id`,
        `user_id` and `peer`.
        """
        now = datetime.now(UTC)
        lines = [
            self._render(
                {
                    "time": now,
                    "severity": SEVERITY.get(str(call["code"]), "INFO"),
                    "event": "call",
                    **call,
                }
            )
            for call in calls
        ]
        self._write(b"".join(lines))


class LineHandler(logging.Handler):
    """Renders records of standard logging. Never raises and never prints to stderr."""

    def __init__(self, write: Write, render: Render, always: Mapping[str, object]) -> None:
        super().__init__()
        self._write = write
        self._render = render
        self._always = always

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            line = self._render({**_fields(record), **self._always})
        except Exception as error:  # a broken log call must not become a broken call
            failure = f"unprintable record: {type(error).__name__}"
            line = self._render({**_head(record), "message": failure})
        self._write(line)


def renderer(format: str, stream: TextIO) -> Render:  # noqa: A002 - as above
    """Choose by "json", "text" or "auto", which is text on a terminal."""
    return as_text if format == "text" or (format == "auto" and stream.isatty()) else as_json


def as_json(fields: Mapping[str, object]) -> bytes:
    """One JSON object and a newline."""
    try:
        line = orjson.dumps(fields, default=repr, option=OPTIONS)
    except TypeError:  # a lone surrogate, a huge integer, a key that is no text
        plain = {ascii(key)[1:-1]: _encodable(value) for key, value in fields.items()}
        line = orjson.dumps(plain, default=repr, option=OPTIONS)
    return line if line.isascii() else line.decode().translate(BREAKS).encode()


def as_text(fields: Mapping[str, object]) -> bytes:
    """One line for people, then an exception's lines, each indented so none looks like a start."""
    rest = dict(fields)
    time, severity, event = rest.pop("time"), rest.pop("severity"), rest.pop("event", None)
    exception = str(rest.pop("exception", ""))
    stamp = time.isoformat(timespec="milliseconds") if isinstance(time, datetime) else str(time)
    parts = [
        stamp.replace("+00:00", "Z"),
        f"{severity:<8}",
        _visible(str(rest.pop("message", event))),
    ]
    parts += [
        f"{_visible(key)}={_value(value)}" for key, value in rest.items() if value is not None
    ]
    lines = [" ".join(parts), *(f"    | {_visible(line)}" for line in exception.splitlines())]
    return ("\n".join(lines) + "\n").encode()


def _gap(render: Render) -> Say:
    """The line that stands where lines are missing."""

    def say(dropped: int) -> bytes:
        head = {"time": datetime.now(UTC), "severity": "WARNING", "event": "log_lines_dropped"}
        message = "nobody read the log; lines are missing here"
        return render({**head, "message": message, "dropped": dropped})

    return say


def _head(record: logging.LogRecord) -> dict[str, object]:
    time = datetime.fromtimestamp(record.created, UTC)
    return {"time": time, "severity": record.levelname, "logger": record.name}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {**_head(record), "message": record.getMessage()}
    extra: dict[str, Any] = {k: v for k, v in record.__dict__.items() if k not in STANDARD}
    for key, value in (extra | getattr(record, "fields", {})).items():
        fields.setdefault(key, value)
    if record.exc_info and record.exc_info[0]:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _encodable(value: object) -> object:
    try:
        orjson.dumps(value, default=repr, option=OPTIONS)
    except TypeError:
        return ascii(value)
    return value


def _value(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return _visible(text if text and not set(text) & set(' ="') else json.dumps(text))


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
