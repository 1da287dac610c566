"""What both clients are made from: constructor, checks, and the time a method may take."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import grpc

from sixfold import _channel
from sixfold._flows import Send
from sixfold._session import Credentials, Lock, Session
from sixfold.errors import DeadlineExceeded
from sixfold.models import Tokens


class Deadline:
    """When a method's time is over, refreshing and retrying included."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, at_least: float = 0.0) -> float:
        """Seconds left. Raises DeadlineExceeded when there are no more than `at_least`."""
        left = self._at - time.monotonic()
        if left <= at_least:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded("the call's time ran out", grpc.StatusCode.DEADLINE_EXCEEDED)


def arguments(step: Send, deadline: Deadline) -> dict[str, Any]:
    """What every stub is called with beside the request.

    v1 has unary rpcs only, so the token goes in here and there is no interceptor per kind of
    call, each of which could be forgotten.
    """
    return {
        "timeout": deadline.left() * step.share,
        "metadata": (("authorization", f"Bearer {step.token}"),) if step.token else None,
        "wait_for_ready": step.wait_for_ready or None,
    }


class Driver(ABC):
    """A session, a target, and the right to use them in one process."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        username: str | None = None,
        password: str | None = None,
        refresh_token: str | None = None,
        client_id: str = "",
        scopes: Sequence[str] = (),
        timeout: float = 5.0,
        retry: bool = True,
        credentials: grpc.ChannelCredentials | None = None,
        allow_plaintext: bool = False,
        on_tokens: Callable[[Tokens], object] | None = None,
    ) -> None:
        """Connects at the first call, and logs in or refreshes then too.

        username, password: what to log in with, whenever there is no session. Both or neither.
        refresh_token: the session to go on with; see `Tokens`.
        client_id, scopes: what Login is asked for; `client_id` must be that of `refresh_token`.
        timeout: seconds for a method that is not given any.
        retry: False leaves every failure to the caller.
        credentials: TLS, as from `grpc.ssl_channel_credentials()`, which takes the root
            certificates of a private CA; without them plaintext, which a target beyond this machine
            gets only with `allow_plaintext`, else ValueError.
        on_tokens: called with each new pair. A stored refresh token is spent at its next use, so
            whoever stores one stores every one. Must be quick; it holds up the calls waiting.
        """
        if (username is None) != (password is None):
            raise ValueError("username and password: give both, or neither")
        if credentials is None and not allow_plaintext:
            _channel.refuse_plaintext(target)
        self._target = target
        self._timeout = timeout
        self._credentials = credentials
        self._options = _channel.options(target, retry=retry, plaintext=credentials is None)
        self._pid = os.getpid()
        self._closed = False
        self._session = Session(
            lock=self._open(),
            credentials=Credentials(username, password or "") if username is not None else None,
            refresh_token=refresh_token or "",
            client_id=client_id,
            scopes=tuple(scopes),
            on_tokens=on_tokens,
            refresh_attempts=2 if retry else 1,
        )

    @classmethod
    def from_env(cls) -> Self:
        """From SIXFOLD_TARGET, _USERNAME, _PASSWORD, and for a server that is not on this machine
        _TLS_ROOTS, a PEM file of who may vouch for it, or _ALLOW_PLAINTEXT (1 or true). Raises
        OSError for that file.
        """
        env = os.environ
        roots = env.get("SIXFOLD_TLS_ROOTS")
        return cls(
            env.get("SIXFOLD_TARGET") or "127.0.0.1:50051",
            username=env.get("SIXFOLD_USERNAME") or None,
            password=env.get("SIXFOLD_PASSWORD") or None,
            credentials=grpc.ssl_channel_credentials(Path(roots).read_bytes()) if roots else None,
            allow_plaintext=env.get("SIXFOLD_ALLOW_PLAINTEXT", "").lower() in ("1", "true"),
        )

    @property
    def tokens(self) -> Tokens | None:
        """The session's tokens; None before the first call, and when there is no session."""
        return self._session.tokens

    @abstractmethod
    def _open(self) -> Lock:
        """Prepares what the I/O needs, last in the constructor; gives the session its lock."""

    def _guard(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this {type(self).__name__} was made in another process, and gRPC's threads and "
                "connections do not survive a fork: make one in each process"
            )
        if self._closed:
            raise RuntimeError(f"this {type(self).__name__} is closed")

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)
