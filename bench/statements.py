"""The service's statements as pgbench runs them: what Postgres can do without anybody in front."""

import re
from collections.abc import Sequence
from typing import Final

from bench import calls
from service.domain import limits
from service.store import record_writes, records

# What GetRecord asks, for one caller. The service's own statement answers several at once.
GET: Final = """
    SELECT r.message
      FROM live_sessions s
      LEFT JOIN records r
        ON r.user_id = s.user_id AND r.collection = $3 AND r.key = $4
       AND (r.expire_time IS NULL OR r.expire_time > now())
     WHERE s.user_id = $1 AND s.session_id = $2
"""

# pgbench has no NULL; this becomes one, as a parameter, not a constant the planner could see.
NULL: Final = "null"

# Who runs it, and its parameters after user and session: (value, type).
Given = tuple[tuple[str, str], ...]
STATEMENTS: Final[dict[str, tuple[str, str, Given]]] = {
    "pgbench get": (GET, "readers", ((calls.COLLECTION, "text"), (calls.key(0), "text"))),
    "pgbench batch": (
        records.BATCH_GET,
        "readers",
        (
            (calls.BATCH, "text"),
            ("\x1f".join(map(calls.key, range(calls.BATCH_SIZE))), "text"),
            (
                "\x1e".join(f"{calls.BATCH}\x1f{calls.key(n)}" for n in range(calls.BATCH_SIZE)),
                "text",
            ),
            (str(limits.PAGE_BYTES // calls.BATCH_SIZE), "text"),
            (str(limits.PAGE_BYTES), "text"),
        ),
    ),
    "pgbench put": (
        record_writes.PUT,
        "writers",
        (
            (NULL, "uuid"),
            ("no request has this hash", "bytea"),
            (calls.WRITTEN.collection, "text"),
            (calls.WRITTEN.key, "text"),
            (calls.WRITTEN.json, "jsonb"),
            (NULL, "timestamptz"),
            (str(limits.RECORDS_PER_USER), "integer"),
            ("false", "boolean"),
        ),
    ),
}


def scripts(name: str, people: Sequence[dict[str, str]]) -> tuple[list[str], dict[str, str]]:
    """A script for each of those who run it, and the values of their variables."""
    sql, role, given = STATEMENTS[name]
    variables = {f"p{number}": value for number, (value, _) in enumerate(given, 3)}
    chosen = people[calls.ROLES[role]]
    for number, who in enumerate(chosen):
        variables |= {f"u{number}": who["user_id"], f"s{number}": who["session_id"]}
    return [_script(sql, number, given) for number in range(len(chosen))], variables


def _script(sql: str, who: int, given: Given) -> str:
    """With pgbench's variables for parameters, each with its type, because pgbench makes of each
    mention a parameter of its own. Who asks is text where several may ask.
    """
    who_is = "text" if "string_to_array($1" in sql else "uuid"

    def variable(match: re.Match[str]) -> str:
        number = int(match[1])
        if number < 3:
            return f":{'us'[number - 1]}{who}::{who_is}"
        value, kind = given[number - 3]
        return f":p{number}::{kind}" if value != NULL else f"nullif(:p{number}, '{NULL}')::{kind}"

    return re.sub(r"\$(\d+)", variable, sql).strip() + ";\n"
