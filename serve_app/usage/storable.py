"""Text made storable before it is stored: what PostgreSQL refuses or a report line would trip over is taken out.

A name is shown and never compared (the principal's id tells people apart), so taking characters out is harmless.
"""

from __future__ import annotations

from serve_app.texts import without_controls

UNKNOWN = "<unknown>"
NAME_LIMIT = 250
"""Characters of the column `username`."""


def storable(text: str, limit: int) -> str:
    """`text` without control characters and lone surrogates, trimmed, at most `limit` characters; may be empty."""
    return without_controls(text).strip()[:limit].rstrip()


def storable_name(text: str) -> str:
    """A person's or group's name as the tables take it; `<unknown>` where nothing is left of it."""
    return storable(text, NAME_LIMIT) or UNKNOWN
