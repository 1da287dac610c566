"""TLS at the gRPC port, on real processes of both doors: whom it lets in, and how it is renewed."""

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
import sixfold
from cryptography.hazmat.primitives.asymmetric import rsa
from grpc_health.v1 import health_pb2
from sixfold.data.v1 import data_pb2 as pb

from tests.certificates import Authority, Files, Issued, handshake
from tests.commands.shell import sixfold as command
from tests.conftest import PASSWORD, Api, Process, environment, process
from tests.faults.probes import metric, until

AUTHORITY = Authority()
SERVING = health_pb2.HealthCheckResponse.SERVING
DOORS = ["grpcio", "envoy"]
# A look a second, but on a machine that may have stood still meanwhile.
SECONDS = 60


@dataclass
class Door:
    """A process with TLS, its two files, and what is in them."""

    process: Process
    files: Files
    issued: Issued

    @property
    def port(self) -> int:
        return self.process.api.port

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Api]:
        """A connection of its own."""
        async with grpc.aio.secure_channel(
            f"localhost:{self.port}",
            AUTHORITY.credentials,
            [("grpc.use_local_subchannel_pool", 1)],
        ) as channel:
            yield Api(self.port, self.process.api.http_port, channel)

    async def serves(self, issued: Issued) -> None:
        """Wait until new connections get this certificate."""

        async def served() -> bool:
            return (await handshake(self.port, AUTHORITY)).serial == issued.serial

        await until(served, SECONDS)

    async def renewed(self) -> Issued:
        """A new certificate, once it is served."""
        self.issued = AUTHORITY.issue()
        self.files.mount(self.issued.chain, self.issued.key)
        await self.serves(self.issued)
        return self.issued

    def warnings(self) -> list[str]:
        lines = map(json.loads, self.process.api.log.getvalue().splitlines())
        return [line["message"] for line in lines if "TLS" in line.get("message", "")]


@pytest.fixture(scope="module", params=DOORS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "envoy":
        pytest.importorskip("pyvoy", reason="pip install 'sixfold-server[envoy]'")
    return str(request.param)


@pytest.fixture(scope="module")
async def door(
    kind: str, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Door]:
    files, issued = Files(tmp_path_factory.mktemp("tls")), AUTHORITY.issue()
    files.mount(issued.chain, issued.key)
    async with process(database_url, door=kind, **files.settings) as running:
        yield Door(running, files, issued)
        running.child.terminate()
        assert await running.stopped() == 0


async def test_calls_are_answered_over_tls(door: Door) -> None:
    async with door.connected() as api:
        ann = await api.new_user()
        put = pb.PutRecordRequest(collection="c", key="k", json="1")
        assert (await api.data.PutRecord(put, metadata=ann.metadata)).revision == 1


async def test_plaintext_is_refused(door: Door) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.process.api.new_user()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_nobody_vouches_for_is_not_called(door: Door) -> None:
    stranger = Authority().credentials
    async with grpc.aio.secure_channel(f"localhost:{door.port}", stranger) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Api(door.port, 0, channel).new_user()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_versions_before_1_2_are_refused_before_and_after_a_renewal(door: Door) -> None:
    for _ in range(2):
        for newest, version in (("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")):
            seen = await handshake(door.port, AUTHORITY, newest=ssl.TLSVersion[newest])
            assert (seen.version, seen.protocol) == (version, "h2")
        with pytest.raises(OSError):  # noqa: PT011 - each door hangs up in its own way
            await handshake(door.port, AUTHORITY, newest=ssl.TLSVersion.TLSv1_1)
        await door.renewed()


async def test_a_renewed_certificate_is_for_new_connections_and_old_ones_go_on(door: Door) -> None:
    async with door.connected() as old:
        ann = await old.new_user()
        watching = old.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == SERVING
        before = (await handshake(door.port, AUTHORITY)).serial

        after = await door.renewed()

        assert before != after.serial
        assert not watching.done()  # so it is the same connection still
        await old.data.GetUserData(pb.GetUserDataRequest(), metadata=ann.metadata)
        async with door.connected() as new:
            await new.data.GetUserData(pb.GetUserDataRequest(), metadata=ann.metadata)
        watching.cancel()


async def test_files_that_are_written_over_are_read_too(door: Door) -> None:
    door.issued = AUTHORITY.issue(rsa.generate_private_key(65537, 2048))

    door.files.write(door.issued.chain, door.issued.key)

    await door.serves(door.issued)


async def test_a_broken_renewal_keeps_the_certificate_and_is_told_of_once(door: Door) -> None:
    before = (await door.renewed()).serial
    told = len(door.warnings())

    door.files.mount(AUTHORITY.issue().chain, door.issued.key)

    async def warned() -> bool:
        return len(door.warnings()) > told

    await until(warned, SECONDS)
    assert (await handshake(door.port, AUTHORITY)).serial == before
    async with door.connected() as api:
        await api.new_user()
    await asyncio.sleep(2.5)  # two looks more
    why = "the key is not that of the (first) certificate"
    assert door.warnings()[told:] == [f"the new TLS files are not used, the old ones stay: {why}"]
    await door.renewed()


async def test_when_it_expires_is_a_metric_on_the_plaintext_port(door: Door) -> None:
    name = "sixfold_tls_certificate_not_after_seconds"
    after = await door.renewed()
    expires = after.certificate.not_valid_after_utc.timestamp()

    async def measured() -> bool:
        return await metric(door.process.api, name) == expires

    await until(measured, SECONDS)


async def test_a_probe_in_the_server_s_environment_asks_over_tls(door: Door) -> None:
    await door.renewed()
    environ = {"SIXFOLD_TLS_CERTIFICATE": str(door.files.chain)}
    ask = ("healthcheck", "--address", f"127.0.0.1:{door.port}", "--timeout", "10")

    answers = await asyncio.gather(command(*ask, env=environ), command(*ask, env={}))

    assert [(each.code, each.out.strip()) for each in answers] == [
        (0, "SERVING"),
        (1, "UNAVAILABLE"),
    ]


async def test_a_probe_trusts_no_other_server(door: Door, tmp_path: Path) -> None:
    other = Files(tmp_path)
    issued = Authority().issue()
    other.mount(issued.chain, issued.key)
    ask = ("healthcheck", "--address", f"127.0.0.1:{door.port}", "--certificate")

    wrong, none = await asyncio.gather(
        command(*ask, str(other.chain)), command(*ask, str(tmp_path / "none"))
    )

    assert (wrong.code, wrong.out.strip()) == (1, "UNAVAILABLE")
    assert (none.code, none.err.count("\n")) == (78, 1)


async def test_the_client_takes_the_roots_of_a_private_authority(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door.connected() as api:
        ann = await api.new_user()
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    monkeypatch.setenv("SIXFOLD_TARGET", f"localhost:{door.port}")
    monkeypatch.setenv("SIXFOLD_TLS_ROOTS", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SIXFOLD_USERNAME", ann.username)
    monkeypatch.setenv("SIXFOLD_PASSWORD", PASSWORD)

    async with sixfold.AsyncClient.from_env() as client:
        assert (await client.me()).username == ann.username
    with sixfold.Client.from_env() as plain:
        assert (await asyncio.to_thread(plain.me)).username == ann.username


async def test_envoy_answers_json_over_tls_and_http_1(door: Door, kind: str) -> None:
    if kind != "envoy":
        return

    def get() -> int:
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        connection = http.client.HTTPSConnection("localhost", door.port, context=context)
        connection.request("GET", "/v1/collections/notes/records/first")
        status = connection.getresponse().status
        connection.close()
        return status

    assert await asyncio.to_thread(get) == 401
    offered = await handshake(door.port, AUTHORITY, protocols=("http/1.1",))
    assert offered.protocol == "http/1.1"


@pytest.mark.parametrize("wrong", ["missing", "rubbish", "another's", "encrypted"])
async def test_files_that_make_no_tls_are_one_line_at_the_start(
    kind: str, tmp_path: Path, wrong: str
) -> None:
    files, issued = Files(tmp_path), AUTHORITY.issue()
    keys = {"another's": AUTHORITY.issue().key, "encrypted": issued.encrypted_key}
    files.mount(issued.chain if wrong != "rubbish" else b"rubbish", keys.get(wrong, issued.key))
    if wrong == "missing":
        files.key.unlink()
    nowhere = environment("postgresql://nobody@127.0.0.1:1/nothing", **files.settings)

    ended = await command("serve", "--door", kind, env=nowhere)

    assert (ended.code, ended.out, ended.err.count("\n")) == (78, "", 1)
    assert ended.err.startswith("sixfold: SIXFOLD_TLS_CERTIFICATE, SIXFOLD_TLS_KEY: the ")
    assert "BEGIN" not in ended.err
