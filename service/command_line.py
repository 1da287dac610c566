"""Commands as functions: what they take is said beside them, their docstrings are the help.

argparse, because typer, which brings pydantic, is 0.1 s of every start and 11 MiB of every process.
"""

import argparse
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

Run = Callable[..., None]

DESCRIPTION: Final = (
    "A stateless authentication and user-data service: gRPC in front, Postgres behind."
)
GROUPS: Final = {
    "migrate": "Bring the database's schema up to date.",
    "keys": "The keys that sign access tokens.",
    "user": "Users, from the operator's side.",
}


class Option(NamedTuple):
    """An argument of a command, as argparse's add_argument takes it."""

    name: str
    how: dict[str, Any]


class Command(NamedTuple):
    """What runs, with which arguments by name; its docstring is the help."""

    run: Run
    options: tuple[Option, ...]
    example: str


COMMANDS: Final[dict[str, Command]] = {}


def command(path: str, *options: Option, example: str = "") -> Callable[[Run], Run]:
    """Have a function run as `sixfold PATH`."""

    def add(run: Run) -> Run:
        COMMANDS[path] = Command(run, options, example)
        return run

    return add


def option(name: str, help: str = "", **how: Any) -> Option:  # noqa: A002 - as argparse has it
    """An argument, or with dashes an option."""
    shown = " (default: %(default)s)" if how.get("default") and help else ""
    return Option(name, {"help": help + shown, **how})


def flag(name: str, help: str) -> Option:  # noqa: A002 - as argparse has it
    """An option that is there or not."""
    return option(name, help, action="store_true")


def parser() -> argparse.ArgumentParser:
    """Of all commands there are; what it finds is `run` and its arguments."""
    root = argparse.ArgumentParser(prog="sixfold", description=DESCRIPTION, allow_abbrev=False)
    groups = {"": _group(root)}
    for path, (run, options, example) in COMMANDS.items():
        group, _, name = path.rpartition(" ")
        if group not in groups:
            of = groups[""].add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = _group(of)
        of = groups[group].add_parser(
            name,
            help=run.__doc__,
            description=run.__doc__,
            epilog=f"Example: {example}" if example else None,
            allow_abbrev=False,
        )
        for argument, how in options:
            of.add_argument(argument, **how)
        of.set_defaults(run=run)
    return root


def _group(parser: argparse.ArgumentParser) -> Any:
    """Where the commands of a parser go, which explains itself to who names none."""

    def explain() -> NoReturn:
        parser.print_help()
        raise SystemExit(2)

    parser.set_defaults(run=explain)
    return parser.add_subparsers(metavar="COMMAND")
