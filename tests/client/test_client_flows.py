"""What a call does about its token. Flows are played by hand: no channel, thread or loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from sixfold import _calls, errors
from sixfold._flows import Acquire, Flow, Send, authorized, login, logout
from sixfold._session import Credentials, Session
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

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
    list(play(login(made, "ann", "pw"), made, [auth_pb2.LoginResponse(tokens=tokens(1))]))
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


def test_the_first_call_logs_in_by_itself() -> None:
    ann = session(credentials=Credentials("ann", "pw"))

    played = play(call(ann), ann, [auth_pb2.LoginResponse(tokens=tokens(1)), "user"])

    assert played.methods == ["Login", "GetUser"]
    assert played.sent[1].token == "access1"
    assert played.value == "user"


def test_without_anything_to_log_in_with_nothing_is_sent() -> None:
    nobody = session()

    played = play(call(nobody), nobody, [])

    assert played.sent == []
    assert isinstance(played.error, errors.Unauthenticated)
    assert played.error.reason == "TOKEN_MISSING"


@pytest.mark.parametrize("reason", ["TOKEN_EXPIRED", "TOKEN_INVALID", ""])
def test_a_refused_token_is_refreshed_once_and_the_call_sent_again(reason: str) -> None:
    ann = logged_in()

    played = play(call(ann), ann, [unauthenticated(reason), refreshed(2), "user"])

    assert played.methods == ["GetUser", "RefreshTokens", "GetUser"]
    assert played.sent[2].token == "access2"


def test_a_token_refused_twice_is_the_callers_to_know() -> None:
    ann = logged_in()
    no = unauthenticated("TOKEN_INVALID")

    played = play(call(ann), ann, [no, refreshed(2), no])

    assert played.methods == ["GetUser", "RefreshTokens", "GetUser"]
    assert isinstance(played.error, errors.Unauthenticated)


@pytest.mark.parametrize("reason", ["BAD_CREDENTIALS", "TOKEN_MISSING"])
def test_what_a_new_token_cannot_help_is_not_tried_again(reason: str) -> None:
    ann = logged_in(credentials=Credentials("ann", "pw"))

    assert play(call(ann), ann, [unauthenticated(reason)]).methods == ["GetUser"]


def test_an_ended_session_is_not_refreshed_but_logged_in_again() -> None:
    ann = logged_in(credentials=Credentials("ann", "pw"))
    again = auth_pb2.LoginResponse(tokens=tokens(2))

    played = play(call(ann), ann, [unauthenticated("SESSION_REVOKED"), again, "user"])

    assert played.methods == ["GetUser", "Login", "GetUser"]


def test_an_ended_session_without_a_password_stays_ended() -> None:
    ann = logged_in()

    first = play(call(ann), ann, [unauthenticated("SESSION_REVOKED")])
    second = play(call(ann), ann, [])

    assert first.methods == ["GetUser"]
    assert second.sent == []
    assert isinstance(second.error, errors.Unauthenticated)
    assert second.error.reason == "SESSION_REVOKED"


def test_a_dead_refresh_token_makes_way_for_the_password() -> None:
    ann = session(refresh_token="old", credentials=Credentials("ann", "pw"))
    login_answer = auth_pb2.LoginResponse(tokens=tokens(1))

    played = play(call(ann), ann, [unauthenticated("SESSION_REVOKED"), login_answer, "user"])

    assert played.methods == ["RefreshTokens", "Login", "GetUser"]


def test_a_proxys_verdict_on_a_refresh_does_not_cost_the_session() -> None:
    ann = session(refresh_token="old")

    play(call(ann), ann, [unauthenticated("")])

    assert ann.refresh_token == "old"


def test_a_wrong_password_is_asked_once_until_login() -> None:
    ann = session(credentials=Credentials("ann", "wrong"))

    first = play(call(ann), ann, [unauthenticated("BAD_CREDENTIALS")])
    second = play(call(ann), ann, [])
    play(login(ann, "ann", "right"), ann, [auth_pb2.LoginResponse(tokens=tokens(1))])
    third = play(call(ann), ann, ["user"])

    assert first.methods == ["Login"]
    assert second.sent == []
    assert isinstance(second.error, errors.Unauthenticated)
    assert second.error.reason == "BAD_CREDENTIALS"
    assert third.methods == ["GetUser"]


def test_login_as_someone_else_forgets_who_to_come_back_as() -> None:
    ann = session(credentials=Credentials("ann", "pw"))

    play(login(ann, "bob", "pw"), ann, [auth_pb2.LoginResponse(tokens=tokens(1))])

    assert ann.credentials is None


@pytest.mark.parametrize("lost", [UNAVAILABLE, TOO_LATE])
def test_a_lost_refresh_is_asked_for_again_with_the_same_request_id(
    lost: errors.SixfoldError,
) -> None:
    ann = session(refresh_token="old")

    first = play(call(ann), ann, [lost, lost])
    second = play(call(ann), ann, [lost, refreshed(1), "user"])
    third = play(_calls.refresh(ann), ann, [refreshed(2)])

    assert type(first.error) is type(lost)
    tried = [*first.sent, *second.sent[:2]]
    assert {(step.request.refresh_token, step.request.request_id) for step in tried} == {
        ("old", "id0")
    }
    assert third.sent[0].request.request_id == "id1"


def test_a_first_refresh_attempt_leaves_time_for_the_second() -> None:
    ann = session(refresh_token="old")

    played = play(call(ann), ann, [TOO_LATE, refreshed(1), "user"])

    assert [step.share for step in played.sent] == [0.5, 1.0, 1.0]


def start(flow: Flow[Any]) -> Flow[Any]:
    """Brings a flow to where it waits for the lock."""
    assert isinstance(next(flow), Acquire)
    return flow


def test_who_waited_for_a_refresh_uses_its_token() -> None:
    ann = session(refresh_token="old")
    follower = start(call(ann))

    play(call(ann), ann, [refreshed(1), "user"])
    ann.lock.held = True  # type: ignore[attr-defined]
    step = follower.send(None)

    assert isinstance(step, Send)
    assert (step.method, step.token) == ("auth.GetUser", "access1")


def test_who_waited_for_a_failure_fails_alike() -> None:
    ann = session(refresh_token="old")
    follower = start(call(ann))

    play(call(ann), ann, [UNAVAILABLE, UNAVAILABLE])
    ann.lock.held = True  # type: ignore[attr-defined]

    with pytest.raises(errors.Unavailable):
        follower.send(None)


def test_who_waited_for_a_leader_that_was_cancelled_leads() -> None:
    ann = session(refresh_token="old")
    leader, follower = start(call(ann)), start(call(ann))
    ann.lock.held = True  # type: ignore[attr-defined]
    first = leader.send(None)

    leader.close()
    assert not ann.lock.locked()
    ann.lock.held = True  # type: ignore[attr-defined]
    second = follower.send(None)

    assert isinstance(first, Send)
    assert isinstance(second, Send)
    assert second.request == first.request


def test_who_waited_for_a_leader_out_of_time_leads() -> None:
    ann = session(refresh_token="old")
    follower = start(call(ann))

    play(call(ann), ann, [TOO_LATE, TOO_LATE])
    ann.lock.held = True  # type: ignore[attr-defined]
    step = follower.send(None)

    assert isinstance(step, Send)
    assert step.method == "auth.RefreshTokens"


def test_a_refresh_ahead_of_time_may_fail() -> None:
    clock = [0.0]
    ann = logged_in(monotonic=lambda: clock[0])
    clock[0] = 500.0

    failing = play(call(ann), ann, [UNAVAILABLE, UNAVAILABLE, "user"])
    next_call = play(call(ann), ann, ["user"])
    clock[0] += 6
    later = play(call(ann), ann, [refreshed(2), "user"])

    assert failing.methods == ["RefreshTokens", "RefreshTokens", "GetUser"]
    assert failing.value == "user"
    assert next_call.methods == ["GetUser"]
    assert later.methods == ["RefreshTokens", "GetUser"]


def test_a_refresh_ahead_of_time_is_left_to_who_began_it() -> None:
    clock = [0.0]
    ann = logged_in(monotonic=lambda: clock[0])
    clock[0] = 500.0
    ann.lock.held = True  # type: ignore[attr-defined]

    step = next(call(ann))

    assert isinstance(step, Send)
    assert (step.method, step.token) == ("auth.GetUser", "access1")


def test_after_logout_nothing_is_sent_until_login() -> None:
    ann = logged_in(credentials=Credentials("ann", "pw"))

    out = play(logout(ann), ann, [auth_pb2.LogoutResponse()])
    after = play(call(ann), ann, [])
    twice = play(logout(ann), ann, [])

    assert out.methods == ["Logout"]
    assert after.sent == twice.sent == []
    assert isinstance(after.error, errors.Unauthenticated)
    assert after.error.reason == "TOKEN_MISSING"


def test_logout_refreshes_an_expired_token_and_never_logs_in() -> None:
    ann = logged_in(credentials=Credentials("ann", "pw"))
    revoked = unauthenticated("SESSION_REVOKED")

    played = play(logout(ann), ann, [unauthenticated("TOKEN_EXPIRED"), refreshed(2), revoked])

    assert played.methods == ["Logout", "RefreshTokens", "Logout"]
    assert played.error is None
    assert ann.tokens is None


def test_a_logout_that_did_not_arrive_can_be_repeated() -> None:
    ann = logged_in()

    first = play(logout(ann), ann, [UNAVAILABLE])
    second = play(logout(ann), ann, [auth_pb2.LogoutResponse()])

    assert isinstance(first.error, errors.Unavailable)
    assert second.methods == ["Logout"]


def test_a_changed_password_is_the_one_to_come_back_with() -> None:
    ann = logged_in(credentials=Credentials("ann", "pw"))

    flow = _calls.change_password(ann, "pw", "new", keep_other_sessions=False)
    play(flow, ann, [auth_pb2.ChangePasswordResponse()])

    assert ann.credentials == Credentials("ann", "new")


def test_update_runs_again_on_the_newer_value() -> None:
    ann = logged_in()
    mismatch = errors.Conflict("no", CODE.ABORTED, "REVISION_MISMATCH", {"revision": "2"})
    missing = errors.NotFound("no", CODE.NOT_FOUND, "RECORD_NOT_FOUND")
    exists = errors.AlreadyExists("no", CODE.ALREADY_EXISTS, "RECORD_EXISTS")

    def at(revision: int, json: str) -> data_pb2.GetRecordResponse:
        return data_pb2.GetRecordResponse(record=data_pb2.Record(json=json, revision=revision))

    flow = _calls.update(ann, "c", "k", lambda value: (value or 0) + 1)
    answers = [missing, exists, at(1, "5"), mismatch, at(2, "7")]
    played = play(flow, ann, [*answers, data_pb2.PutRecordResponse(revision=3)])

    puts = [step.request for step in played if step.method == "data.PutRecord"]
    assert [(put.json, put.if_absent, put.if_revision) for put in puts] == [
        ("1", True, 0),
        ("6", False, 1),
        ("8", False, 2),
    ]
    assert len({put.request_id for put in puts}) == 3
    assert played.value.revision == 3


def test_update_gives_up_after_ten_tries() -> None:
    ann = logged_in()
    mismatch = errors.Conflict("no", CODE.ABORTED, "REVISION_MISMATCH", {"revision": "2"})
    record = data_pb2.GetRecordResponse(record=data_pb2.Record(json="1", revision=1))

    played = play(_calls.update(ann, "c", "k", str), ann, [record, mismatch] * 10)

    assert isinstance(played.error, errors.Conflict)
    assert played.error.revision == 2


def test_ready_polls_until_the_service_serves() -> None:
    ann = session()

    played = play(_calls.ready(), ann, [b"\x08\x02", UNAVAILABLE, b"\x08\x01"])

    assert played.methods == ["Check"] * 3
