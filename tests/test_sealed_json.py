"""A sealed object is what was written, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.sealed_json import sealed, unsealed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text().filter(lambda key: key != "seal"), VALUES, max_size=4)


@given(content=OBJECTS, indent=st.sampled_from([None, 1]))
def test_what_was_written_is_read(content: dict[str, object], indent: int | None) -> None:
    assert unsealed(sealed(content, indent)) == content


@given(content=OBJECTS, data=st.data())
def test_any_other_byte_is_noticed_or_means_the_same(content: dict[str, object], data: st.DataObject) -> None:
    text = bytearray(sealed(content).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))
    try:
        found = unsealed(bytes(text))
    except ValueError:  # UnicodeDecodeError is one
        return
    assert found == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ('{"step": 3', "is cut off"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is not what raylora wrote"),
        ('{"step": 3}', "has been altered"),
        ('{"step": 3, "seal": 7}', "has been altered"),
    ],
)
def test_each_damage_has_its_word(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unsealed(text)
