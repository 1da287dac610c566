"""The known attacks on JWTs, item by item, and PyJWT's advisories: each must end in TokenInvalid.

Everything but the attacked thing is genuine: but for it, the token would verify. The ids name the
item of the list of attacks, or the advisory. Advisories about fetching keys have no test here:
nothing here fetches.
"""

import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import keys, tokens
from service.domain.errors import TokenExpired, TokenInvalid
from service.domain.keys import KeySet, SigningKey
from service.domain.tokens import TokenPolicy

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOW = int(NOON.timestamp())
POLICY = TokenPolicy("https://issuer.example", "sixfold", timedelta(minutes=10))
PRIVATE = ec.derive_private_key(0xC0FFEE, ec.SECP256R1())
PUBLIC = PRIVATE.public_key()
OTHER = ec.derive_private_key(0xBADC0DE, ec.SECP256R1())
KID = keys.thumbprint(PUBLIC)
KEYS = KeySet((SigningKey(KID, PRIVATE, NOON, NOON), SigningKey("other", OTHER, NOON, NOON)))
EVIL = ec.derive_private_key(0xE511, ec.SECP256R1())
EVIL_JWK = keys.public_jwk(KID, EVIL.public_key())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # RFC 4648 5
USER = "01941f29-7c00-7000-8000-000000000001"

HEADER: dict[str, Any] = {"alg": "ES256", "typ": "at+jwt", "kid": KID}
CLAIMS: dict[str, Any] = {
    "iss": "https://issuer.example",
    "aud": "sixfold",
    "sub": USER,
    "client_id": "web",
    "iat": NOW,
    "exp": NOW + 600,
    "jti": "01941f29-7c00-7000-8000-000000000003",
    "sid": "01941f29-7c00-7000-8000-000000000002",
    "scope": "data.read",
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: object, payload: object) -> str:
    """Header and payload; bytes are taken as they are."""
    parts = (p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, payload))
    return ".".join(b64(p) for p in parts)


def rs(message: str, key: ec.EllipticCurvePrivateKey = PRIVATE) -> tuple[int, int]:
    return utils.decode_dss_signature(key.sign(message.encode(), ec.ECDSA(SHA256())))


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def seal(message: str, key: ec.EllipticCurvePrivateKey = PRIVATE) -> str:
    """The message with a signature that is right, whatever the message is."""
    return f"{message}.{b64(raw(*rs(message, key)))}"


def forge(header: object = HEADER, payload: object = CLAIMS) -> str:
    return seal(unsigned(header, payload))


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


def literal(name: str, value: str) -> bytes:
    """The claims with one written in a way json.dumps would not."""
    return json.dumps(CLAIMS | {name: "@"}).replace('"@"', value).encode()


GENUINE = forge()
MESSAGE, SIGNATURE = GENUINE.rsplit(".", 1)
R, S = rs(MESSAGE)
GENUINE_TWIN = f"{MESSAGE}.{b64(raw(R, ORDER - S))}"


def attack(token: str, name: str) -> Any:
    return pytest.param(token, id=name)


def item_1_none() -> Iterator[Any]:
    for alg in ("none", "None", "NONE", "nOnE", ""):
        message = unsigned(HEADER | {"alg": alg}, CLAIMS)
        yield attack(f"{message}.", f"1 alg {alg!r}, no signature")
        yield attack(seal(message), f"1 alg {alg!r}, signed")
    yield attack(f"{MESSAGE}.", "1 empty signature")
    yield attack(MESSAGE, "1 no third part")
    yield attack(f"{MESSAGE}.{SIGNATURE}.{SIGNATURE}.{SIGNATURE}", "1 five parts")
    yield attack(f"{GENUINE}.", "1 four parts")


def public_texts() -> Iterator[tuple[str, bytes]]:
    """What a verifier might mistake for an HMAC secret: the public key, in every dress."""
    spki = PublicFormat.SubjectPublicKeyInfo
    pem = PUBLIC.public_bytes(Encoding.PEM, spki)
    jwk = keys.public_jwk(KID, PUBLIC)
    plain = {
        "PEM": pem,
        "PEM without newline": pem.rstrip(),
        "DER": PUBLIC.public_bytes(Encoding.DER, spki),
        "point": PUBLIC.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "OpenSSH (CVE-2022-29217)": PUBLIC.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "JWK (CVE-2026-48526)": json.dumps(jwk).encode(),
        "JWKS": json.dumps({"keys": [jwk]}).encode(),
        "empty (GHSA-r6x4-923q-g947)": b"",
        "kid (GHSA-ffc3-869f-jxw9)": KID.encode(),
        "space (GHSA-p4g4-x82p-q773)": b" ",
    }
    for name, text in plain.items():
        yield name, text
        yield f"base64 of {name}", base64.b64encode(text)
        yield f"BOM and {name} (GHSA-w2cx-738m-mc7w)", b"\xef\xbb\xbf" + text


def item_2_key_confusion() -> Iterator[Any]:
    for name, text in public_texts():
        for alg, digest in (("HS256", "sha256"), ("HS512", "sha512"), ("ES256", "sha512")):
            message = unsigned(HEADER | {"alg": alg}, CLAIMS)
            mac = hmac.digest(text, message.encode(), digest)
            yield attack(f"{message}.{b64(mac)}", f"2 {alg} by {digest} with {name}")


def item_3_own_key() -> Iterator[Any]:
    there = "http://127.0.0.1:9/jwks.json"
    brought = {"jwk": EVIL_JWK, "jku": there, "x5u": there, "x5c": ["MIIB"], "x5t": "AAAA"}
    for name, value in brought.items():
        for kid in (KID, "mine"):
            message = unsigned(HEADER | {"kid": kid, name: value}, CLAIMS)
            yield attack(seal(message, EVIL), f"3 {name}, kid {kid[:4]}")
        yield attack(forge(HEADER | {name: value}), f"3 {name} and our own signature")
    yield attack(seal(MESSAGE, EVIL), "3 our kid, foreign key")
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/", "data:application/json,{}"):
        yield attack(forge(HEADER | {"jku": url}), f"CVE-2026-48522 {url}")


def item_4_kid() -> Iterator[Any]:
    odd = ["../../dev/null", "' OR 1=1--", "k" * 10_000, "k" * 2_000, f"{KID}\0", "", " " + KID]
    for kid in (*odd, 1, None, True, [KID], {"kid": KID}, "other"):
        yield attack(forge(HEADER | {"kid": kid}), f"4 kid {kid!r:.20}")
    yield attack(forge(without(HEADER, "kid")), "4 no kid")


def item_5_ecdsa() -> Iterator[Any]:
    top = 2**256 - 1
    pairs = [(0, 0), (0, S), (R, 0), (ORDER, S), (R, ORDER), (ORDER, ORDER), (1, 1), (top, top)]
    for r, s in (*pairs, (S, R), (R, S ^ 1), (R, ORDER - S ^ 1)):
        yield attack(f"{MESSAGE}.{b64(raw(r, s))}", f"5 r={r:.3g} s={s:.3g}")
    for name, signature in {
        "DER": utils.encode_dss_signature(R, S),
        "a byte less": raw(R, S)[:-1],
        "a byte more": raw(R, S) + b"\0",
        "a zero before": b"\0" + raw(R, S),
        "half": raw(R, S)[:32],
    }.items():
        yield attack(f"{MESSAGE}.{b64(signature)}", f"5 {name}")


def item_6_critical() -> Iterator[Any]:
    members: dict[str, dict[str, Any]] = {
        "crit x (CVE-2026-32597)": {"crit": ["x"], "x": 1},
        "crit b64": {"crit": ["b64"]},
        "crit empty": {"crit": []},
        "b64 true": {"crit": ["b64"], "b64": True},
        "b64 false (CVE-2026-48525)": {"b64": False},
        "cty": {"cty": "JWT"},
        "unknown": {"x": None},
    }
    for name, more in members.items():
        yield attack(forge(HEADER | more), f"6 {name}")
    detached = HEADER | {"crit": ["b64"], "b64": False}
    yield attack(forge(detached, b""), "6 b64 false, empty payload")
    header, payload = unsigned(detached, b"").rstrip("."), json.dumps(CLAIMS)
    unencoded = b64(raw(*rs(f"{header}.{payload}")))
    yield attack(f"{header}..{unencoded}", "6 detached payload")
    yield attack(f"{header}.{payload}.{unencoded}", "6 unencoded payload")
    packed = zlib.compress(json.dumps(CLAIMS).encode(), wbits=-15)
    yield attack(forge(HEADER | {"zip": "DEF"}, packed), "6 zip")
    yield attack(forge(HEADER, GENUINE.encode()), "6 nested")
    yield attack(forge(HEADER, json.dumps(GENUINE).encode()), "6 nested, as a JSON string")
    shell = b64(json.dumps({"alg": "dir", "enc": "A256GCM", "kid": KID}).encode())
    yield attack(f"{shell}..AAAA.{b64(GENUINE.encode())}.AAAA", "6 JWE shell")


def item_7_cross_jwt() -> Iterator[Any]:
    types = ["JWT", "jwt", "rt+jwt", "id+jwt", "at+jwt ", "at+jwt\0", "at+jwt;v=1", "text/at+jwt"]
    for typ in (*types, "", None, 1, ["at+jwt"]):
        yield attack(forge(HEADER | {"typ": typ}), f"7 typ {typ!r}")
    yield attack(forge(without(HEADER, "typ")), "7 no typ")
    others = ["https://issuer.example/", "https://issuer", "https://issuer.example.evil", "", "h"]
    for iss in (*others, "HTTPS://issuer.example", [CLAIMS["iss"]], None):
        yield attack(forge(payload=CLAIMS | {"iss": iss}), f"GHSA-75c5-xw7c-p5pm iss {iss!r}")
    audiences = ["other", "sixfold ", "Sixfold", "", ["sixfold"], ["sixfold", "other"], None]
    for aud in audiences:
        yield attack(forge(payload=CLAIMS | {"aud": aud}), f"7 aud {aud!r}")


def item_8_times() -> Iterator[Any]:
    forms = {
        "string": f'"{NOW}"',
        "Arabic-Indic string": '"١٧٩٠٠٠٠٠٠٠"',
        "Arabic-Indic": "١٧٩٠٠٠٠٠٠٠",
        "float": f"{NOW}.0",
        "exponent": "1e9",
        "1e400": "1e400",
        "NaN": "NaN",
        "Infinity": "Infinity",
        "true": "true",
        "null": "null",
        "list": f"[{NOW}]",
        "negative": "-1",
        "year 10000": "253402300800",
        "300 digits": "9" * 300,
        "2,500 digits": "9" * 2_500,
        "5,000 digits": "9" * 5_000,
        "leading zero": f"0{NOW}",
        "plus": f"+{NOW}",
    }
    for claim in ("exp", "iat", "nbf"):
        for name, value in forms.items():
            yield attack(forge(payload=literal(claim, value)), f"8 {claim} {name}")
    for claim in ("iat", "nbf"):
        yield attack(forge(payload=CLAIMS | {claim: NOW + 31}), f"8 {claim} in the future")
    yield attack(forge(payload=CLAIMS | {"exp": NOW}), "8 exp at iat")


def item_8_claims() -> Iterator[Any]:
    odd: list[Any] = [None, 1, True, [], {}, [USER], {"a": {}}, "", " ", "x" * 36]
    for claim in ("sub", "jti", "sid", "client_id", "scope", "iss", "aud"):
        yield attack(forge(payload=without(CLAIMS, claim)), f"8 no {claim}")
        for value in odd:
            fits = claim in ("client_id", "scope") and isinstance(value, str)
            if not fits:
                token = forge(payload=CLAIMS | {claim: value})
                yield attack(token, f"changelog-2.15.0 {claim} {value!r:.12}")
    for claim in ("exp", "iat"):
        yield attack(forge(payload=without(CLAIMS, claim)), f"8 no {claim}")
    for sub in (
        USER.upper(),
        f"{{{USER}}}",
        f"urn:uuid:{USER}",
        USER.replace("-", ""),
        USER + "\n",
    ):
        yield attack(forge(payload=CLAIMS | {"sub": sub}), f"8 sub {sub!r:.14}")
    for scope in (" ", "a  b", " a", "a ", "a\tb", "a\nb", "a\u00a0b", 'a"', "\\"):
        yield attack(forge(payload=CLAIMS | {"scope": scope}), f"8 scope {scope!r}")


def item_9_encoding() -> Iterator[Any]:
    header, payload, signature = GENUINE.split(".")
    for name, token in {
        "= after the signature": f"{GENUINE}=",
        "== that completes the group (GHSA-hxm8-2xgr-2p9m)": f"{GENUINE}==",
        "==== after the signature": f"{GENUINE}====",
        "padded header": f"{header}{'=' * (-len(header) % 4)}=.{payload}.{signature}",
        "padded payload, signed so": seal(unsigned(HEADER, CLAIMS | {"p": "x"}) + "=="),
        "standard alphabet": forge(payload=CLAIMS | {"p": "?~?~>>"}).replace("_", "/"),
        "space before": f" {GENUINE}",
        "space after": f"{GENUINE} ",
        "newline after": f"{GENUINE}\n",
        "newline inside": f"{header}\n.{payload}.{signature}",
        "NUL after": f"{GENUINE}\0",
        "full-width letter": f"{GENUINE[:-1]}Ａ",
        "lone surrogate": f"{GENUINE}\ud800",
        "Bearer": f"Bearer {GENUINE}",
        "empty parts": "..",
        "empty": "",
        "1 MB": forge(payload=CLAIMS | {"p": "x" * 1_000_000}),
        "1 MB of dots": "." * 1_000_000,
    }.items():
        yield attack(token, f"9 {name}")
    last = ALPHABET[ALPHABET.index(signature[-1]) + 1]
    yield attack(f"{GENUINE[:-1]}{last}", "9 unused bits of the signature")
    for unit in ("utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-8-sig"):
        head, body = json.dumps(HEADER).encode(unit), json.dumps(CLAIMS).encode(unit)
        yield attack(forge(head), f"9 header in {unit}")
        yield attack(forge(payload=body), f"9 payload in {unit}")


def item_9_json() -> Iterator[Any]:
    body, head = json.dumps(CLAIMS)[1:-1], json.dumps(HEADER)[1:-1]
    for name, payload in {
        "the same claim twice": f'{{"sub": "{USER}", {body}}}',
        "the same claim twice, escaped": f'{{"\\u0073ub": "{USER}", {body}}}',
        "the same name twice, deep inside": f'{{{body}, "x": [{{"a": 1, "a": 1}}]}}',
        "lone surrogate": f'{{{body}, "x": "\\ud800"}}',
        "lone surrogate in a name": f'{{{body}, "\\udfff": 1}}',
        "U+0000": f'{{{body}, "x": "\\u0000"}}',
        "1,300 levels (GHSA-8wjv-2p76-3863)": f'{{{body}, "x": {"[" * 1_300 + "]" * 1_300}}}',
        "100,000 levels": "[" * 100_000,
        "NaN in an unknown claim": f'{{{body}, "x": NaN}}',
        "trailing comma": f"{{{body},}}",
        "two values": f"{{{body}}} {{}}",
        "list": f"[{{{body}}}]",
        "null": "null",
        "no JSON (GHSA-w6j9-cwv2-h6wq)": "\x00\x01",
        "nothing": "",
    }.items():
        yield attack(forge(payload=payload.encode()), f"9 payload: {name}")
    for name, header in {
        "alg twice": f'{{"alg": "none", {head}}}',
        "kid twice": f'{{{head}, "kid": "{KID}"}}',
        "lone surrogate": f'{{{head}, "x": "\\ud800"}}',
        "1,300 levels": f'{{{head}, "x": {"[" * 1_300 + "]" * 1_300}}}',
        "list": f"[{{{head}}}]",
        "nothing": "",
    }.items():
        yield attack(forge(header=header.encode()), f"9 header: {name}")
    yield attack(forge(payload=b'{"sub": "\xff"}'), "9 payload: no UTF-8")
    yield attack(forge(header=b"\xff"), "9 header: no UTF-8")


def advisories() -> Iterator[Any]:
    for alg in (
        "ES384",
        "ES256K",
        "RS256",
        "PS256",
        "EdDSA",
        "es256",
        "ES256 ",
        1,
        None,
        ["ES256"],
    ):
        yield attack(forge(HEADER | {"alg": alg}), f"CVE-2026-48523 alg {alg!r}")
    yield attack(forge(without(HEADER, "alg")), "CVE-2026-48523 no alg")
    # The key of CVE-2017-11424 was RSA in PKCS1; SEC1's compressed point is its nearest kin here.
    point = PUBLIC.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    message = unsigned(HEADER | {"alg": "HS256"}, CLAIMS)
    mac = hmac.digest(point, message.encode(), "sha256")
    yield attack(f"{message}.{b64(mac)}", "CVE-2017-11424 point as secret")
    digest = hashlib.sha512(message.encode()).digest()
    yield attack(f"{message}.{b64(digest)}", "GHSA-pxh4-856f-4h89 no secret at all")


ATTACKS = [
    *item_1_none(),
    *item_2_key_confusion(),
    *item_3_own_key(),
    *item_4_kid(),
    *item_5_ecdsa(),
    *item_6_critical(),
    *item_7_cross_jwt(),
    *item_8_times(),
    *item_8_claims(),
    *item_9_encoding(),
    *item_9_json(),
    *advisories(),
]


@pytest.mark.parametrize("token", ATTACKS)
def test_an_attack_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(POLICY, KEYS, token, NOON)


@pytest.mark.parametrize("token", ATTACKS)
def test_the_key_id_of_an_attack_is_a_text_or_none(token: str) -> None:
    assert isinstance(tokens.key_id(token), str | None)


def test_but_for_the_attack_the_token_verifies() -> None:
    assert tokens.verify(POLICY, KEYS, GENUINE, NOON).user_id == UUID(USER)
    assert tokens.verify(POLICY, KEYS, forge(payload=literal("exp", str(NOW + 600))), NOON)


def test_the_ecdsa_twin_is_another_text_of_the_same_token() -> None:
    """Why nothing may be keyed on a token's text: anyone can make a second one that verifies."""
    assert GENUINE_TWIN != GENUINE
    assert tokens.verify(POLICY, KEYS, GENUINE_TWIN, NOON) == tokens.verify(
        POLICY, KEYS, GENUINE, NOON
    )


def mutations() -> st.SearchStrategy[str]:
    """A genuine token with one stretch replaced, anywhere, by anything."""
    ends = st.integers(0, len(GENUINE))
    filling = st.text(ALPHABET + ".=", max_size=8) | st.text(st.characters(), max_size=3)
    return st.builds(lambda a, b, text: GENUINE[:a] + text + GENUINE[b:], ends, ends, filling)


@given(mutations() | st.text(st.characters()) | st.binary().map(lambda b: b.decode("latin-1")))
@settings(deadline=None, max_examples=500)
def test_nothing_but_the_token_and_its_twin_verifies(token: str) -> None:
    try:
        tokens.verify(POLICY, KEYS, token, NOON)
    except (TokenInvalid, TokenExpired):
        assert token not in (GENUINE, GENUINE_TWIN)
    else:
        assert token in (GENUINE, GENUINE_TWIN)


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_no_signed_bytes_raise_anything_else(header: bytes, payload: bytes) -> None:
    for token in (forge(header, payload), forge(HEADER, payload)):
        with pytest.raises(TokenInvalid):
            tokens.verify(POLICY, KEYS, token, NOON)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(CLAIMS)), VALUES)
@settings(deadline=None, max_examples=300)
def test_no_signed_claim_raises_anything_else(name: str, value: object) -> None:
    try:
        caller = tokens.verify(POLICY, KEYS, forge(payload=CLAIMS | {name: value}), NOON)
    except (TokenInvalid, TokenExpired):
        return

    assert name in ("client_id", "scope", "iat", "exp")
    assert caller.user_id == UUID(USER)
