"""Text made storable before it is stored: what PostgreSQL refuses or a report line would trip over is taken out.

A name is shown and never compared (the principal's id tells people apart), so taking characters out is harmless.
"""

from __future__ import annotations

from unicodedata import category

UNKNOWN = "<unknown>"
NAME_LIMIT = 250
"""Characters of the column `username`."""

_REMOVED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters with NUL and line ends, lone surrogates, line and paragraph separators."""
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Controls that turn the reading direction of the text after them: one name could disguise a whole line."""


def storable(text: str, limit: int) -> str:
    """`text` without control characters and lone surrogates, trimmed, at most `limit` characters; may be empty."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(char for char in text if category(char) not in _REMOVED and char not in _DIRECTION)
    return text.strip()[:limit].rstrip()


def storable_name(text: str) -> str:
    """A person's or group's name as the tables take it; `<unknown>` where nothing is left of it."""
    return storable(text, NAME_LIMIT) or UNKNOWN
