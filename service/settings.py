"""Every environment variable, one frozen object, complete at start. Nothing else reads `environ`.

A dataclass with its own parser, because importing pydantic-settings alone costs 0.4 s of start.
"""

import base64
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "SIXFOLD_"
DAY: Final = 86_400
# Read by the client and by the tests, which share the prefix and often the shell.
TOLERATED: Final = frozenset(
    PREFIX + name
    for name in (
        "TARGET",
        "USERNAME",
        "PASSWORD",
        "ALLOW_PLAINTEXT",
        "TLS_ROOTS",
        "TEST_DATABASE_URL",
        "TEST_DOOR",
        "PG_BIN",
    )
)
# Kubernetes sets these in every pod beside a Service called "sixfold" or "sixfold-<anything>".
SERVICE_LINK: Final = re.compile(
    r"SIXFOLD_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?=.*|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*|PORT=\w+://.*)"
)
TRUE: Final = ("true", "1", "yes", "on")
FALSE: Final = ("false", "0", "no", "off")


class SettingsError(Exception):
    """The environment makes no configuration. `problems` names all that is wrong, no secrets."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Refused(ValueError):
    """One value broke a rule. The text is the rule, written to follow the variable's name."""


def host_port(text: str) -> tuple[str, int]:
    """Split "host:port"; an IPv6 host is in brackets and comes back without. Raises Refused."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\]", host):
        raise Refused('must be host:port, where the host "[::]" means every address')
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise Refused("must be host:port with a port from 0 to 65535")
    return host.strip("[]"), int(port)


def _master_key(text: str) -> bytes:
    try:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        padded = plain + "=" * (-len(plain) % 4)
        hexadecimal = re.fullmatch(r"[0-9A-Fa-f]{64}", text)
        key = bytes.fromhex(text) if hexadecimal else base64.b64decode(padded, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise Refused("must be 32 bytes, as base64 or as 64 hexadecimal digits")
    # Of 32 random bytes about 30 are distinct; fewer than 16 is something typed or repeated.
    if len(set(key)) < 16:
        raise Refused("is too weak; make one with: openssl rand -base64 32")
    return key


def _database_url(text: str) -> None:
    # Own patterns, because the errors of urlsplit and asyncpg quote parts of the password.
    if not text.startswith(("postgres://", "postgresql://")):
        raise Refused("must start with postgres:// or postgresql://")
    hosts = re.split(r"[/?#]", text.partition("://")[2])[0].rpartition("@")[2]
    host = r"([^:,\[\]]*|\[[^,\[\]]+\])(:[0-9]{1,5})?"
    if re.search(r"[\s\0]", text) or not re.fullmatch(f"{host}(,{host})*", hosts):
        raise Refused("has no readable host:port; percent-encode / ? # @ in the password")


def _issuer(text: str) -> None:
    # No user and password either: the issuer stands in every token.
    if not re.fullmatch(r"(?a)https?://([\w.-]+|\[[\w:.]+\])(:[0-9]{1,5})?(/[^\s?#@]*)?", text):
        raise Refused("must be an http or https URL without query, fragment and user")


def _path(text: str) -> None:
    if "-----BEGIN" in text or not text.isprintable():
        raise Refused("must be the path of a PEM file, not what is in one")


@dataclass(frozen=True, slots=True)
class Knob:
    """What an operator may put into one variable. `low` and `high` are included."""

    meaning: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    secret: bool = False
    check: Callable[[str], object] | None = None


def _about(*what: Any, **more: Any) -> dict[str, Knob]:
    return {"knob": Knob(*what, **more)}


def _knob(default: object, *what: Any, **more: Any) -> Any:
    return field(default=default, metadata=_about(*what, **more))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every knob there is. A field without a default must be set. Times are in seconds."""

    database_url: str = field(
        repr=False,
        metadata=_about("postgresql://user:password@host/name", secret=True, check=_database_url),
    )
    master_key: bytes = field(
        repr=False,
        metadata=_about(
            "32 bytes that protect keys, refresh and page tokens", secret=True, check=_master_key
        ),
    )
    issuer: str = field(metadata=_about("URL that names this service in tokens", check=_issuer))
    audience: str = _knob("sixfold", "whom access tokens are for")
    listen: str = _knob("[::]:50051", "host:port for gRPC; port 0 picks one", check=host_port)
    http_listen: str = _knob("[::]:8080", "host:port for keys, probes, metrics", check=host_port)
    # Read again every second; whoever renews them need not tell.
    tls_certificate: str = _knob("", "PEM file: certificate and chain, for TLS", check=_path)
    tls_key: str = _knob("", "PEM file: the certificate's key, not encrypted", check=_path)
    sign_up: bool = _knob(True, "anybody may create a user")
    access_token_seconds: int = _knob(600, "seconds an access token lives", 60, 3600)
    session_idle_seconds: int = _knob(14 * DAY, "seconds an idle session lives", 60, 400 * DAY)
    session_seconds: int = _knob(90 * DAY, "seconds any session lives", 60, 400 * DAY)
    refresh_grace_seconds: int = _knob(30, "seconds to repeat a lost refresh", 0, 300)
    password_min_length: int = _knob(15, "characters of the shortest password", 8, 64)
    argon2_memory_kib: int = _knob(19_456, "KiB of memory per password hash", 7_168, 1_048_576)
    argon2_time_cost: int = _knob(2, "passes over that memory", 1, 10)
    hash_threads: int = _knob(
        0, "threads that hash passwords; 0 is a worker's share of the cores", 0, 256
    )
    hash_queue: int = _knob(32, "calls that may wait for such a thread", 1, 1000)
    workers: int = _knob(1, "processes that serve at the same port", 1, 64)
    # And two of the process' own. Processes times the sum must stay below max_connections.
    pool_size: int = _knob(10, "database connections per process", 1, 500)
    pool_acquire_seconds: float = _knob(2.0, "seconds to wait for a connection", 0.01, 60)
    database_pooler: bool = _knob(False, "behind PgBouncer in transaction mode: prepare nothing")
    deadline_seconds: float = _knob(5.0, "seconds for a call that brings no deadline", 0.1, 600)
    max_deadline_seconds: float = _knob(30.0, "seconds a unary call may take at most", 0.1, 600)
    drain_seconds: float = _knob(5.0, "seconds of service after NOT_SERVING", 0, 300)
    grace_seconds: float = _knob(20.0, "seconds for calls in flight to end at stop", 0, 600)
    reflection: bool = _knob(False, "describe the API to anybody who asks")
    readiness_seconds: float = _knob(2.0, "seconds between readiness checks, and for each", 0.1, 60)
    # Istio reads the key set about every 20 minutes, so a new key must be public for longer.
    key_publish_seconds: int = _knob(1800, "seconds a key is public before it signs", 1, 7 * DAY)
    key_refresh_seconds: int = _knob(15, "seconds between two looks for new keys", 1, 300)
    max_connection_age_seconds: int = _knob(1800, "seconds a connection lives", 10, DAY)
    max_concurrent_streams: int = _knob(100, "calls at once on one connection", 1, 10_000)
    # A caller who does not read its answers holds a page of 1 MiB for each.
    max_concurrent_calls: int = _knob(1000, "calls at once on all connections", 1, 100_000)
    log_level: str = _knob("info", "least severity", choices=("debug", "info", "warning", "error"))
    log_format: str = _knob("auto", "auto is text on a terminal", choices=("auto", "json", "text"))
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


KNOBS: Final = [
    (PREFIX + f.name.upper(), f, f.metadata["knob"]) for f in fields(Settings) if f.metadata
]
# A violated pair would only show as sessions or calls that end too early, or keys nobody knows.
ORDERED: Final = (
    ("session_idle_seconds", "session_seconds"),
    ("deadline_seconds", "max_deadline_seconds"),
    ("key_refresh_seconds", "key_publish_seconds"),
)

# The one is nothing without the other.
TOGETHER: Final = (("tls_certificate", "tls_key"),)


def load(environ: Mapping[str, str]) -> Settings:
    """Parse what begins with SIXFOLD_. Raises SettingsError with every problem at once."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems = [*_unknown(environ)]
    for variable, spec, knob in KNOBS:
        try:
            text, sources[spec.name] = _text(environ, variable, knob)
            if text is None and spec.default is MISSING:
                raise Refused(f"is missing ({knob.meaning})")
            values[spec.name] = spec.default if text is None else _value(text, spec.type, knob)
        except Refused as refused:
            problems.append(f"{variable} {refused}")
    for less, more in ORDERED:
        if less in values and more in values and values[less] > values[more]:
            problems.append(f"{PREFIX}{less.upper()} must not exceed {PREFIX}{more.upper()}")
    for pair in TOGETHER:
        for name, other in (pair, pair[::-1]):
            if not values.get(name, "refused") and values.get(other):
                missing, there = PREFIX + name.upper(), PREFIX + other.upper()
                problems.append(f"{missing} is missing, without which {there} is nothing")
    if problems:
        raise SettingsError(problems)
    return Settings(**values, sources=sources)


def _text(environ: Mapping[str, str], variable: str, knob: Knob) -> tuple[str | None, str]:
    text, path = environ.get(variable), environ.get(f"{variable}_FILE" if knob.secret else "")
    if path is None:
        return text, "default" if text is None else "environment"
    if text is not None:
        raise Refused(f"and {variable}_FILE are both set; keep one")
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n"), "file"
    except (OSError, ValueError) as error:
        # Not the path: whoever confuses the two variables has put the secret there.
        why = getattr(error, "strerror", None) or "not text"
        raise Refused(f"cannot be read from the file that {variable}_FILE names: {why}") from None


def _value(text: str, kind: Any, knob: Knob) -> object:
    if not text.strip():
        raise Refused("is empty; unset it or give it a value")
    if knob.check:
        checked = knob.check(text)
        return checked if kind is bytes else text
    if kind is bool or knob.choices:
        if text.lower() not in (knob.choices or TRUE + FALSE):
            raise Refused(f"must be one of {', '.join(knob.choices or TRUE + FALSE)}")
        return text.lower() if knob.choices else text.lower() in TRUE
    if kind is str:
        return text
    # Narrower than int() and float(), which take "1_000", Arabic digits, "nan" and "1e9".
    number = r"[0-9]{1,9}" if kind is int else r"[0-9]{1,9}(\.[0-9]{1,9})?"
    if not re.fullmatch(number, text) or not knob.low <= float(text) <= knob.high:
        raise Refused(f"must be {_rule(kind, knob)} ({knob.meaning})")
    return kind(text)


def _rule(kind: Any, knob: Knob) -> str:
    if kind in (int, float):
        return f"a {'whole ' * (kind is int)}number from {knob.low:.10g} to {knob.high:.10g}"
    return ", ".join(("true", "false") if kind is bool else knob.choices)


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    known = [variable for variable, _, _ in KNOBS]
    known += [f"{variable}_FILE" for variable, _, knob in KNOBS if knob.secret]
    for name in sorted(set(environ) - TOLERATED - {*known}):
        if name.startswith(PREFIX) and not SERVICE_LINK.fullmatch(f"{name}={environ[name]}"):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            yield f"{name} is unknown" + "".join(f"; did you mean {guess}?" for guess in close)


def describe() -> list[tuple[str, str, str]]:
    """Rows of (variable, default or "required", meaning with its rule), for help and docs."""
    rows = []
    for variable, spec, knob in KNOBS:
        default = "required" if spec.default is MISSING else _shown(spec.default)
        rule = f"also as {variable}_FILE" if knob.secret else _rule(spec.type, knob)
        rows.append((variable, default, f"{knob.meaning} ({rule})" if rule else knob.meaning))
    return rows


def shown(settings: Settings) -> list[tuple[str, str, str]]:
    """Rows of (variable, value or "***", source): default, environment or file."""
    rows = []
    for variable, spec, knob in KNOBS:
        value = "***" if knob.secret else _shown(getattr(settings, spec.name))
        rows.append((variable, value, settings.sources.get(spec.name, "default")))
    return rows


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"
