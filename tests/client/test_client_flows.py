"""What a call does about its token."""

import pytest
from sixfold import errors
from sixfold._flows import login
from sixfold._session import Credentials
from sixfold.auth.v1 import auth_pb2

from tests.client.player import call, logged_in, play, refreshed, session, tokens, unauthenticated


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
