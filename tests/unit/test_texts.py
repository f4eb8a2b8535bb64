"""Names come out of CSV and terminal as they went in, and no spreadsheet calculates any of them."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.texts import csv_row, number, one_line

ANY_TEXT = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from(",;|\t\r\n\"' =+-@＝＋－＠\u200b\ufeff"))
)
SEPARATORS = (",", ";", "\t", "|")


def cells_of(line: str, separator: str) -> list[str]:
    """The cells that a spreadsheet of this separator sees. What follows a closed quote is appended, as Excel does."""
    return [cell for row in csv.reader(io.StringIO(line, newline=""), delimiter=separator) for cell in row]


def calculates(cell: str) -> bool:
    """Whether a spreadsheet would take the cell for a formula: what it skips and how it folds widths is in here."""
    seen = re.sub(r"^[\s\"\u00ad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff]+", "", cell)
    return unicodedata.normalize("NFKC", seen[:1]) in tuple("=+-@") and seen[:1] not in "⁺₊⁼₌⁻₋"


@pytest.mark.parametrize(
    "name",
    [
        "山田\u3000太郎",
        "علی\u200cرضا",
        "👩\u200d🔬 Marie",
        "Jean\u00a0Dupont",
        "Müller, Jörg",
        'Ann "Sem" O\'Neil',
        "\u05d0\u200f (a)",
        "試料\u3000５.png",
        "Anne-Marie",
        "a=b; c",
        "x + y",
    ],
)
def test_a_name_is_whole_in_csv_and_terminal(name: str) -> None:
    assert next(csv.reader([csv_row([name])])) == [name]
    assert one_line(name) == name


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@a", "'@a"),
        ("-3 kV.png", "'-3 kV.png"),
        ("  =1", "'  =1"),
        ("\t=1", "' =1"),
        ("\r\n=1", "'  =1"),
        ("\u3000＝1", "'\u3000＝1"),
        ("\ufeff=1", "'\ufeff=1"),
        ("Ada;=1+1", "Ada;'=1+1"),
        ("Ada; \u00a0+1", "Ada;' \u00a0+1"),
        ('Ada;"=1', "Ada;'\"=1"),
        ("a,=1", "a,'=1"),
        ("a;;-1;@b", "a;;'-1;'@b"),
        ("Ada\0Lovelace\x1b[2J", "AdaLovelace[2J"),
        ("one\ntwo\u2028three", "one two three"),
        ("\u202egnp.exe\u2066", "gnp.exe"),
    ],
)
def test_only_controls_go_and_formulas_are_marked(text: str, cell: str) -> None:
    assert next(csv.reader([csv_row([text])])) == [cell]


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_no_field_begins_a_formula_whatever_the_separator_is(texts: list[str]) -> None:
    line = csv_row(texts)
    assert line.endswith("\n")
    assert not set(line[:-1]) & set("\n\r\t")
    for separator in SEPARATORS:
        assert not [cell for cell in cells_of(line, separator) if calculates(cell)]


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_without_controls_and_formulas_a_text_is_untouched(texts: list[str]) -> None:
    shown = [text for text in map(one_line, texts) if not re.search(r"[=+\-@＝＋－＠﹦﹢﹣﹫]", text)]
    assert next(csv.reader([csv_row(["x", *shown])])) == ["x", *shown]


@given(st.dictionaries(ANY_TEXT, st.one_of(ANY_TEXT, st.integers(), st.lists(st.floats(allow_nan=False), max_size=2))))
def test_an_object_reads_back_as_it_was_and_calculates_nothing(result: dict[str, object]) -> None:
    line = csv_row([1, result])
    assert json.loads(next(csv.reader([line]))[1]) == result
    for separator in (";", "\t", "|"):
        assert not [cell for cell in cells_of(line, separator)[1:] if calculates(cell)]


def test_numbers_stay_numbers() -> None:
    assert csv_row([-0.5, -3, 1e-9, None, True]) == "-0.5,-3,1e-09,,True\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_000_000 / 16_666, "60"),
        (60, "60"),
        (0.5, "0.5"),
        (1 / 3, "0.333"),
        (12.5, "12.5"),
        (50_000_000 / 2**20, "47.7"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (2_500_000, "2,500,000"),
        (0, "0"),
    ],
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert number(value) == text
