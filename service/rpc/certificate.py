"""The certificate of the gRPC port: two PEM files that somebody else renews, whenever they like."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

log = logging.getLogger("sixfold")

# Reading, not being told: kernels tell nothing of a network's files, and what they tell of the
# others depends on whether a file was moved, written over, or is behind a symlink that was. To read
# two small files takes 0.1 ms.
LOOK_SECONDS: Final = 1.0
# What clients and both doors take. Envoy refuses smaller RSA keys, gRPC's clients other curves.
RSA_BITS: Final = 2048
CURVES: Final = (ec.SECP256R1, ec.SECP384R1)


class Unusable(Exception):
    """The two files make no TLS. Says why, and nothing of what is in them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A chain, its own certificate first, and the key that fits it."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    leaf: x509.Certificate = field(compare=False)


def own(chain: bytes) -> x509.Certificate:
    """The first certificate of a chain, which is its owner's. Raises Unusable."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        leaf.public_key()
        return leaf
    except Exception as error:  # a dozen kinds, by what is wrong with it
        raise Unusable("the certificate cannot be understood; is it PEM?") from error


def name(leaf: x509.Certificate) -> str:
    """A host that it is for."""
    try:
        named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = named.get_values_for_type(x509.DNSName)
        hosts += [str(each) for each in named.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, ValueError):
        hosts = [
            str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
    return hosts[0].replace("*", "any") if hosts else ""


def pair(chain: bytes, key: bytes) -> Pair:
    """What is in two files, if it fits. Raises Unusable."""
    leaf = own(chain)
    public = leaf.public_key()
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise Unusable("the key is encrypted") from None
    except Exception:  # without its cause, whose text could tell of the key
        raise Unusable("the key cannot be understood; is it PEM?") from None
    if private.public_key() != public:
        raise Unusable("the key is not that of the (first) certificate")
    match public:
        case rsa.RSAPublicKey() if public.key_size >= RSA_BITS:
            pass
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, CURVES):
            pass
        case _:
            raise Unusable(f"the key must be ECDSA P-256 or P-384, or RSA of {RSA_BITS} bits")
    return Pair(chain, key, leaf)


class Certificate:
    """The pair to use, as of the last good look into the files. Raises Unusable for want of one."""

    def __init__(self, certificate: str, key: str) -> None:
        # Not resolved: what changes may be where a symlink leads.
        self.files = Path(certificate).absolute(), Path(key).absolute()
        self.pair = pair(*self._contents())
        self._doubt = self._told = ""

    def expires(self) -> float:
        """When, as Unix time."""
        return self.pair.leaf.not_valid_after_utc.timestamp()

    async def watch(self, take: Callable[[Pair], Awaitable[None]]) -> None:
        """Have each new pair taken, for as long as it runs. One that is unusable, which `take` may
        find too, is told of once, and the old one stays.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look(take)
            except Unusable as error:
                # Not at first sight: when one file is written and the other not yet, nothing fits.
                if str(error) == self._doubt != self._told:
                    log.warning("the new TLS files are not used, the old ones stay: %s", error)
                    self._told = self._doubt
                self._doubt = str(error)
            except Exception:
                log.exception("looking for a new certificate failed")

    async def _look(self, take: Callable[[Pair], Awaitable[None]]) -> None:
        contents = await asyncio.to_thread(self._contents)
        if contents != (self.pair.chain, self.pair.key):
            found = pair(*contents)
            await take(found)
            self.pair = found
            log.info("a new certificate", extra={"expires": found.leaf.not_valid_after_utc})
        self._doubt = self._told = ""

    def _contents(self) -> tuple[bytes, bytes]:
        certificate, key = self.files
        return read("certificate", certificate), read("key", key)


def read(what: str, path: Path) -> bytes:
    """What is in a file. Raises Unusable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"the {what}'s file cannot be read: {error.strerror}") from None
