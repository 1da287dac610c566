"""The metrics of several processes at one port."""

import asyncio
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.telemetry import siblings
from service.telemetry.metrics import Metrics
from service.telemetry.siblings import Exposition

METHOD = "p.S/M"


def text(count: int) -> str:
    return f"# HELP a_total As.\n# TYPE a_total counter\na_total {count}.0\n"


def saying(count: int) -> Exposition:
    return lambda: (text(count).encode(), "text/plain")


def place(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


async def asked(everybodys: Exposition) -> list[str]:
    body, _ = await asyncio.to_thread(everybodys)
    return [line for line in body.decode().splitlines() if not line.startswith("#")]


def test_a_family_stands_together_and_each_line_says_whose_it_is() -> None:
    one = (
        text(1)
        + '# HELP b Bs.\n# TYPE b gauge\nb{c="}",d="e f"} -1.5e-05\n# HELP n N.\n# TYPE n gauge\n'
    )

    merged = siblings.merged({"0": one, "1": text(2)}).decode()

    assert merged == (
        "# HELP a_total As.\n# TYPE a_total counter\n"
        'a_total{worker="0"} 1.0\na_total{worker="1"} 2.0\n'
        "# HELP b Bs.\n# TYPE b gauge\n"
        'b{c="}",d="e f",worker="0"} -1.5e-05\n'
        "# HELP n N.\n# TYPE n gauge\n"
    )


def test_nothing_of_a_real_exposition_is_lost() -> None:
    metrics = Metrics([METHOD])
    metrics.started(METHOD)
    metrics.ended(METHOD, "OK", 0.003, 10, 20)
    plain = metrics.exposition()[0].decode()

    merged = siblings.merged({"7": plain}).decode()

    assert merged.replace(',worker="7"', "").replace('{worker="7"}', "") == plain
    before = {family.name: family for family in text_string_to_metric_families(plain)}
    for family in text_string_to_metric_families(merged):
        expected = before.pop(family.name).samples
        assert [(each.name, each.value) for each in family.samples] == [
            (each.name, each.value) for each in expected
        ]
        assert {each.labels["worker"] for each in family.samples} <= {"7"}
    assert before == {}


async def test_whoever_is_asked_asks_all(tmp_path: Path) -> None:
    async with (
        siblings.telling(place(tmp_path, "0.0"), saying(1)) as first,
        siblings.telling(place(tmp_path, "10.3"), saying(2)) as second,
    ):
        expected = ['a_total{worker="0"} 1.0', 'a_total{worker="10"} 2.0']
        assert sorted(await asked(first)) == sorted(await asked(second)) == expected


async def test_of_two_with_one_number_the_older_is_heard_while_it_is_there(tmp_path: Path) -> None:
    async with siblings.telling(place(tmp_path, "0.10"), saying(2)) as newer:
        async with siblings.telling(place(tmp_path, "0.9"), saying(1)):
            assert await asked(newer) == ['a_total{worker="0"} 1.0']

        assert await asked(newer) == ['a_total{worker="0"} 2.0']


async def test_who_died_or_hangs_keeps_nobody_from_answering(tmp_path: Path) -> None:
    dead, hanging = place(tmp_path, "1.1") / siblings.NAME, place(tmp_path, "2.2") / siblings.NAME
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(hanging))
        silent.listen()
        async with siblings.telling(place(tmp_path, "0.0"), saying(1)) as own:
            assert await asked(own) == ['a_total{worker="0"} 1.0']
