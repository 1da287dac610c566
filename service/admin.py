"""What the operator's commands do. Each opens the database, does one thing, and closes it."""

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import app, policies
from service.domain import ids, keys, passwords, usernames
from service.domain.errors import UserNotFound
from service.rpc import certificate
from service.settings import Settings
from service.store import connecting, migrate, signing_keys, users
from service.store.signing_keys import Rotation


async def migrate_up(settings: Settings) -> list[str]:
    """Apply the pending migrations and return their names. Raises DatabaseUnavailable."""
    async with connecting.alone(settings.database_url) as connection:
        return await migrate.up(connection)


async def migrate_status(settings: Settings) -> list[dict[str, Any]]:
    """Every known migration: {version, name, applied}. Raises DatabaseUnavailable."""
    async with connecting.alone(settings.database_url) as connection:
        rows = await migrate.status(connection)
    return [{"version": r.version, "name": r.name, "applied": r.applied} for r in rows]


async def keys_list(settings: Settings) -> list[dict[str, Any]]:
    """Every published key: {kid, create_time, sign_after, expire_time}."""
    async with app.database(settings) as pool:
        loaded = await signing_keys.load(pool, policies.key_encryption_key(settings))
    return [
        {
            "kid": key.kid,
            "create_time": key.create_time.isoformat(),
            "sign_after": key.sign_after.isoformat(),
            "expire_time": key.expire_time and key.expire_time.isoformat(),
        }
        for key in loaded.keys
    ]


async def keys_rotate(settings: Settings, *, now: bool = False) -> dict[str, Any]:
    """Publish a new key: {kid, sign_after}. `now` is for a key that has leaked: the new one signs
    at once, and what older ones signed is refused as soon as each process has read the keys.
    """
    rotation = Rotation(timedelta(0), timedelta(0)) if now else policies.rotation(settings)
    kek = policies.key_encryption_key(settings)
    async with app.database(settings) as pool:
        await signing_keys.load(
            pool, kek
        )  # a key sealed with another master key is not to be joined
        kid, sign_after = await signing_keys.publish(
            pool, kek, keys.generate(), secrets.token_bytes(keys.NONCE_BYTES), rotation
        )
    return {"kid": kid, "sign_after": sign_after.isoformat()}


async def user_create(settings: Settings, username: str, password: str) -> dict[str, Any]:
    """Make a user, whether or not the public may: {user_id, username}. Raises UsernameTaken,
    InvalidArgument.
    """
    name = usernames.canonical(username)
    policy = policies.password(settings)
    passwords.check(policy, password, username=name, field="password")
    prepared = passwords.prepare(password)
    password_hash = passwords.hash_password(policy, prepared, secrets.token_bytes(16))
    user_id = ids.uuid7(app.utc_now(), secrets.token_bytes(10))
    async with app.database(settings) as pool:
        user = await users.create(pool, user_id, name, password_hash, None)
    return {"user_id": str(user.user_id), "username": user.username}


async def user_disable(settings: Settings, username: str) -> dict[str, Any]:
    """Disable a user: {user_id, username}. Raises UserNotFound."""
    async with app.database(settings) as pool:
        user = await users.disable(pool, usernames.canonical(username))
    if user is None:
        raise UserNotFound(username)
    return {"user_id": str(user.user_id), "username": user.username}


def health(address: str, service: str, timeout: float, chain: str = "") -> str:
    """The health status's name, or the code's name when there is no answer. With `chain`, a PEM
    file: over TLS, to the owner of that certificate, by whatever address. Raises Unusable.
    """
    with _channel(address, chain) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(address: str, chain: str) -> grpc.Channel:
    if not chain:
        return grpc.insecure_channel(address)
    trusted = certificate.read("certificate", Path(chain))
    # A probe asks by an address that is in no certificate. This very one is trusted, and no issuer.
    name = certificate.name(certificate.own(trusted))
    credentials = grpc.ssl_channel_credentials(trusted)
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])
