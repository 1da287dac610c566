"""Usernames: all spellings of one name are one name, and what is no name is refused quietly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precis_i18n import get_profile

from service.domain import usernames
from service.domain.errors import InvalidArgument


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        pytest.param("ann", "ann", id="as it is"),
        pytest.param("Ann.SMITH", "ann.smith", id="lower case"),
        pytest.param("ａｎｎ１", "ann1", id="full width"),
        pytest.param("e\u0301lodie", "élodie", id="NFC"),
        pytest.param("Straße", "straße", id="ß is not ss"),
        pytest.param("\u212aim", "kim", id="Kelvin sign"),
        pytest.param("李雷", "李雷", id="no case"),
        pytest.param("%_\\'\";--", "%_\\'\";--", id="what SQL would mistake"),
        pytest.param("a" * 64, "a" * 64, id="64 code points"),
        pytest.param("e\u0301" * 64, "é" * 64, id="64 code points after mapping"),
    ],
)
def test_a_name_has_one_canonical_form(spelling: str, name: str) -> None:
    assert usernames.canonical(spelling) == name


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param("", id="empty"),
        pytest.param(" ", id="space"),
        pytest.param("ann smith", id="space inside"),
        pytest.param("ann\u00a0smith", id="no-break space"),
        pytest.param("ann\n", id="newline"),
        pytest.param("ann\x00", id="NUL"),
        pytest.param("ann\u200d", id="joiner out of context"),
        pytest.param("ann\u202e", id="direction override"),
        pytest.param("ann\u05d0", id="bidi rule"),
        pytest.param("\ufb00", id="ligature"),
        pytest.param("😀", id="symbol"),
        pytest.param("\u0378", id="unassigned"),
        pytest.param("\ue000", id="private use"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("a" * 65, id="65 code points"),
        pytest.param("\U00010428" * 64, id="256 bytes"),
        pytest.param("a" * 10_000, id="10,000 characters"),
        pytest.param("a" + "\u0301" * 99_999 + "\u0323" * 99_999, id="200,000 accents"),
    ],
)
def test_what_is_no_name_is_refused_without_repeating_it(spelling: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        usernames.canonical(spelling)

    (violation,) = caught.value.violations
    assert (violation.field, violation.reason) == ("username", "USERNAME_INVALID")
    assert spelling not in violation.description or spelling in ("", " ")


# Plain text() is nearly always refused; letters make names that PRECIS maps.
NAMES = st.text(st.characters(categories=["L", "M", "N"]), max_size=70)


@given(NAMES | st.text(st.characters(), max_size=300))
@settings(deadline=None)
def test_every_text_has_a_stable_canonical_form_or_is_refused(spelling: str) -> None:
    try:
        name = usernames.canonical(spelling)
    except InvalidArgument:
        return

    assert usernames.canonical(name) == name
    assert 0 < len(name) <= 64
    assert len(name.encode()) <= 255


@pytest.mark.parametrize("code", range(128))
def test_what_is_known_of_ascii_is_what_the_rfc_says(code: int) -> None:
    """Alone, and between others: it goes past the library."""
    for spelling in (chr(code), f"aZ{chr(code)}9"):
        try:
            said = get_profile("UsernameCaseMapped").enforce(spelling)
        except UnicodeError:
            with pytest.raises(InvalidArgument):
                usernames.canonical(spelling)
        else:
            assert usernames.canonical(spelling) == said
