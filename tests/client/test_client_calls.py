"""What methods do beyond one rpc: logging out, updating, waiting to be ready."""

from collections.abc import Sequence

from sixfold import _calls, errors
from sixfold._flows import logout
from sixfold._session import Credentials
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from tests.client.player import (
    CODE,
    UNAVAILABLE,
    Played,
    call,
    logged_in,
    play,
    refreshed,
    session,
    unauthenticated,
)


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


def some(*keys: str, unread: Sequence[str] = ()) -> data_pb2.BatchGetRecordsResponse:
    return data_pb2.BatchGetRecordsResponse(
        records=[data_pb2.Record(collection="c", key=key, json="1") for key in keys],
        unread=[data_pb2.RecordName(collection="c", key=key) for key in unread],
    )


def asked(played: Played) -> list[list[str]]:
    return [[name.key for name in step.request.names] for step in played]


def test_what_was_left_unread_is_asked_for_again_before_the_rest() -> None:
    ann = logged_in()
    names = [("c", f"{n:03}") for n in range(120)]
    keys = [key for _, key in names]
    answers = [some(*keys[:30], unread=keys[30:100]), some(*keys[30:118], unread=keys[118:])]

    played = play(_calls.get_many(ann, names), ann, [*answers, some("118")])

    assert played.methods == ["BatchGetRecords"] * 3
    assert asked(played) == [keys[:100], keys[30:], ["118", "119"]]
    assert list(played.value) == names[:119]


def test_each_name_is_asked_for_once() -> None:
    ann = logged_in()

    played = play(_calls.get_many(ann, iter([("c", "b"), ("c", "a")] * 2)), ann, [some("b", "a")])

    assert asked(played) == [["b", "a"]]
    assert [record.key for record in played.value.values()] == ["b", "a"]


def test_no_name_is_no_call() -> None:
    ann = logged_in()

    played = play(_calls.get_many(ann, []), ann, [])

    assert (played.sent, played.value) == ([], {})


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
    unknown = errors.NotFound("no", CODE.NOT_FOUND)

    played = play(_calls.ready(), ann, [UNAVAILABLE, unknown, b"\x08\x02", b"\x08\x01"])

    assert played.methods == ["Check"] * 4
