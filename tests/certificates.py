"""A certificate authority of the tests' own, and what a client sees of a port with TLS."""

import asyncio
import ipaddress
import socket
import ssl
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
HOSTS = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as the two files hold them."""

    certificate: x509.Certificate
    private_key: PrivateKey

    @property
    def chain(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def encrypted_key(self) -> bytes:
        how = BestAvailableEncryption(b"a password")
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number


class Authority:
    """Vouches for servers on this machine."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("the tests' authority")
        builder = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def issue(
        self, key: PrivateKey | None = None, hosts: list[x509.GeneralName] | None = None
    ) -> Issued:
        """One more, for `localhost` and 127.0.0.1 unless for others, with a new key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named("sixfold"), self._name, key)
        names = HOSTS if hosts is None else hosts
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Issued(builder.sign(self._key, hashes.SHA256()), key)

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.pem)


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


@dataclass(frozen=True)
class Files:
    """Two files as Kubernetes mounts a Secret: links into a folder that is itself a link."""

    folder: Path

    @property
    def chain(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def settings(self) -> dict[str, object]:
        return {"tls_certificate": self.chain, "tls_key": self.key}

    def mount(self, chain: bytes, key: bytes) -> None:
        """Both at once, as Kubernetes does: write a folder, then move a link to it in place."""
        made = self.folder / f"..{len(list(self.folder.iterdir()))}"
        made.mkdir()
        (made / "tls.crt").write_bytes(chain)
        (made / "tls.key").write_bytes(key)
        (self.folder / "..new").symlink_to(made.name)
        (self.folder / "..new").rename(self.folder / "..data")
        for each in (self.chain, self.key):
            if not each.is_symlink():
                each.symlink_to(f"..data/{each.name}")

    def write(self, chain: bytes, key: bytes) -> None:
        """Over what is there, one after the other, as `cp` does."""
        self.key.write_bytes(key)
        self.chain.write_bytes(chain)


@dataclass(frozen=True)
class Seen:
    """What a server chose in a handshake."""

    serial: int
    version: str
    protocol: str | None


async def handshake(
    port: int,
    authority: Authority,
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    protocols: tuple[str, ...] = ("h2",),
) -> Seen:
    """A new connection of a client that knows TLS up to `newest`. Raises OSError."""

    def shake() -> Seen:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.set_alpn_protocols(protocols)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = newest
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            found = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
            version = secure.version() or ""
            return Seen(found.serial_number, version, secure.selected_alpn_protocol())

    return await asyncio.to_thread(shake)
