"""Makes the documents that repeat what code says: docs/errors.md, docs/limits.md, and the settings
table in README.md. `--check` only says whether they are current.
"""

import sys
from datetime import timedelta
from pathlib import Path

from service import http_connection as http
from service import http_server, settings
from service.domain import limits
from service.rpc import policy

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- settings: generated -->\n", "<!-- end -->"

DETAILS = {
    "SCOPE_MISSING": "ErrorInfo.metadata: `scope`",
    "INVALID_ARGUMENT": "BadRequest: every bad field",
    "USER_NOT_FOUND": "ResourceInfo",
    "RECORD_NOT_FOUND": "ResourceInfo",
    "RECORD_EXISTS": "ErrorInfo.metadata: `revision`",
    "REVISION_MISMATCH": "ErrorInfo.metadata: `revision`",
    "QUOTA_EXCEEDED": "ErrorInfo.metadata: `limit`",
    "RATE_LIMITED": "RetryInfo",
    "OVERLOADED": "RetryInfo",
    "DATABASE_UNAVAILABLE": "RetryInfo",
    "NOT_READY": "RetryInfo",
}


def main() -> int:
    """Write, or with --check compare; returns the exit code."""
    wanted = {
        ROOT / "docs/errors.md": errors(),
        ROOT / "docs/limits.md": limit_table(),
        ROOT / "README.md": readme(),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make generate")
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path])
    return 0


def errors() -> str:
    """A row for each reason, from the table that decides."""
    rows = {
        reason: (code.name, (error.__doc__ or "").strip())
        for error, (code, reason) in reversed(list(policy.STATUS.items()))
    }
    lines = [
        "# Errors",
        "",
        "Generated from `service/rpc/policy.py` by `make generate`.",
        "",
        "A failed call carries `google.rpc.Status` in `grpc-status-details-bin`: an `ErrorInfo`",
        "(its `domain` is `sixfold`), `RequestInfo` (the id to quote in a report), and what the",
        "table says besides. Act on the reason; the message is for people and may change. What",
        "each one asks you to do is in `protos/sixfold/errors/v1/errors.proto`.",
        "",
        "| reason | code | message | details |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{reason}` | {code} | {message} | {DETAILS.get(reason, '')} |"
            for reason, (code, message) in reversed(list(rows.items()))
        ),
    ]
    return "\n".join(lines) + "\n"


def limit_table() -> str:
    """Every limit that is not a setting."""
    shown = {name: value for name, value in vars(limits).items() if name.isupper()}
    lines = [
        "# Limits",
        "",
        "Generated from `service/domain/limits.py` by `make generate`. What can be set is in the",
        "README's settings table; what a field may hold is in the protos, beside the field.",
        "",
        "| limit | value |",
        "| --- | --- |",
        *(f"| {_words(name)} | {_spelled(value)} |" for name, value in shown.items()),
        "| collection name | 128 characters of `A-Z a-z 0-9 . _ -` |",
        "| key | 512 bytes of UTF-8, no control characters |",
        "| username | 64 characters after mapping (RFC 8265) |",
        "| password | the minimum is a setting; 256 code points, 1,024 bytes |",
        "",
        "Clients and proxies may ping every 20 seconds, with or without calls in flight. A",
        "connection is asked to close after `SIXFOLD_MAX_CONNECTION_AGE_SECONDS`, so that new",
        "processes get their share; calls in flight have a minute to end.",
        "",
        "Behind Envoy, a call's message must have come 30 seconds after the call began, and a",
        "connection on which more than 1,000 calls are cancelled, and more than 33 a second, is",
        "closed.",
        "",
        f"The HTTP port takes {http_server.MAX_CONNECTIONS} connections; one more closes the",
        "one that has kept it waiting longest. A request must come within",
        f"{http.REQUEST_SECONDS:.0f} seconds, also on a connection that is kept, its head within",
        f"{http.HEAD_BYTES:,} bytes, and its answer be taken within",
        f"{http.ANSWER_SECONDS:.0f} seconds.",
        "",
        "Two logins of one user at the same moment can together exceed the number of sessions by",
        "one; the next login ends the oldest.",
    ]
    return "\n".join(lines) + "\n"


def readme() -> str:
    """README.md with today's settings table."""
    text = (ROOT / "README.md").read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    rows = [
        "| variable | default | meaning |",
        "| --- | --- | --- |",
        *(f"| `{name}` | {default} | {text} |" for name, default, text in settings.describe()),
    ]
    return head + BEGIN + "\n".join(rows) + "\n" + END + tail


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _spelled(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():,.0f} seconds"
    return f"{value:,}"


if __name__ == "__main__":
    raise SystemExit(main())
