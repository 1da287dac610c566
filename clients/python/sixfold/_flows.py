"""How a call gets its token and what happens when that is refused. Written once, without I/O.

A flow is a generator: it yields a step, is sent the step's answer or thrown its error, and
returns the call's value. `_drivers.py` performs the steps, once with threads and once with tasks.
A flow that is abandoned half way (a cancelled task) is closed, which releases its lock.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from sixfold import _convert
from sixfold._session import FINAL, RENEWABLE, Need, Session, logged_out
from sixfold.auth.v1 import auth_pb2
from sixfold.errors import (
    DeadlineExceeded,
    ResourceExhausted,
    SixfoldError,
    Unauthenticated,
    Unavailable,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """One rpc, `method` as in "auth.Login"; answered by its response message.

    `share` is the part of the time left that it may take.
    """

    method: str
    request: Any = field(repr=False)
    token: str = field(default="", repr=False)
    share: float = 1.0
    wait_for_ready: bool = False


@dataclass(frozen=True, slots=True)
class Acquire:
    """Takes the session's lock. The flow releases it."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Waits. Fails at once when there is less time left than that."""

    seconds: float


Step: TypeAlias = Send | Acquire | Sleep
Flow: TypeAlias = Generator[Step, Any, T]

# A renewal ahead of time must leave its call enough to be done with the old token.
AHEAD_SHARE: Final = 0.5


def authorized(session: Session, method: str, request: Any) -> Flow[Any]:
    """Sends with a token; renews it and sends once more when it is refused.

    Once more is safe for every rpc: the service refuses a token before it does anything.
    """
    token = yield from ensure(session)
    try:
        return (yield Send(method, request, token))
    except Unauthenticated as error:
        if error.reason not in RENEWABLE:
            raise
        refused = error
    yield from renew(session, token, refused)
    return (yield Send(method, request, session.require().access_token))


def ensure(session: Session) -> Flow[str]:
    """The access token to send, renewed first if need be."""
    session.check()
    stale = session.access_token  # before need(), or what is new by then would be renewed again
    need = session.need()
    if need is Need.NOW:
        yield from renew(session, stale)
    elif need is Need.SOON and not session.lock.locked():
        try:
            yield from renew(session, stale, share=AHEAD_SHARE)
        except (Unavailable, DeadlineExceeded, ResourceExhausted):
            session.postpone()
    return session.require().access_token


def renew(
    session: Session, stale: str, refused: SixfoldError | None = None, share: float = 1.0
) -> Flow[None]:
    """Replaces the access token `stale`, unless someone else has done it meanwhile.

    Single flight by waiting in line: whoever comes after a success finds a new token, after a
    failure the failure. After a leader that was cancelled or ran out of its own time, the next
    in line leads, with the same request_id.
    """
    seen = session.failures
    yield Acquire()
    try:
        session.check()
        if session.access_token not in ("", stale):
            return
        if session.failure and session.failures != seen:
            raise session.failure.again()
        if refused is not None and refused.reason == "SESSION_REVOKED":
            session.drop()  # its refresh token is as dead as it is
        yield from _obtain(session, refused, share)
    except DeadlineExceeded:
        raise  # this caller's time, not the others'
    except SixfoldError as error:
        session.failed(error)
        raise
    finally:
        session.lock.release()


def _obtain(session: Session, refused: SixfoldError | None, share: float) -> Flow[None]:
    if session.refresh_token:
        try:
            return (yield from _refresh(session, share))
        except Unauthenticated as error:
            if not error.reason:
                raise  # a proxy's word is not enough to give up a session
            refused = error
            session.drop()
    if not session.credentials:
        if refused is not None:
            session.end(refused)
        raise refused or logged_out()
    try:
        yield from _login(session, session.credentials.username, session.credentials.password)
    except FINAL as error:
        session.end(error)
        raise


def _refresh(session: Session, share: float) -> Flow[None]:
    request = auth_pb2.RefreshTokensRequest(
        refresh_token=session.refresh_token,
        client_id=session.client_id,
        request_id=session.refresh_request_id(),
    )
    for left in reversed(range(session.refresh_attempts)):
        try:
            reply = yield Send("auth.RefreshTokens", request, share=share / (left + 1))
        except (Unavailable, DeadlineExceeded):
            if not left:
                raise
        else:
            session.start(_convert.tokens(reply.tokens))
            return


def _login(session: Session, username: str, password: str) -> Flow[auth_pb2.User]:
    request = auth_pb2.LoginRequest(
        username=username,
        password=password,
        client_id=session.client_id,
        scopes=session.scopes,
    )
    reply = yield Send("auth.Login", request)
    session.start(_convert.tokens(reply.tokens))
    user: auth_pb2.User = reply.user
    return user


def login(session: Session, username: str, password: str) -> Flow[auth_pb2.User]:
    """A new session, whatever there was before."""
    yield Acquire()
    try:
        user = yield from _login(session, username, password)
        kept = session.credentials
        if kept and (kept.username, kept.password) != (username, password):
            session.credentials = None  # or an ended session would come back as someone else
        return user
    finally:
        session.lock.release()


def logout(session: Session) -> Flow[None]:
    """Ends the session; one that has ended already is no error. Nothing logs in again."""
    yield Acquire()
    try:
        for refreshed in (False, True):
            if not session.refresh_token:
                break
            try:
                if refreshed or session.need() is Need.NOW:
                    yield from _refresh(session, 1.0)
                yield Send("auth.Logout", auth_pb2.LogoutRequest(), session.access_token)
                break
            except Unauthenticated as error:
                if error.reason == "SESSION_REVOKED":
                    break
        session.end(logged_out())
    finally:
        session.lock.release()
