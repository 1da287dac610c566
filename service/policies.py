"""What the settings mean to the parts of the service: each part's policy."""

from datetime import timedelta

from service.domain import keys
from service.domain.passwords import PasswordPolicy
from service.domain.tokens import TokenPolicy
from service.rpc.auth import AuthPolicy
from service.settings import Settings
from service.store.sessions import Lifetimes
from service.store.signing_keys import Rotation

# Verifiers may keep the key set this long; new keys are published for longer before they sign.
JWKS_MAX_AGE = timedelta(minutes=5)


def key_encryption_key(settings: Settings) -> bytes:
    """What the signing keys in Postgres are sealed with."""
    return keys.derive(settings.master_key, "sixfold signing keys")


def rotation(settings: Settings) -> Rotation:
    """Publish before signing; keep until the last token signed has expired on every process."""
    longest = settings.access_token_seconds + 2 * settings.key_refresh_seconds + 60
    return Rotation(timedelta(seconds=settings.key_publish_seconds), timedelta(seconds=longest))


def password(settings: Settings) -> PasswordPolicy:
    """What a password must be, and what a hash costs."""
    return PasswordPolicy(
        min_length=settings.password_min_length,
        memory_kib=settings.argon2_memory_kib,
        time_cost=settings.argon2_time_cost,
    )


def token(settings: Settings) -> TokenPolicy:
    """What an access token says, and for how long."""
    return TokenPolicy(
        issuer=settings.issuer,
        audience=settings.audience,
        lifetime=timedelta(seconds=settings.access_token_seconds),
    )


def auth(settings: Settings) -> AuthPolicy:
    """What AuthService goes by."""
    return AuthPolicy(
        tokens=token(settings),
        passwords=password(settings),
        lifetimes=Lifetimes(
            idle=timedelta(seconds=settings.session_idle_seconds),
            absolute=timedelta(seconds=settings.session_seconds),
            grace=timedelta(seconds=settings.refresh_grace_seconds),
        ),
        sign_up=settings.sign_up,
        jwks_max_age=JWKS_MAX_AGE,
        tag_key=keys.derive(settings.master_key, "sixfold refresh tokens"),
    )
