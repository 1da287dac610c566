"""AuthService: who somebody is."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from sixfold.auth.v1 import auth_pb2 as pb
from sixfold.auth.v1 import auth_pb2_grpc

from service.domain import ids, keys, passwords, refresh, tokens, usernames
from service.domain.errors import (
    BadCredentials,
    InvalidArgument,
    RateLimited,
    RefreshTokenReused,
    RequestIdReused,
    SignUpDisabled,
    UserNotFound,
)
from service.domain.passwords import PasswordPolicy
from service.domain.refresh import RefreshToken
from service.domain.tokens import TokenPolicy
from service.rpc import caller, convert
from service.rpc.hashing import HashPool
from service.rpc.policy import ALL_SCOPES
from service.store import sessions, users
from service.store.db import Database
from service.store.keyring import Keyring
from service.store.sessions import Lifetimes, Session
from service.store.users import Credentials
from service.telemetry.logs import security_event

DEFAULT_CLIENT_ID = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthPolicy:
    """What this deployment decides. `tag_key` makes refresh tokens ours."""

    tokens: TokenPolicy
    passwords: PasswordPolicy
    lifetimes: Lifetimes
    sign_up: bool
    jwks_max_age: timedelta
    tag_key: bytes


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """One method per RPC. Time and chance come in by argument: `now` is aware UTC, `entropy` takes
    a number of bytes.
    """

    def __init__(
        self,
        db: Database,
        keyring: Keyring,
        hashing: HashPool,
        policy: AuthPolicy,
        *,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._db = db
        self._keyring = keyring
        self._hashing = hashing
        self._policy = policy
        self._now = now
        self._entropy = entropy

    async def CreateUser(
        self, request: pb.CreateUserRequest, _: Any = None
    ) -> pb.CreateUserResponse:
        if not self._policy.sign_up:
            raise SignUpDisabled
        username = usernames.canonical(request.username)
        fresh = await self._fresh_hash(request.password, username=username, field="password")
        user_id = ids.uuid7(self._now(), self._entropy(10))
        user, stored = await users.create(
            self._db, user_id, username, fresh, convert.uuid(request.request_id)
        )
        if user.user_id != user_id and not await self._matches(stored, request.password):
            raise RequestIdReused
        security_event("user_created", user_id=str(user.user_id))
        return pb.CreateUserResponse(user=convert.user(user))

    async def Login(self, request: pb.LoginRequest, _: Any = None) -> pb.LoginResponse:
        try:
            username = usernames.canonical(request.username)
        except InvalidArgument:
            # Nobody's, by a space no name has: refused below like any other unknown name, as slowly
            # and as often. A NUL is what Postgres cannot take.
            username = " " + request.username.replace("\0", " ")
        found = await users.login_credentials(self._db, username)
        stored = await self._require_password(found, request.password)
        if found.user is None:
            raise BadCredentials
        session_id = ids.uuid7(self._now(), self._entropy(10))
        token = RefreshToken(found.user.user_id, session_id, 0, self._entropy(refresh.SECRET_BYTES))
        session = await sessions.open_session(
            self._db,
            found.user,
            found.session_epoch,
            token=token,
            client_id=request.client_id or DEFAULT_CLIENT_ID,
            scopes=tuple(request.scopes) or ALL_SCOPES,
            lifetimes=self._policy.lifetimes,
            rehash=await self._rehash(stored, request.password),
        )
        security_event("authn_login_success", user_id=str(found.user.user_id))
        return pb.LoginResponse(tokens=self._tokens(session, token), user=convert.user(found.user))

    async def RefreshTokens(
        self, request: pb.RefreshTokensRequest, _: Any = None
    ) -> pb.RefreshTokensResponse:
        presented = refresh.parse(self._policy.tag_key, request.refresh_token)
        try:
            session, successor = await sessions.rotate(
                self._db,
                presented,
                salt=self._entropy(refresh.SALT_BYTES),
                client_id=request.client_id or DEFAULT_CLIENT_ID,
                request_id=convert.uuid(request.request_id),
                lifetimes=self._policy.lifetimes,
            )
        except RefreshTokenReused:
            security_event("authn_token_reuse", user_id=str(presented.user_id))
            raise
        return pb.RefreshTokensResponse(tokens=self._tokens(session, successor))

    async def Logout(self, request: pb.LogoutRequest, _: Any = None) -> pb.LogoutResponse:
        me = caller.get()
        await sessions.end(self._db, me)
        security_event("authn_token_revoked", user_id=str(me.user_id))
        return pb.LogoutResponse()

    async def GetUser(self, request: pb.GetUserRequest, _: Any = None) -> pb.GetUserResponse:
        user = await users.get(self._db, caller.get())
        if request.user_id not in ("", str(user.user_id)):
            raise UserNotFound(request.user_id)
        return pb.GetUserResponse(user=convert.user(user))

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, _: Any = None
    ) -> pb.ChangePasswordResponse:
        me = caller.get()
        found = await users.caller_credentials(self._db, me)
        await self._require_password(found, request.current_password)
        username = found.user.username if found.user else ""
        fresh = await self._fresh_hash(
            request.new_password, username=username, field="new_password"
        )
        await users.change_password(
            self._db,
            me,
            found.session_epoch,
            fresh,
            keep_other_sessions=request.keep_other_sessions,
        )
        security_event("authn_password_change", user_id=str(me.user_id))
        return pb.ChangePasswordResponse()

    async def GetJsonWebKeySet(
        self, request: pb.GetJsonWebKeySetRequest, _: Any = None
    ) -> pb.GetJsonWebKeySetResponse:
        max_age = Duration()
        max_age.FromTimedelta(self._policy.jwks_max_age)
        public = self._keyring.current.public_keys(self._now())
        return pb.GetJsonWebKeySetResponse(
            keys=[pb.JsonWebKey(**keys.public_jwk(kid, key)) for kid, key in public.items()],
            max_age=max_age,
        )

    async def _require_password(self, found: Credentials, password: str) -> str:
        """The stored hash, once `password` has proved to match it.

        Raises RateLimited before any work, BadCredentials after as much work for an unknown user,
        whose decoy nothing matches, as for a wrong password: time tells nobody who has an account.
        """
        who = str(found.user.user_id) if found.user else None
        if found.wait_until is not None:
            security_event("authn_login_lock", user_id=who)
            raise RateLimited(max(found.wait_until - self._now(), timedelta(seconds=1)))
        stored = found.password_hash or passwords.decoy(self._policy.passwords)
        if not await self._matches(stored, password):
            security_event("authn_login_fail", user_id=who)
            raise BadCredentials
        return stored

    async def _matches(self, stored: str, password: str) -> bool:
        return await self._hashing.run(
            passwords.verify_password, stored, passwords.prepare(password)
        )

    async def _fresh_hash(self, password: str, *, username: str, field: str) -> str:
        passwords.check(self._policy.passwords, password, username=username, field=field)
        return await self._hash(password)

    async def _rehash(self, stored: str, password: str) -> tuple[str, str] | None:
        """(old, new) when the stored hash was made with other parameters than today's."""
        if not passwords.needs_rehash(self._policy.passwords, stored):
            return None
        return stored, await self._hash(password)

    async def _hash(self, password: str) -> str:
        prepared = passwords.prepare(password)
        return await self._hashing.run(
            passwords.hash_password, self._policy.passwords, prepared, self._entropy(16)
        )

    def _tokens(self, session: Session, refresh_token: RefreshToken) -> pb.Tokens:
        now = self._now()
        access_token, expire_time = tokens.mint(
            self._policy.tokens,
            self._keyring.current.signer(now),
            user_id=session.user_id,
            session_id=session.session_id,
            client_id=session.client_id,
            scopes=session.scopes,
            token_id=ids.uuid7(now, self._entropy(10)),
            now=now,
        )
        return pb.Tokens(
            access_token=access_token,
            access_token_expire_time=convert.timestamp(expire_time),
            refresh_token=refresh_token.text(self._policy.tag_key),
            refresh_token_expire_time=convert.timestamp(session.idle_expire_time),
            session_id=str(session.session_id),
            scopes=session.scopes,
        )
