"""When an access token is renewed, and what a session shows of itself."""

import pytest
from sixfold import _convert, models
from sixfold._session import Credentials, Need, Session
from sixfold.auth.v1 import auth_pb2

NOW = 1_900_000_000.0


class Lock:
    def locked(self) -> bool:
        return False

    def release(self) -> None:
        return None


def tokens(life: float) -> models.Tokens:
    message = auth_pb2.Tokens(access_token="a-secret", refresh_token="r-secret")
    message.access_token_expire_time.FromNanoseconds(int((NOW + life) * 1e9))
    return _convert.tokens(message)


@pytest.mark.parametrize(
    ("chance", "after", "need"),
    [
        (0.5, 0, Need.NOTHING),
        (0.5, 479, Need.NOTHING),
        (0.5, 480, Need.SOON),
        (0.0, 449, Need.NOTHING),
        (0.0, 450, Need.SOON),
        (1.0, 509, Need.NOTHING),
        (1.0, 510, Need.SOON),
        (0.5, 600, Need.NOW),
    ],
)
def test_a_token_is_renewed_at_four_fifths_of_its_life(
    chance: float, after: float, need: Need
) -> None:
    clock = [1000.0]
    session = Session(
        lock=Lock(), wall=lambda: NOW, monotonic=lambda: clock[0], chance=lambda: chance
    )

    session.start(tokens(life=600))
    clock[0] += after

    assert session.need() is need


def test_a_clock_far_ahead_does_not_refresh_at_every_call() -> None:
    session = Session(lock=Lock(), wall=lambda: NOW + 3600, monotonic=lambda: 0.0)

    session.start(tokens(life=600))

    assert session.need() is Need.NOTHING


def test_every_new_pair_is_told() -> None:
    told: list[models.Tokens] = []
    session = Session(lock=Lock(), on_tokens=told.append)

    session.start(tokens(600))
    session.start(tokens(700))

    assert told == [tokens(600), tokens(700)]


def test_secrets_do_not_print() -> None:
    session = Session(
        lock=Lock(), refresh_token="r-secret", credentials=Credentials("ann", "pw-secret")
    )
    session.start(tokens(600))

    assert "secret" not in repr(session)
