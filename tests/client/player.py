"""Plays a flow by hand: no channel, thread or loop, and every answer in the test."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from sixfold import errors
from sixfold._flows import Acquire, Flow, Send, authorized, login
from sixfold._session import Session
from sixfold.auth.v1 import auth_pb2

NOW = 1_900_000_000.0
CODE = grpc.StatusCode


def unauthenticated(reason: str) -> errors.SixfoldError:
    return errors.Unauthenticated("no", CODE.UNAUTHENTICATED, reason)


UNAVAILABLE = errors.Unavailable("no", CODE.UNAVAILABLE)
TOO_LATE = errors.DeadlineExceeded("no", CODE.DEADLINE_EXCEEDED)


class Lock:
    """Held or not; `play` takes it when a flow asks."""

    held = False

    def locked(self) -> bool:
        return self.held

    def release(self) -> None:
        assert self.held
        self.held = False


def session(**changes: Any) -> Session:
    ids = (f"id{n}" for n in range(100))
    return Session(
        lock=Lock(),
        wall=lambda: NOW,
        monotonic=changes.pop("monotonic", lambda: 0.0),
        chance=lambda: 0.5,
        new_id=lambda: next(ids),
        **changes,
    )


def tokens(number: int, life: float = 600) -> auth_pb2.Tokens:
    message = auth_pb2.Tokens(access_token=f"access{number}", refresh_token=f"refresh{number}")
    message.access_token_expire_time.FromNanoseconds(int((NOW + life) * 1e9))
    return message


def logged_in(**changes: Any) -> Session:
    made = session(**changes)
    play(login(made, "ann", "pw"), made, [auth_pb2.LoginResponse(tokens=tokens(1))])
    return made


def refreshed(number: int) -> auth_pb2.RefreshTokensResponse:
    return auth_pb2.RefreshTokensResponse(tokens=tokens(number))


@dataclass
class Played:
    """What a flow sent, in order, and how it ended."""

    sent: list[Send] = field(default_factory=list)
    value: Any = None
    error: BaseException | None = None

    @property
    def methods(self) -> list[str]:
        return [step.method.partition(".")[2] for step in self.sent]

    def __iter__(self) -> Iterator[Send]:
        return iter(self.sent)


def play(flow: Flow[Any], of: Session, answers: list[Any]) -> Played:
    """Runs a flow to its end, answering what it sends from `answers`, errors included."""
    played, left = Played(), iter(answers)
    try:
        step = next(flow)
        while True:
            if isinstance(step, Send):
                played.sent.append(step)
                answer = next(left)
                if isinstance(answer, errors.SixfoldError):
                    step = flow.throw(answer)
                else:
                    step = flow.send(answer)
                continue
            if isinstance(step, Acquire):
                assert not of.lock.locked()
                of.lock.held = True  # type: ignore[attr-defined]
            step = flow.send(None)
    except StopIteration as end:
        played.value = end.value
    except errors.SixfoldError as error:
        played.error = error
    assert not of.lock.locked()
    return played


def call(of: Session) -> Flow[Any]:
    return authorized(of, "auth.GetUser", auth_pb2.GetUserRequest())
