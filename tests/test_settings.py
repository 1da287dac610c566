"""What the environment may say, and what is said back about it."""

import base64
import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path

import pytest

from service import settings
from service.settings import SettingsError, load

KEY = bytes(range(7, 39))
PASSWORD = "canary-9f2c"
DATABASE_URL = f"postgresql://sixfold:{PASSWORD}@db.internal:5432/sixfold"
COMPLETE = {
    "SIXFOLD_DATABASE_URL": DATABASE_URL,
    "SIXFOLD_MASTER_KEY": base64.b64encode(KEY).decode(),
    "SIXFOLD_ISSUER": "https://id.example.com",
}


def problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(environ)
    return refused.value.problems


def test_three_variables_are_enough() -> None:
    loaded = load(COMPLETE | {"PATH": "/bin", "HOME": "/home/x"})

    assert loaded.database_url == DATABASE_URL
    assert loaded.master_key == KEY
    assert loaded.issuer == "https://id.example.com"
    assert (loaded.audience, loaded.listen, loaded.sign_up) == ("sixfold", "[::]:50051", True)
    assert (loaded.access_token_seconds, loaded.session_seconds) == (600, 90 * 24 * 3600)


def test_everything_missing_is_reported_at_once() -> None:
    found = problems({})

    assert [line.split()[0] for line in found] == list(COMPLETE)
    assert all("is missing" in line for line in found)


def test_everything_wrong_is_reported_at_once() -> None:
    found = problems(
        COMPLETE
        | {
            "SIXFOLD_DATABASE_URL": "mysql://u:p@h/d",
            "SIXFOLD_POOL_SIZE": "ten",
            "SIXFOLD_LISTEN": "50051",
            "SIXFOLD_SIGN_UP": "maybe",
            "SIXFOLD_LOG_LEVEL": "loud",
            "SIXFOLD_ISUER": "https://id.example.com",
        }
    )

    assert sorted(line.split()[0] for line in found) == [
        "SIXFOLD_DATABASE_URL",
        "SIXFOLD_ISUER",
        "SIXFOLD_LISTEN",
        "SIXFOLD_LOG_LEVEL",
        "SIXFOLD_POOL_SIZE",
        "SIXFOLD_SIGN_UP",
    ]


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{PASSWORD}@h/d",
        f"host=h password={PASSWORD}",
        f"postgres://u:{PASSWORD}/x@h/d",
        f"postgres://u:{PASSWORD}#x@h/d",
        f"postgres://u:{PASSWORD}@h:port/d",
        f"postgres://u:{PASSWORD}@h:5432\n/d",
        f"postgres://u:{PASSWORD}@[::1/d",
        f"postgres://u:{PASSWORD}\uff20@\u2100.example/d x",
        PASSWORD,
        "",
    ],
)
def test_a_wrong_database_url_is_refused_and_not_printed(url: str) -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_DATABASE_URL": url})

    assert problem.startswith("SIXFOLD_DATABASE_URL ")
    assert PASSWORD not in problem


@pytest.mark.parametrize(
    "url",
    [
        "postgres://h",
        "postgresql://u:p%40ss@h:5432/d?sslmode=verify-full",
        "postgresql://u:p@ss@h/d",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://u:p@a:5432,b:5433/d",
        "postgresql://u@[::1]:5432/d",
    ],
)
def test_every_usual_shape_of_a_database_url_is_taken(url: str) -> None:
    assert load(COMPLETE | {"SIXFOLD_DATABASE_URL": url}).database_url == url


def test_a_master_key_may_be_base64_base64url_or_hexadecimal() -> None:
    key = bytes.fromhex("fbff3e") + secrets.token_bytes(29)
    standard = base64.b64encode(key).decode()
    shapes = [standard, standard.rstrip("="), base64.urlsafe_b64encode(key).decode(), key.hex()]

    for text in [*shapes, key.hex().upper()]:
        assert load(COMPLETE | {"SIXFOLD_MASTER_KEY": text}).master_key == key


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "00" * 32,
        base64.b64encode(b"\xff" * 32).decode(),
        base64.b64encode(b"hunter2hunter2hunter2hunter2hunt").decode(),
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        base64.b64encode(KEY).decode() + "!",
        KEY.hex()[:63] + "g",
        "\ud800" * 43,
    ],
)
def test_a_short_wrong_or_weak_master_key_is_refused_and_not_printed(text: str) -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_MASTER_KEY": text})

    assert problem.startswith("SIXFOLD_MASTER_KEY ")
    assert text not in problem


@pytest.mark.parametrize(
    "issuer",
    [
        "id.example.com",
        "ftp://id.example.com",
        "https://",
        "https://id.example.com?x",
        "https://id.example.com/#x",
        "https://user:pw@id.example.com",
        "https://id.example.com:port",
        "https://id.example .com",
    ],
)
def test_an_issuer_is_a_plain_web_address(issuer: str) -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_ISSUER": issuer})

    assert "http or https" in problem


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(DATABASE_URL + "\n")
    environ = {name: value for name, value in COMPLETE.items() if "DATABASE" not in name}

    loaded = load(environ | {"SIXFOLD_DATABASE_URL_FILE": str(tmp_path / "url")})

    assert loaded.database_url == DATABASE_URL
    assert ("SIXFOLD_DATABASE_URL", "***", "file") in settings.shown(loaded)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(DATABASE_URL)

    [problem] = problems(COMPLETE | {"SIXFOLD_DATABASE_URL_FILE": str(tmp_path / "url")})

    assert "SIXFOLD_DATABASE_URL_FILE are both set" in problem


@pytest.mark.parametrize("path", ["/nonexistent/x", "/", KEY.hex(), "a\0b", ""])
def test_an_unreadable_secret_file_is_refused_and_its_name_not_printed(path: str) -> None:
    environ = {name: value for name, value in COMPLETE.items() if "KEY" not in name}

    [problem] = problems(environ | {"SIXFOLD_MASTER_KEY_FILE": path})

    assert "cannot be read" in problem
    assert KEY.hex() not in problem


def test_only_secrets_have_a_file_variant() -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_ISSUER_FILE": "/x"})

    assert "SIXFOLD_ISSUER_FILE is unknown" in problem


def test_a_misspelt_name_is_reported_with_a_suggestion_and_without_its_value() -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_DATABSE_URL": DATABASE_URL})

    assert problem == "SIXFOLD_DATABSE_URL is unknown; did you mean SIXFOLD_DATABASE_URL?"


def test_names_of_the_client_the_tests_and_kubernetes_are_left_alone() -> None:
    load(
        COMPLETE
        | dict.fromkeys(settings.TOLERATED, "x")
        | {
            "SIXFOLD_SERVICE_HOST": "10.0.0.1",
            "SIXFOLD_SERVICE_PORT": "50051",
            "SIXFOLD_SERVICE_PORT_GRPC": "50051",
            "SIXFOLD_PORT": "tcp://10.0.0.1:50051",
            "SIXFOLD_PORT_50051_TCP": "tcp://10.0.0.1:50051",
            "SIXFOLD_PORT_50051_TCP_ADDR": "10.0.0.1",
            "SIXFOLD_HTTP_PORT_8080_TCP_PROTO": "tcp",
        }
    )


def test_a_port_variable_of_a_human_is_still_unknown() -> None:
    assert problems(COMPLETE | {"SIXFOLD_PORT": "50051"}) == ["SIXFOLD_PORT is unknown"]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (
            "ACCESS_TOKEN_SECONDS",
            ["59", "3601", "-1", "6e2", "600.0", "1_000", " 600", "٦٠٠", "nan"],
        ),
        ("DEADLINE_SECONDS", ["nan", "inf", "1e1", "-1", "0", "601", "5s", ".5"]),
        ("POOL_SIZE", ["0", "501", "9" * 5000, "'10'", ""]),
        ("PASSWORD_MIN_LENGTH", ["7", "65"]),
        ("SIGN_UP", ["2", "t", "y", "enabled", " true", ""]),
        ("LOG_FORMAT", ["xml", ""]),
        ("LISTEN", ["[::]", ":50051", "::1:50051", "[::]:65536", "[::]:-1", "a b:1", "h:٣"]),
        ("AUDIENCE", ["", " "]),
    ],
)
def test_values_outside_their_rule_are_refused(name: str, wrong: list[str]) -> None:
    for value in wrong:
        [problem] = problems(COMPLETE | {f"SIXFOLD_{name}": value})

        assert problem.startswith(f"SIXFOLD_{name} "), value


def test_booleans_are_spelt_in_eight_ways() -> None:
    spelt = {
        word: load(COMPLETE | {"SIXFOLD_SIGN_UP": word}).sign_up
        for word in ("true", "1", "yes", "ON", "false", "0", "no", "Off")
    }

    assert list(spelt.values()) == [True] * 4 + [False] * 4


def test_bounds_are_included() -> None:
    low = load(COMPLETE | {"SIXFOLD_ACCESS_TOKEN_SECONDS": "60", "SIXFOLD_DRAIN_SECONDS": "0"})
    high = load(COMPLETE | {"SIXFOLD_ACCESS_TOKEN_SECONDS": "3600", "SIXFOLD_DRAIN_SECONDS": "0.5"})

    assert (low.access_token_seconds, low.drain_seconds) == (60, 0.0)
    assert (high.access_token_seconds, high.drain_seconds) == (3600, 0.5)


def test_a_session_cannot_idle_for_longer_than_it_lives() -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_SESSION_SECONDS": "3600"})

    assert problem == "SIXFOLD_SESSION_IDLE_SECONDS must not exceed SIXFOLD_SESSION_SECONDS"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[::]:50051", ("::", 50051)),
        ("10.0.0.1:0", ("10.0.0.1", 0)),
        ("localhost:8080", ("localhost", 8080)),
        ("[::ffff:10.0.0.1]:1", ("::ffff:10.0.0.1", 1)),
    ],
)
def test_host_and_port_come_apart(text: str, expected: tuple[str, int]) -> None:
    assert settings.host_port(text) == expected


def test_secrets_never_print() -> None:
    loaded = load(COMPLETE)
    everything = f"{loaded!r} {loaded} {settings.shown(loaded)} {settings.describe()}"

    assert PASSWORD not in everything
    assert repr(KEY)[2:-1] not in everything
    assert COMPLETE["SIXFOLD_MASTER_KEY"] not in everything


def test_what_is_shown_names_value_and_source() -> None:
    rows = settings.shown(load(COMPLETE | {"SIXFOLD_REFLECTION": "yes"}))

    assert ("SIXFOLD_REFLECTION", "true", "environment") in rows
    assert ("SIXFOLD_POOL_SIZE", "10", "default") in rows
    assert ("SIXFOLD_MASTER_KEY", "***", "environment") in rows


def test_every_variable_is_described() -> None:
    rows = {name: (default, meaning) for name, default, meaning in settings.describe()}
    fields = {f.name for f in dataclasses.fields(settings.Settings)} - {"sources"}

    assert rows.keys() == {f"SIXFOLD_{name.upper()}" for name in fields}
    assert all(meaning for _, meaning in rows.values())
    assert rows["SIXFOLD_ISSUER"][0] == "required"
    assert "from 60 to 3600" in rows["SIXFOLD_ACCESS_TOKEN_SECONDS"][1]


def test_every_default_satisfies_its_own_rule() -> None:
    defaults = {name: d for name, d, _ in settings.describe() if d not in ("required", "none")}

    assert load(COMPLETE | defaults) == load(COMPLETE)


@pytest.mark.parametrize(("one", "other"), [("CERTIFICATE", "KEY"), ("KEY", "CERTIFICATE")])
def test_a_certificate_and_its_key_go_together(one: str, other: str) -> None:
    there, missing = f"SIXFOLD_TLS_{one}", f"SIXFOLD_TLS_{other}"

    [problem] = problems(COMPLETE | {there: "/tls/file"})

    assert problem == f"{missing} is missing, without which {there} is nothing"
    both = load(COMPLETE | {there: "/tls/file", missing: "/tls/other"})
    assert {both.tls_certificate, both.tls_key} == {"/tls/file", "/tls/other"}
    assert len(problems(COMPLETE | {there: "/tls/file", missing: ""})) == 1


@pytest.mark.parametrize("text", ["-----BEGIN PRIVATE KEY-----", "canary\n", "canary\0"])
def test_a_key_in_place_of_its_path_is_refused_and_not_printed(text: str) -> None:
    [problem] = problems(COMPLETE | {"SIXFOLD_TLS_CERTIFICATE": "/x", "SIXFOLD_TLS_KEY": text})

    assert problem == "SIXFOLD_TLS_KEY must be the path of a PEM file, not what is in one"


def test_what_is_not_set_and_has_no_default_is_shown_as_none() -> None:
    assert ("SIXFOLD_TLS_KEY", "none", "default") in settings.shown(load(COMPLETE))
