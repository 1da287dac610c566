"""AuthService: who somebody is."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from sixfold.auth.v1 import auth_pb2 as pb
from sixfold.auth.v1 import auth_pb2_grpc

from service.domain import ids, keys, refresh, tokens, usernames
from service.domain.errors import (
    BadCredentials,
    InvalidArgument,
    RefreshTokenReused,
    RequestIdReused,
    SignUpDisabled,
    UserNotFound,
)
from service.domain.keys import SigningKey
from service.domain.passwords import PasswordPolicy
from service.domain.refresh import RefreshToken
from service.domain.tokens import TokenPolicy
from service.rpc import caller, convert
from service.rpc.hashing import HashPool
from service.rpc.password_desk import PasswordDesk
from service.rpc.policy import ALL_SCOPES
from service.store import sessions, users
from service.store.db import Database
from service.store.keyring import Keyring
from service.store.sessions import Lifetimes, Session
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
        self._desk = PasswordDesk(hashing, policy.passwords, now=now, entropy=entropy)
        self._policy = policy
        self._now = now
        self._entropy = entropy

    async def CreateUser(
        self, request: pb.CreateUserRequest, _: Any = None
    ) -> pb.CreateUserResponse:
        if not self._policy.sign_up:
            raise SignUpDisabled
        username = usernames.canonical(request.username)
        self._desk.check(request.password, username=username, field="password")
        user_id = ids.uuid7(self._now(), self._entropy(10))
        with self._desk.place():
            user = await users.create(
                self._db,
                user_id,
                username,
                await self._desk.hashed(request.password),
                convert.uuid(request.request_id),
            )
            if user.user_id != user_id:
                await self._require_same(username, request.password)
        security_event("user_created", user_id=str(user.user_id))
        response = pb.CreateUserResponse()
        convert.set_user(response.user, user)
        return response

    async def Login(self, request: pb.LoginRequest, _: Any = None) -> pb.LoginResponse:
        try:
            username = usernames.canonical(request.username)
        except InvalidArgument:
            # Nobody's, by a space no name has: refused below like any other unknown name, as slowly
            # and as often. A NUL is what Postgres cannot take.
            username = " " + request.username.replace("\0", " ")
        signer = self._keyring.current.signer(self._now())
        with self._desk.place():
            found = await users.login_credentials(self._db, username)
            await self._desk.prove(found, request.password)
            rehash = await self._desk.rehashed(found.password_hash, request.password)
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
        )
        if rehash:
            await users.rehash(self._db, found.user, *rehash)
        security_event("authn_login_success", user_id=str(found.user.user_id))
        response = pb.LoginResponse(tokens=self._tokens(signer, session, token))
        convert.set_user(response.user, found.user)
        return response

    async def RefreshTokens(
        self, request: pb.RefreshTokensRequest, _: Any = None
    ) -> pb.RefreshTokensResponse:
        # Before anything is spent: without a key there would be nothing to answer with.
        signer = self._keyring.current.signer(self._now())
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
        return pb.RefreshTokensResponse(tokens=self._tokens(signer, session, successor))

    async def Logout(self, request: pb.LogoutRequest, _: Any = None) -> pb.LogoutResponse:
        me = caller.get()
        await sessions.end(self._db, me)
        security_event("authn_token_revoked", user_id=str(me.user_id))
        return pb.LogoutResponse()

    async def GetUser(self, request: pb.GetUserRequest, _: Any = None) -> pb.GetUserResponse:
        user = await users.get(self._db, caller.get())
        if request.user_id not in ("", str(user.user_id)):
            raise UserNotFound(request.user_id)
        response = pb.GetUserResponse()
        convert.set_user(response.user, user)
        return response

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, _: Any = None
    ) -> pb.ChangePasswordResponse:
        me = caller.get()
        self._desk.check(request.new_password, username="", field="new_password")
        with self._desk.place():
            found = await users.caller_credentials(self._db, me)
            if await self._desk.prove(found, request.current_password, request.new_password):
                return pb.ChangePasswordResponse()  # a retry: the new password is in use already
            username = found.user.username if found.user else ""
            self._desk.check(request.new_password, username=username, field="new_password")
            fresh = await self._desk.hashed(request.new_password)
        keep = request.keep_other_sessions
        await users.change_password(
            self._db, me, found.session_epoch, fresh, keep_other_sessions=keep
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

    async def _require_same(self, username: str, password: str) -> None:
        """That a repeated CreateUser asks for what the first one did. Through the guard, since it
        tells whether a password is right. Raises RequestIdReused, RateLimited.
        """
        found = await users.login_credentials(self._db, username)
        try:
            await self._desk.prove(found, password)
        except BadCredentials as error:
            raise RequestIdReused from error

    def _tokens(
        self, signer: SigningKey, session: Session, refresh_token: RefreshToken
    ) -> pb.Tokens:
        now = self._now()
        access_token, expire_time = tokens.mint(
            self._policy.tokens,
            signer,
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
