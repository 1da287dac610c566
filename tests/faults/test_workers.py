"""Several processes at one port: any of them may die or be replaced, and no caller fails."""

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import sixfold
from prometheus_client.parser import text_string_to_metric_families
from sixfold.data.v1 import data_pb2 as pb

from tests.conftest import MASTER_KEY, PASSWORD, Api, refused
from tests.faults.load import OK, UNAVAILABLE, Load
from tests.faults.probes import (
    LIVENESS,
    SERVICES,
    faults,
    health,
    http_get,
    until,
    waiting_for_a_lock,
    writes_blocked,
)
from tests.faults.workers import PATIENCE, alive, answers, command_line, folder, gone, workers

DOORS = ["grpcio", "envoy"]
HASTY = """
from service import __main__, supervisor
supervisor.SILENCE_SECONDS = 10
supervisor.END_SECONDS = 1
__main__.main()
"""
PUT = pb.PutRecordRequest(collection="c", key="k", json="1")
# On a busy machine a start takes many times its two seconds.
pytestmark = pytest.mark.timeout(4 * PATIENCE)


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    if request.param == "envoy":
        pytest.importorskip("pyvoy", reason="pip install 'sixfold-server[envoy]'")
    return str(request.param)


async def write_on(target: str, stop: asyncio.Event) -> int:
    """One user of the Python client, who never sees an error; how often it wrote."""
    count, name = 0, f"ann-{uuid4().hex[:8]}"
    async with sixfold.AsyncClient(target, timeout=PATIENCE) as client:
        await client.create_user(name, PASSWORD)
        await client.login(name, PASSWORD)
        while not stop.is_set():
            count += 1
            await client.put("load", "n", count)
            assert (await client.get("load", "n")).value == count
            await asyncio.sleep(0.02)
    return count


async def test_a_rolling_restart_of_two_under_load_fails_no_call(
    database_url: str, door: str
) -> None:
    """F-20, for a client that retries: what was acknowledged is there, nothing was done twice."""
    async with workers(database_url, door=door, readiness_seconds=5) as running:
        before = running.pids
        stop = asyncio.Event()
        ready = asyncio.ensure_future(answers(running.api.http_port, "/readyz", stop))
        async with running.clients() as clients:
            load = Load(clients, readers=1, writers=1, patience=PATIENCE)
            async with load.running():
                ann = asyncio.ensure_future(write_on(f"127.0.0.1:{running.api.port}", stop))
                await until(lambda: enough(load, 200), PATIENCE)

                running.server.child.send_signal(signal.SIGHUP)

                await running.until_said("restarted")
                at = len(load.outcomes)
                await until(lambda: enough(load, at + 200), PATIENCE)
                stop.set()
                assert await ann > 10
            assert {each.code for each in load.outcomes} == {OK}
            assert await load.settle(clients[0]) == 0
            assert await load.check(clients[0]) > 100

        after = running.pids
        assert before.keys() == after.keys() == {0, 1}
        assert not set(before.values()) & set(after.values())
        assert await ready == {200}
        await gone(*before.values())
        assert running.said("a worker has died") == []
        running.server.child.terminate()
        assert await running.server.stopped(PATIENCE) == 0
    assert faults(running.api) == []


async def enough(load: Load, count: int) -> bool:
    return len(load.outcomes) >= count


async def test_kill_9_of_one_under_load_fails_no_call_and_it_is_replaced(
    database_url: str, door: str
) -> None:
    """F-1, for a client that retries."""
    async with workers(database_url, door=door) as running, running.clients() as clients:
        killed, other = running.pids[0], running.pids[1]
        load = Load(clients, readers=1, writers=1, patience=PATIENCE)
        async with load.running():
            await until(lambda: enough(load, 200), PATIENCE)

            kill = time.monotonic()
            os.kill(killed, signal.SIGKILL)

            await running.replaced(0, killed)
            at = len(load.outcomes)
            await until(lambda: enough(load, at + 200), PATIENCE)

        # gRPC does not retry a call whose answer has begun to arrive, and that can be one a kill.
        failed = [each for each in load.outcomes if each.code is not OK]
        assert len(failed) <= 1
        assert all(each.code is UNAVAILABLE and each.began < kill for each in failed)
        await load.settle(clients[0])
        assert await load.check(clients[0]) > 100
        assert running.pids[1] == other
        [died] = running.said("a worker has died")
        assert (died["worker"], died["pid"], died["code"]) == (0, killed, -signal.SIGKILL)
        running.server.child.terminate()
        assert await running.server.stopped(PATIENCE) == 0


async def test_sigterm_tells_first_serves_on_and_finishes_what_is_in_flight(
    database_url: str, door: str
) -> None:
    """F-2, with each worker; also when the signal goes to all of a group, as systemd sends it."""
    async with (
        workers(database_url, door=door, drain_seconds=5, grace_seconds=PATIENCE) as running,
        running.clients(2) as clients,
    ):
        ann, cay, bob = [await running.api.new_user() for _ in range(3)]
        # As they were made, these two are not at the same worker.
        asked = [(ann, clients[0]), (cay, clients[-1])]
        async with writes_blocked(database_url, ann), writes_blocked(database_url, cay):
            in_flight = [
                asyncio.ensure_future(
                    api.data.PutRecord(PUT, metadata=who.metadata, timeout=PATIENCE)
                )
                for who, api in asked
            ]
            await waiting_for_a_lock(database_url, 2)

            running.server.child.terminate()
            if door == "grpcio":
                for pid in running.pids.values():
                    os.kill(pid, signal.SIGTERM)

            for _, each in asked:
                await until(partial(is_draining, each), PATIENCE)
                await each.data.PutRecord(PUT, metadata=bob.metadata)
                assert await health(each, LIVENESS) == "SERVING"
            assert (await http_get(running.api.http_port, "/readyz")) == (503, "draining")
            await until(lambda: refuses(running.api.port), PATIENCE)
            assert not any(each.done() for each in in_flight)
        assert [(await each).revision for each in in_flight] == [1, 1]
        assert await running.server.stopped(PATIENCE) == 0
    assert faults(running.api) == []


async def is_draining(api: Api) -> bool:
    return {await health(api, service) for service in SERVICES} == {"NOT_SERVING"}


async def refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_a_second_signal_hurries_all(database_url: str, door: str) -> None:
    async with workers(database_url, door=door, drain_seconds=60, grace_seconds=60) as running:
        ann = await running.api.new_user()
        async with writes_blocked(database_url, ann):
            put = running.api.data.PutRecord(PUT, metadata=ann.metadata, timeout=50)
            in_flight = asyncio.ensure_future(refused(put))
            await waiting_for_a_lock(database_url, 1)
            running.server.child.terminate()
            await until(lambda: is_draining(running.api), PATIENCE)
            assert not in_flight.done()

            running.server.child.terminate()

            assert await running.server.stopped(PATIENCE) == 0
            assert (await in_flight).code in (grpc.StatusCode.CANCELLED, UNAVAILABLE)


async def test_workers_end_with_a_supervisor_that_is_killed(database_url: str, door: str) -> None:
    async with workers(database_url, door=door) as running:
        pids = running.pids.values()
        [made] = {folder(pid).parent for pid in pids}
        assert made.stat().st_mode & 0o777 == 0o700

        running.server.child.kill()
        await running.server.stopped()

        await gone(*pids)
        for port in (running.api.port, running.api.http_port):
            await until(partial(refuses, port), 10)
    assert not made.exists()


async def test_who_cannot_be_replaced_is_tried_again_and_is_not_missed(
    database_url: str, door: str, tmp_path: Path
) -> None:
    """A configuration that has gone wrong ends nobody who serves: not by a death, and not by a
    restart, after which it holds for the new ones.
    """
    key = tmp_path / "key"
    key.write_text(MASTER_KEY)
    environ = {"master_key": None, "master_key_file": key}
    async with workers(database_url, door=door, **environ) as running:
        killed, other = running.pids[0], running.pids[1]
        key.write_text("no key")

        running.server.child.send_signal(signal.SIGHUP)

        await running.until_said("the new worker is not ready, so the old ones stay")
        assert alive(killed)

        os.kill(killed, signal.SIGKILL)

        await running.until_said("a worker has died", 3)
        died = running.said("a worker has died")
        assert [each["code"] for each in died] == [-signal.SIGKILL, 78, 78]
        pauses = [each["pause_seconds"] for each in died]
        assert pauses[-2:] == sorted({*pauses[-2:]})
        assert (await http_get(running.api.http_port, "/readyz"))[0] == 200
        await running.api.new_user()
        assert set(await running.told()) == {1}

        key.write_text(MASTER_KEY)

        await running.replaced(0, killed)
        assert running.pids[1] == other
        async with running.clients() as clients:
            assert len(clients) >= 6  # and both have had calls

        running.server.child.send_signal(signal.SIGHUP)

        await running.until_said("restarted")
        assert other not in running.pids.values()
        running.server.child.terminate()
        assert await running.server.stopped(PATIENCE) == 0


async def test_who_is_alive_but_silent_is_replaced(database_url: str) -> None:
    """Nobody else would notice: the HTTP port is answered by those who are well."""
    async with workers(database_url, program=("-c", HASTY)) as running:
        stopped = running.pids[1]

        os.kill(stopped, signal.SIGSTOP)

        await running.replaced(1, stopped)
        silent = running.said("a worker is silent and is ended")
        assert stopped in [each["pid"] for each in silent]


async def test_who_does_not_end_is_ended(database_url: str) -> None:
    """The supervisor ends later than it should by a second, and says that it was not clean."""
    async with workers(database_url, program=("-c", HASTY), grace_seconds=1) as running:
        stopped = running.pids[1]
        os.kill(stopped, signal.SIGSTOP)

        running.server.child.terminate()

        assert await running.server.stopped(PATIENCE) == 1
        assert not alive(stopped)
        [late] = running.said("a worker does not end, and is ended")
        assert late["pid"] == stopped


async def test_metrics_are_all_workers_and_say_whose(database_url: str, door: str) -> None:
    async with workers(database_url, door=door) as running, running.clients() as clients:
        before = await running.told()
        for each in clients:
            await health(each, LIVENESS)

        after = await running.told()

        assert sum(after.values()) - sum(before.values()) == len(clients)
        assert all(after[number] > before[number] for number in (0, 1))
        _, text = await http_get(running.api.http_port, "/metrics")
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families) > 10
        samples = [sample for family in families for sample in family.samples]
        assert {sample.labels["worker"] for sample in samples} == {"0", "1"}


async def test_no_secret_is_on_a_command_line(database_url: str, door: str) -> None:
    """O-8."""
    async with workers(database_url, door=door) as running:
        for pid in running.pids.values():
            shown = command_line(pid)
            assert shown
            assert MASTER_KEY not in shown
            assert database_url not in shown
