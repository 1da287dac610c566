"""The two TLS files: what is taken from them, what is refused, that they are looked at again."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.rpc import certificate
from service.rpc.certificate import Certificate, Pair, Unusable
from tests.certificates import Authority, Files, PrivateKey
from tests.faults.probes import until

AUTHORITY = Authority()
ONE, TWO = AUTHORITY.issue(), AUTHORITY.issue()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path)
    found.mount(ONE.chain, ONE.key)
    return found


def opened(files: Files) -> Certificate:
    return Certificate(str(files.chain), str(files.key))


def test_a_pair_that_fits_is_taken(files: Files) -> None:
    found = opened(files)

    assert (found.pair.chain, found.pair.key) == (ONE.chain, ONE.key)
    assert found.expires() == ONE.certificate.not_valid_after_utc.timestamp()


def test_a_chain_begins_with_the_key_s_own() -> None:
    assert certificate.pair(ONE.chain + AUTHORITY.pem, ONE.key).leaf == ONE.certificate
    with pytest.raises(Unusable, match="first"):
        certificate.pair(AUTHORITY.pem + ONE.chain, ONE.key)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)]
)
def test_other_kinds_of_keys_are_taken(key: PrivateKey) -> None:
    issued = AUTHORITY.issue(key)

    assert certificate.pair(issued.chain, issued.key).leaf == issued.certificate


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_kinds_of_keys_that_a_client_or_a_door_refuses_are_refused(key: PrivateKey) -> None:
    issued = AUTHORITY.issue(key)

    with pytest.raises(Unusable, match="P-256 or P-384, or RSA of 2048 bits"):
        certificate.pair(issued.chain, issued.key)


@pytest.mark.parametrize(
    ("chain", "key", "why"),
    [
        (b"", ONE.key, "the certificate cannot be understood; is it PEM?"),
        (ONE.key, ONE.key, "the certificate cannot be understood; is it PEM?"),
        (ONE.chain[:-40], ONE.key, "the certificate cannot be understood; is it PEM?"),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", ONE.key, "is it PEM"),
        (ONE.chain, b"", "the key cannot be understood; is it PEM?"),
        (ONE.chain, ONE.chain, "the key cannot be understood; is it PEM?"),
        (ONE.chain, b"\xff\0", "the key cannot be understood; is it PEM?"),
        (ONE.chain, ONE.encrypted_key, "the key is encrypted"),
        (ONE.chain, TWO.key, "the key is not that of the"),
    ],
)
def test_what_makes_no_tls_is_said_in_a_line(chain: bytes, key: bytes, why: str) -> None:
    with pytest.raises(Unusable) as caught:
        certificate.pair(chain, key)

    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_which_file_cannot_be_read_is_said_but_not_its_path(files: Files, which: str) -> None:
    (files.chain if which == "certificate" else files.key).unlink()

    with pytest.raises(Unusable) as caught:
        opened(files)

    assert str(caught.value) == f"the {which}'s file cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        ([x509.DNSName("a.example"), x509.DNSName("b.example")], "a.example"),
        ([x509.DNSName("*.example")], "any.example"),
        ([], "sixfold"),
    ],
)
def test_a_certificate_is_for_somebody(hosts: list[x509.GeneralName], name: str) -> None:
    assert certificate.name(AUTHORITY.issue(hosts=hosts).certificate) == name


class Taker:
    """Remembers what it is given, and refuses what it is told to."""

    def __init__(self) -> None:
        self.taken: list[Pair] = []
        self.refuses: bytes | None = None

    async def take(self, pair: Pair) -> None:
        if pair.chain == self.refuses:
            raise Unusable("not to my taste")
        self.taken.append(pair)

    async def has(self, *keys: bytes) -> None:
        async def all_taken() -> bool:
            return [each.key for each in self.taken] == list(keys)

        await until(all_taken, 10)


@asynccontextmanager
async def watched(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Certificate, Taker]]:
    monkeypatch.setattr(certificate, "LOOK_SECONDS", 0.01)
    found, taker = opened(files), Taker()
    watching = asyncio.ensure_future(found.watch(taker.take))
    yield found, taker
    assert not watching.done()
    watching.cancel()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def told(caplog: pytest.LogCaptureFixture, times: int) -> None:
    async def said() -> bool:
        return len(warnings(caplog)) >= times

    await until(said, 10)
    await asyncio.sleep(0.1)  # for some looks more
    assert len(warnings(caplog)) == times


async def test_a_new_pair_is_taken_however_it_came(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(files, monkeypatch) as (found, taker):
        files.mount(TWO.chain, TWO.key)
        await taker.has(TWO.key)
        files.write(ONE.chain, ONE.key)
        await taker.has(TWO.key, ONE.key)
        for each, content in ((files.chain, TWO.chain), (files.key, TWO.key)):
            new = each.with_suffix(".new")
            new.write_bytes(content)
            new.rename(each)
        await taker.has(TWO.key, ONE.key, TWO.key)

    assert found.pair.leaf == TWO.certificate


@pytest.mark.parametrize(
    ("chain", "key"), [(b"rubbish", ONE.key), (TWO.chain, ONE.key), (TWO.chain, TWO.encrypted_key)]
)
async def test_what_is_unusable_is_told_of_once_and_the_old_pair_stays(
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    chain: bytes,
    key: bytes,
) -> None:
    async with watched(files, monkeypatch) as (found, taker):
        files.mount(chain, key)
        await told(caplog, times=1)
        assert (found.pair.leaf, taker.taken) == (ONE.certificate, [])

        files.mount(TWO.chain, TWO.key)
        await taker.has(TWO.key)

        files.mount(chain, key)
        await told(caplog, times=2)


async def test_files_that_go_and_come_back_change_nothing(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(files, monkeypatch) as (_, taker):
        files.key.unlink()
        await told(caplog, times=1)
        files.key.write_bytes(ONE.key)
        await asyncio.sleep(0.1)

    assert (len(warnings(caplog)), taker.taken) == (1, [])


async def test_what_a_door_does_not_take_is_offered_again_and_told_of_once(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(files, monkeypatch) as (found, taker):
        taker.refuses = TWO.chain
        files.mount(TWO.chain, TWO.key)
        await told(caplog, times=1)
        assert found.pair.leaf == ONE.certificate

        taker.refuses = None
        await taker.has(TWO.key)

    assert found.pair.leaf == TWO.certificate
