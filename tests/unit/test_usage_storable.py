"""What a hostile token may carry as a name becomes text that every table, page and terminal line can take."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.texts import NAME_LIMIT, UNKNOWN, sanitize_name, sanitize_text

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Lone surrogates and NUL included: JSON in a token can spell both."""


@given(ANY_TEXT)
def test_a_name_is_short_clean_and_never_empty(text: str) -> None:
    name = sanitize_name(text)
    assert 1 <= len(name) <= NAME_LIMIT
    assert name.encode("utf-8").decode("utf-8") == name
    assert not {unicodedata.category(char) for char in name} & {"Cc", "Cs", "Zl", "Zp"}
    assert name == name.strip()


@given(ANY_TEXT, st.integers(1, 300))
def test_what_is_storable_stays_as_it_is(text: str, limit: int) -> None:
    once = sanitize_text(text, limit)
    assert sanitize_text(once, limit) == once


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=NAME_LIMIT))
def test_an_ordinary_name_is_not_touched(text: str) -> None:
    assert sanitize_name(text) == text


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "\r\n\t", "\u202e", "\u2028 \u00a0"])
def test_nothing_left_is_unknown(text: str) -> None:
    assert sanitize_name(text) == UNKNOWN


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ada\0 Lovelace", "Ada Lovelace"),
        ("  Ada \n", "Ada"),
        ("Ada\r\nforged line", "Adaforged line"),
        ("\u202egnp.exe", "gnp.exe"),
        ("עדה לאבלייס", "עדה לאבלייס"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("x" * 300, "x" * 250),
        ("x" * 249 + " y", "x" * 249),
        ("\0" * 400 + "Ada", "Ada"),
        ("=cmd|' /C calc'!A0", "=cmd|' /C calc'!A0"),
        ("'; DROP TABLE api_usage; --", "'; DROP TABLE api_usage; --"),
        ("a\ud83d", "a"),
    ],
)
def test_examples(text: str, name: str) -> None:
    assert sanitize_name(text) == name
