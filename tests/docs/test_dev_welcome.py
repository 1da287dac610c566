"""`sixfold dev` prints calls to paste, and pasted they work."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.commands import finished, free_ports, started
from tests.docs.markdown import BIN, ROOT

LAST = "Ctrl-C stops everything and keeps the data."


async def welcome(dev: Process) -> list[str]:
    """The lines to paste, once everything is up."""
    assert dev.stderr is not None
    lines: list[str] = []
    while LAST not in lines:
        line = await asyncio.wait_for(dev.stderr.readline(), 30)
        assert line, "\n".join(lines)
        lines.append(line.decode().rstrip("\n"))
    return [line.removeprefix("  ") for line in lines if line.startswith("  ")]


def answers(text: str) -> Iterator[Any]:
    """The JSON documents and exit codes in what bash printed, in order."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        yield value
        at = end + len(text[end:]) - len(text[end:].lstrip())


@pytest.mark.parametrize("where", ["in the checkout", "elsewhere"])
async def test_what_dev_prints_can_be_pasted(where: str, tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    directory = tmp_path / "my data"
    if where == "elsewhere":  # as somebody has it whose folders have spaces in their names
        (tmp_path / "my venv").symlink_to(BIN.parent)
        cwd, command = tmp_path, [str(tmp_path / "my venv/bin" / Path(sys.executable).name)]
        command += ["-m", "service"]
    else:
        cwd, command = ROOT, [str(BIN / "sixfold")]
    options = ["--port", str(port), "--http-port", str(http_port), "--directory", str(directory)]

    async with started(*command, "dev", *options, cwd=cwd, stdout=DEVNULL, stderr=PIPE) as dev:
        lines = await welcome(dev)
        script = "".join(f"{line}\necho $?\n" for line in lines)
        pasted = await finished("bash", given=script, cwd=cwd)
        os.killpg(dev.pid, signal.SIGINT)  # as a terminal does at Ctrl-C, to all of them
        code = await asyncio.wait_for(dev.wait(), 20)

    assert len(lines) == 4
    assert pasted.err == ""
    created, ok, logged_in, written, wrote, data, read = answers(pasted.out)
    assert (ok, logged_in, wrote, read) == (0, 0, 0, 0)
    assert created["user"]["username"] == "ann"
    assert written["revision"] == "1"
    assert data["records"][0]["json"] == '"hello"'
    assert data["user"] == created["user"]
    assert code == 0
    assert (directory / "postgres" / "PG_VERSION").exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
