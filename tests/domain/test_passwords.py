"""Passwords: what is taken, what is refused and why, and that hashes prove what they should."""

import time
import unicodedata

import pytest
from argon2.low_level import Type, hash_secret, verify_secret
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import passwords
from service.domain.errors import InvalidArgument
from service.domain.passwords import PasswordPolicy

POLICY = PasswordPolicy()
CHEAP = PasswordPolicy(memory_kib=8, time_cost=1)
SALT = b"\x05" * 16
# Sorting these takes quadratic time: only a check of the length before it answers soon.
ENDLESS = "\u0301" * 500_000 + "\u0323" * 500_000
GOOD = "my cat sleeps on the roof"


def refusal(password: str, *, policy: PasswordPolicy = POLICY, username: str = "ann") -> str | None:
    """The reason a password is refused, or None."""
    try:
        passwords.check(policy, password, username=username, field="new_password")
    except InvalidArgument as error:
        (violation,) = error.violations
        assert violation.field == "new_password"
        assert not password or password not in violation.description
        return violation.reason
    return None


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        pytest.param("Pass word", "Pass word", id="as it is"),
        pytest.param(" a ", " a ", id="spaces at the ends stay"),
        pytest.param("a\u00a0b\u3000c", "a b c", id="other spaces become spaces"),
        pytest.param("e\u0301", "é", id="NFC"),
        pytest.param("ﬁ①", "ﬁ①", id="compatibility forms stay"),
        pytest.param("a\u200bb\tc\x00", "a\u200bb\tc\x00", id="what is not a space stays"),
    ],
)
def test_a_password_is_prepared_as_an_opaque_string(typed: str, prepared: str) -> None:
    assert passwords.prepare(typed) == prepared


@given(st.text(st.characters(), max_size=100))
@settings(deadline=None)
def test_preparing_twice_is_preparing_once(password: str) -> None:
    prepared = passwords.prepare(password)

    assert passwords.prepare(prepared) == prepared
    assert unicodedata.is_normalized("NFC", prepared)


# No common words, sequences or repetitions in these 15 code points.
FIFTEEN = "jW8#kq2L!zP0xR7"


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        pytest.param("", "PASSWORD_TOO_SHORT", id="empty"),
        pytest.param(FIFTEEN[:14], "PASSWORD_TOO_SHORT", id="14"),
        pytest.param(FIFTEEN, None, id="15"),
        pytest.param((FIFTEEN * 18)[:64], None, id="64"),
        pytest.param((FIFTEEN * 18)[:256], None, id="256"),
        pytest.param((FIFTEEN * 18)[:257], "PASSWORD_TOO_LONG", id="257"),
        pytest.param("🦊🦝🐻🐼🦁🐯🐨🐸🐵🐔🐧🐦🐤🦆", "PASSWORD_TOO_SHORT", id="14 emoji, 28 units"),
        pytest.param("🦊🦝🐻🐼🦁🐯🐨🐸🐵🐔🐧🐦🐤🦆🦅", None, id="15 emoji"),
        pytest.param("e\u0301" * 14, "PASSWORD_TOO_SHORT", id="14 after NFC"),
        pytest.param("".join(c + "\u0301" for c in (FIFTEEN * 18)[:128]), None, id="NFD"),
        pytest.param((FIFTEEN * 99)[:1025], "PASSWORD_TOO_LONG", id="1,025"),
        pytest.param(ENDLESS, "PASSWORD_TOO_LONG", id="a million accents"),
        pytest.param(GOOD.replace(" ", "\u00a0"), None, id="no-break spaces"),
    ],
)
def test_length_counts_code_points(password: str, reason: str | None) -> None:
    assert refusal(password) == reason


def test_no_policy_takes_what_could_not_be_verified() -> None:
    endless = PasswordPolicy(max_length=1_000_000)

    assert refusal((FIFTEEN * 99)[:1025], policy=endless) == "PASSWORD_TOO_LONG"


# What leads lists of leaked passwords once they are cut down to 15 characters and more.
GUESSED = """
    123456789012345 000000000000000 987654321987654321 1122334455667788 123654789123654789
    passwordpassword password12345678 Password123456! P@ssw0rdP@ssw0rd thisisapassword
    qwertyuiopasdfgh 1234567890qwertyuiop zxcvbnm,./zxcvbnm qwertzuiop123456 asdfasdfasdfasdf
    1q2w3e4r5t6y7u8i q1w2e3r4t5y6u7i8 1qaz2wsx3edc4rfv zaq12wsxcde34rfv !@#$%^&*()_+!@#
    abcdefghijklmnop zyxwvutsrqponmlk abc123abc123abc123 aaaaaaaabbbbbbbb 1a2b3c4d5e6f7g8h
    iloveyouiloveyou letmeinletmein12 trustno1trustno1 summer2024summer2024 superman12345678
    administrator123 motdepasse123456 correcthorsebatterystaple changemechangeme
    sixfoldsixfold12 Sixfold-2026-2026 ann.smith-2026!! ANN.SMITHann.smith xk7mqz9xk7mqz9xk7mqz9
"""


@pytest.mark.parametrize("password", GUESSED.split())
def test_what_a_guesser_tries_first_is_refused(password: str) -> None:
    assert refusal(password, username="Ann.Smith") == "PASSWORD_COMMON"


def test_spaces_do_not_count_among_the_different_characters() -> None:
    assert refusal("xkz qmx kzq mxk zqm") == "PASSWORD_COMMON"
    assert refusal("xkz qmx kzq mxk zqm7") is None


@pytest.mark.parametrize(
    "password",
    [
        GOOD,
        "purple otter dancing",
        "monkey business is serious",
        "Summer in Barcelona 2019 was hot",
        "alllowercaseisfinetoo",
        "728406391557284",
        "aérobie été forêt noël",
        "在北京吃烤鸭真的非常好吃而且便宜",
        "^%{}<>?$~#`&*|;",
        "ann smith writes long passwords",
    ],
)
def test_no_composition_is_asked_for(password: str) -> None:
    assert refusal(password, username="ann.smith") is None


@pytest.mark.parametrize("username", ["", "a", ".*", "(", "ß"])
def test_any_username_can_be_looked_for(username: str) -> None:
    assert refusal(GOOD, username=username) is None


@pytest.mark.parametrize(
    ("stored", "tried", "same"),
    [
        pytest.param(GOOD, GOOD, True, id="itself"),
        pytest.param("e\u0301lodie", "élodie", True, id="another keyboard"),
        pytest.param("a\u00a0b", "a b", True, id="another space"),
        pytest.param("x" * 72 + "a", "x" * 72 + "b", False, id="after byte 72"),
        pytest.param("x" * 255 + "a", "x" * 255 + "b", False, id="in the last character"),
        pytest.param(GOOD, GOOD + " ", False, id="trailing space"),
        pytest.param(GOOD, GOOD.upper(), False, id="case"),
        pytest.param("a\x00b", "a\x00c", False, id="after NUL"),
        pytest.param("\ud800", "\ud801", False, id="lone surrogates"),
        pytest.param(GOOD, "", False, id="empty"),
    ],
)
def test_only_the_same_password_verifies(stored: str, tried: str, same: bool) -> None:
    encoded = passwords.hash_password(CHEAP, stored, SALT)

    assert passwords.verify_password(encoded, tried) is same


def test_a_hash_is_argon2id_with_the_policys_costs_and_the_salt_given() -> None:
    encoded = passwords.hash_password(POLICY, GOOD, SALT)

    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$BQUFBQUFBQUFBQUFBQUFBQ$")
    assert encoded != passwords.hash_password(POLICY, GOOD, b"\x06" * 16)


def test_an_endless_password_is_not_hashed() -> None:
    encoded = passwords.hash_password(CHEAP, GOOD, SALT)

    assert not passwords.verify_password(encoded, ENDLESS)


TAIL = "BQUFBQUFBQUFBQUFBQUFBQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(f"$argon2id$v=19$m=1048577,t=2,p=1${TAIL}", id="more than 1 GiB"),
        pytest.param(f"$argon2id$v=19$m=4294967295,t=1,p=1${TAIL}", id="4 TiB"),
        pytest.param(f"$argon2id$v=19$m=99999999999999,t=1,p=1${TAIL}", id="more than 32 bits"),
        pytest.param(f"$argon2id$v=19$m=8,t=11,p=1${TAIL}", id="more than 10 passes"),
        pytest.param(f"$argon2id$v=19$m=8,t=4294967295,p=1${TAIL}", id="endless passes"),
        pytest.param(f"$argon2id$v=19$m=1024,t=1,p=17${TAIL}", id="more than 16 lanes"),
        pytest.param(f"$argon2id$v=19$m=0,t=1,p=1${TAIL}", id="no memory"),
        pytest.param(f"$argon2id$v=19$m=8,t=1,p=16${TAIL}", id="too little memory for its lanes"),
        pytest.param(f"$argon2i$v=19$m=8,t=1,p=1${TAIL}", id="argon2i"),
        pytest.param(f"$argon2d$v=19$m=8,t=1,p=1${TAIL}", id="argon2d"),
        pytest.param(f"$argon2id$v=16$m=8,t=1,p=1${TAIL}", id="version 1.0"),
        pytest.param(f"$argon2id$m=8,t=1,p=1${TAIL}", id="no version"),
        pytest.param(f"$argon2id$v=19$m=8,t=1,p=1,keyid=x${TAIL}", id="unknown parameter"),
        pytest.param(f"$argon2id$v=19$m=٨,t=1,p=1${TAIL}", id="Arabic-Indic digit"),
        pytest.param(f"$argon2id$v=19$m=8,t=1,p=1${TAIL}\n", id="newline"),
        pytest.param(f"$argon2id$v=19$m=8,t=1,p=1${TAIL}\x00", id="NUL"),
        pytest.param(f"$argon2id$v=19$m=8,t=1,p=1${'A' * 13}${'A' * 17}", id="broken base64"),
        pytest.param(f"$argon2id$v=19$m=8,t=1,p=1${'A' * 22}${'A' * 10_000}", id="long digest"),
        pytest.param("$2b$12$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", id="bcrypt"),
        pytest.param("", id="empty"),
    ],
)
def test_a_hostile_hash_is_refused_at_once(encoded: str) -> None:
    before = time.process_time()

    assert not passwords.verify_password(encoded, GOOD)
    # Filling 1 GiB takes a second; the widest margin that still tells it from a string check.
    assert time.process_time() - before < 0.5


def reference(password: str, memory: int, passes: int, lanes: int = 1, size: int = 32) -> str:
    """What the reference implementation makes of a password."""
    return hash_secret(
        password.encode(), SALT, passes, memory, lanes, hash_len=size, type=Type.ID
    ).decode()


@pytest.mark.parametrize(
    ("encoded", "verifies"),
    [
        pytest.param(reference(GOOD, 8, 10), True, id="10 passes"),
        pytest.param(reference(GOOD, 8, 11), False, id="11 passes"),
        pytest.param(reference(GOOD, 128, 1, lanes=16), True, id="16 lanes"),
        pytest.param(reference(GOOD, 136, 1, lanes=17), False, id="17 lanes"),
        pytest.param(reference(GOOD, 8, 1, size=54), True, id="a digest of 54 bytes"),
        pytest.param(reference(GOOD, 8, 1, size=64), False, id="a digest of 64 bytes"),
    ],
)
def test_beyond_the_limits_not_even_the_right_password_verifies(
    encoded: str, verifies: bool
) -> None:
    assert passwords.verify_password(encoded, GOOD) is verifies
    assert not passwords.verify_password(encoded, GOOD + "!")


@pytest.mark.parametrize("password", [GOOD, "a\x00b", "élodie" * 40, "🦊"])
@pytest.mark.parametrize("policy", [CHEAP, PasswordPolicy(memory_kib=64, time_cost=3), POLICY])
def test_hashes_are_those_of_the_reference_implementation(
    password: str, policy: PasswordPolicy
) -> None:
    encoded = passwords.hash_password(policy, password, SALT)

    assert encoded == reference(password, policy.memory_kib, policy.time_cost)
    assert verify_secret(encoded.encode(), password.encode(), Type.ID)


@pytest.mark.parametrize(
    ("policy", "stale"),
    [
        pytest.param(CHEAP, False, id="the same"),
        pytest.param(PasswordPolicy(memory_kib=16, time_cost=1), True, id="more memory"),
        pytest.param(PasswordPolicy(memory_kib=8, time_cost=2), True, id="more passes"),
        pytest.param(PasswordPolicy(20, 99, memory_kib=8, time_cost=1), False, id="other lengths"),
    ],
)
def test_a_hash_is_stale_when_its_costs_are_not_the_policys(
    policy: PasswordPolicy, stale: bool
) -> None:
    encoded = passwords.hash_password(CHEAP, GOOD, SALT)

    assert passwords.needs_rehash(policy, encoded) is stale


def test_what_is_not_a_hash_or_has_other_lanes_is_stale() -> None:
    assert passwords.needs_rehash(CHEAP, "")
    assert passwords.needs_rehash(PasswordPolicy(memory_kib=16), reference(GOOD, 16, 2, lanes=2))


def test_a_decoy_has_the_shape_and_the_costs_of_a_real_hash() -> None:
    decoy = passwords.decoy(POLICY)
    real = passwords.hash_password(POLICY, GOOD, SALT)

    assert not passwords.needs_rehash(POLICY, decoy)
    assert [len(part) for part in decoy.split("$")] == [len(part) for part in real.split("$")]
    assert not passwords.verify_password(decoy, GOOD)


def test_a_decoy_is_really_computed() -> None:
    costly = PasswordPolicy(memory_kib=65_536)
    before = time.process_time()

    assert not passwords.verify_password(passwords.decoy(costly), GOOD)
    # 64 MiB twice takes 30 ms or more on anything; a refused string takes microseconds.
    assert time.process_time() - before > 0.005
