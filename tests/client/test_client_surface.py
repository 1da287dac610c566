"""What the two clients show: the same methods, and values that keep what they were given."""

import asyncio
import inspect
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import sixfold
from sixfold import _calls, _convert, models
from sixfold.data.v1 import data_pb2


def methods(client: type) -> dict[str, Any]:
    return {
        name: (list(inspect.signature(member).parameters.values()), inspect.getdoc(member))
        for name, member in vars(client).items()
        if not name.startswith("_")
    }


def test_the_two_clients_are_twins() -> None:
    assert methods(sixfold.AsyncClient) == methods(sixfold.Client)


@pytest.mark.parametrize("client", [sixfold.Client, sixfold.AsyncClient])
def test_a_client_from_another_process_says_so(
    client: type[sixfold.Client | sixfold.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client()
    monkeypatch.setattr("os.getpid", lambda: -1)

    with pytest.raises(RuntimeError, match="another process"):
        _ = made.stubs


async def test_an_async_client_belongs_to_one_loop() -> None:
    async with sixfold.AsyncClient() as client:
        _ = client.stubs

        def elsewhere() -> None:
            async def use() -> None:
                _ = client.stubs

            asyncio.run(use())

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


def test_a_closed_client_says_so() -> None:
    with sixfold.Client() as client:
        pass

    with pytest.raises(RuntimeError, match="closed"):
        client.me()


@pytest.mark.parametrize("value", [None, 0, "ü", [1, {"a": [True]}], 2**70, {"x": 1.5}])
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    record = _convert.record(data_pb2.Record(json=models.encode(value)))

    assert record.value == value


def test_exact_text_stays_exact() -> None:
    record = _convert.record(data_pb2.Record(json=models.encode(sixfold.Json("1.10"))))

    assert record.json == "1.10"
    assert str(record.decode(parse_float=Decimal)) == "1.10"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        models.encode(value)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        _convert.timestamp(datetime(2030, 1, 1))  # noqa: DTZ001 (the mistake in question)


def test_two_preconditions_are_refused() -> None:
    client = sixfold.Client()

    with pytest.raises(ValueError, match="one of them"):
        next(_calls.put(client._session, "c", "k", 1, if_revision=1, if_absent=True))

    client.close()
