"""The numbers in the contract are those in the code: rules by descriptor, comments by text."""

from pathlib import Path
from typing import Any

import pytest
from buf.validate import validate_pb2
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.domain import json_text, limits, passwords, tokens, usernames
from service.domain.passwords import PasswordPolicy
from service.rpc import policy
from service.settings import KNOBS
from tests.conftest import make_settings

PROTOS = Path(__file__).parents[2] / "protos" / "sixfold"
MINUTE = 60
DEFAULTS: dict[str, Any] = {spec.name: spec.default for _, spec, _ in KNOBS}
STATED = PasswordPolicy()
DAY_SECONDS = 86_400
SERVICES = {
    **auth_pb2.DESCRIPTOR.services_by_name,
    **data_pb2.DESCRIPTOR.services_by_name,
}


def rules(message: Any, field: str) -> Any:
    """What protovalidate is told about a field."""
    return message.DESCRIPTOR.fields_by_name[field].GetOptions().Extensions[validate_pb2.field]


def comments(area: str) -> str:
    """All comments of a proto file, as one line."""
    text = (PROTOS / area / "v1" / f"{area}.proto").read_text()
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line.removeprefix("//").strip() for line in lines if line.startswith("//"))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (auth_pb2.CreateUserRequest, "password"),
        (auth_pb2.LoginRequest, "password"),
        (auth_pb2.ChangePasswordRequest, "current_password"),
        (auth_pb2.ChangePasswordRequest, "new_password"),
    ],
)
def test_a_password_is_as_long_as_we_are_ready_to_hash(message: Any, field: str) -> None:
    options = message.DESCRIPTOR.fields_by_name[field].GetOptions()

    assert rules(message, field).string.max_bytes == passwords.MAX_RAW
    assert options.debug_redact


@pytest.mark.parametrize("message", [auth_pb2.CreateUserRequest, auth_pb2.LoginRequest])
def test_a_username_is_as_long_as_we_keep(message: Any) -> None:
    assert rules(message, "username").string.max_len == usernames.MAX_CODE_POINTS
    assert f"1 to {usernames.MAX_CODE_POINTS} characters" in comments("auth")


def test_a_value_is_as_long_as_postgres_is_told() -> None:
    assert rules(data_pb2.PutRecordRequest, "json").string.max_bytes == limits.VALUE_BYTES
    assert json_text.MAX_BYTES == limits.VALUE_BYTES
    assert f"at most {limits.VALUE_BYTES // 1024} KiB" in comments("data")


@pytest.mark.parametrize(
    "message", [data_pb2.GetRecordRequest, data_pb2.RecordName, data_pb2.DeleteRecordRequest]
)
def test_every_method_takes_the_same_names(message: Any) -> None:
    put = data_pb2.PutRecordRequest

    assert rules(message, "collection") == rules(put, "collection")
    assert rules(message, "key") == rules(put, "key")
    assert f"1 to {rules(put, 'key').string.max_bytes} bytes" in comments("data")


def test_a_login_can_ask_for_the_scopes_there_are() -> None:
    items = rules(auth_pb2.LoginRequest, "scopes").repeated.items

    assert tuple(getattr(items.string, "in")) == policy.ALL_SCOPES


def test_the_largest_valid_request_fits_a_message() -> None:
    names = 128 + rules(data_pb2.PutRecordRequest, "key").string.max_bytes

    assert limits.VALUE_BYTES + names + 1024 < limits.MESSAGE_BYTES


def test_the_largest_batch_fits_a_message() -> None:
    most = rules(data_pb2.BatchGetRecordsRequest, "names").repeated.max_items
    name = data_pb2.RecordName(collection="c" * 128, key="k" * 512)
    request = data_pb2.BatchGetRecordsRequest(names=[name] * most)

    assert most == limits.BATCH_SIZE_MAX <= limits.PAGE_SIZE_MAX
    assert request.ByteSize() < limits.MESSAGE_BYTES


@pytest.mark.parametrize("service", [*SERVICES.values()], ids=[*SERVICES])
def test_every_list_in_a_request_has_a_bound(service: Any) -> None:
    """And is where the layer that checks requests looks at its length."""
    for method in service.methods:
        for field in method.input_type.fields:
            if field.is_repeated:
                bound = field.GetOptions().Extensions[validate_pb2.field].repeated.max_items
                assert 0 < bound <= limits.BATCH_SIZE_MAX, field.full_name
            for inner in field.message_type.fields if field.message_type else []:
                assert not inner.is_repeated, inner.full_name


def test_the_largest_page_fits_what_clients_accept() -> None:
    around = limits.PAGE_SIZE_MAX * (128 + 512 + 64)

    assert limits.PAGE_BYTES + limits.VALUE_BYTES + around < 4 * 1024 * 1024


def test_the_largest_token_fits_the_metadata() -> None:
    assert tokens.MAX_CHARACTERS == limits.ACCESS_TOKEN_CHARACTERS < limits.METADATA_BYTES


def test_the_defaults_of_the_settings_are_those_of_the_domain() -> None:
    costs = DEFAULTS["argon2_memory_kib"], DEFAULTS["argon2_time_cost"]

    assert DEFAULTS["password_min_length"] == STATED.min_length
    assert costs == (STATED.memory_kib, STATED.time_cost)


@pytest.mark.parametrize(
    ("area", "sentence"),
    [
        ("auth", f"{STATED.min_length} to {STATED.max_length} code points by default"),
        ("auth", f"can have {limits.SESSIONS_PER_USER} live sessions"),
        ("auth", f"After {limits.LOGIN_FREE_ATTEMPTS} failed attempts in a row"),
        ("auth", f"up to {limits.LOGIN_LONGEST_WAIT.seconds // MINUTE} minutes"),
        ("auth", f"for {DEFAULTS['refresh_grace_seconds']} seconds"),
        ("auth", f"{DEFAULTS['access_token_seconds'] // MINUTE} minutes after it is made"),
        ("data", f"can keep {limits.RECORDS_PER_USER:,} records"),
        ("data", f"{limits.PAGE_SIZE_DEFAULT} when 0, never more than {limits.PAGE_SIZE_MAX:,}"),
        ("data", f"ends at {limits.PAGE_BYTES // 1024**2} MiB of values"),
        ("data", f"end at {limits.PAGE_BYTES // 1024**2} MiB of values"),
        ("data", f"up to {limits.BATCH_SIZE_MAX} records, named one by one"),
        ("data", f"1 to {limits.BATCH_SIZE_MAX}, of any of the caller's collections"),
        ("data", f"Remembered for {limits.REQUEST_ID_MEMORY.total_seconds() / 3600:.0f} hours"),
    ],
)
def test_the_contract_states_the_number(area: str, sentence: str) -> None:
    assert sentence in comments(area)


def test_a_new_key_is_public_for_longer_than_verifiers_may_cache() -> None:
    from service import policies

    published = policies.rotation(make_settings("postgresql://h/d")).publish

    assert published > policies.JWKS_MAX_AGE
