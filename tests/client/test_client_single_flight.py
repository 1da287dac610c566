"""One refresh at a time, however many wait, and whatever becomes of who began it."""

from typing import Any

import pytest
from sixfold import _calls, errors
from sixfold._flows import Acquire, Flow, Send

from tests.client.player import (
    TOO_LATE,
    UNAVAILABLE,
    call,
    logged_in,
    play,
    refreshed,
    session,
)


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
