"""Numbers and text for output: readable numbers, and untrusted text made safe for one line of a terminal or table, for
a spreadsheet and for PostgreSQL.

Formula injection: https://owasp.org/www-community/attacks/CSV_Injection. Direction overrides: CVE-2021-42574.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Final
from unicodedata import category

from serve_app.contracts import Json

BOM: Final = "\ufeff"
"""Optional start of a CSV, so that Excel reads it as UTF-8."""
BOM_HELP: Final = "Begin a CSV with a byte order mark, by which Excel knows UTF-8."
BOM_WITHOUT_CSV: Final = "bom: only a CSV may begin with a byte order mark; ask for format=csv, or leave bom out."

UNKNOWN: Final = "<unknown>"
NAME_LIMIT: Final = 250
"""Characters of the column `username`."""

_REMOVED: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters including NUL and line ends, lone surrogates, line and paragraph separators."""
_OVERRIDES: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates change the direction of the following text, so that one name could disguise a
whole line; no name needs them. Marks (U+200E, U+200F, U+061C) and joiners (U+200C, U+200D) occur in names and stay."""
_BREAKS: Final = str.maketrans(dict.fromkeys("\t\n\v\f\r\x85\u2028\u2029", " "))

_FORMULA: Final = re.compile(
    # Where a cell may begin: the field's start, or behind a separator of any locale's CSV ...
    r"(^|[,;|\t\r\n])"
    # ... then what a spreadsheet skips: blanks, and quotes, which end a quoted cell of another separator's reading ...
    r"((?:[^\S\t\r\n]|[\"\u00ad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff])*)"
    # ... then what it calculates, also in the wide and small forms that East Asian editions take for the same.
    r"(?=[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b])"
)
_JSON_FORMULA: Final = re.compile(r'([;|](?:\\"|\s)*)([=+\-@])')


def number(value: float) -> str:
    """`value` as people write it: three digits or the whole number, with thousands separators, without an exponent."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def without_controls(text: str) -> str:
    """`text` without control characters, lone surrogates, line separators and direction overrides."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if category(char) not in _REMOVED and char not in _OVERRIDES)


def one_line(text: str) -> str:
    """`text` for one line of a terminal or table: breaks become blanks, other controls are removed."""
    return without_controls(text.translate(_BREAKS))


def csv_row(cells: Sequence[str | float | Json | None], line_end: str = "\n") -> str:
    """One line of CSV (RFC 4180). Numbers stay numbers; an object is JSON in one cell.

    Text is put on one line. Where a spreadsheet would see a formula, at the start of a field or after a separator
    inside it (an Excel that splits at semicolons may read a comma file), an apostrophe marks it as text."""
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: str | float | Json | None) -> str | float | None:
    if isinstance(value, str):
        return _FORMULA.sub(r"\1'\2", one_line(value))
    if isinstance(value, dict):
        return _json_cell(value)
    return value


def _json_cell(value: Json) -> str:
    """JSON with formula characters escaped: it reads back as the same object, which an apostrophe would change."""
    return _JSON_FORMULA.sub(lambda found: f"{found[1]}\\u{ord(found[2]):04x}", json.dumps(value))


def sanitize_text(text: str, limit: int) -> str:
    """`text` as PostgreSQL and a report line take it: without control characters and lone surrogates, trimmed, at most
    `limit` characters; may be empty."""
    return without_controls(text).strip()[:limit].rstrip()


def sanitize_name(text: str) -> str:
    """A user's or group's name as the usage tables take it; `<unknown>` where nothing is left of it.

    Names are shown and never compared (the principal's id identifies a user), so removing characters is harmless.
    """
    return sanitize_text(text, NAME_LIMIT) or UNKNOWN
