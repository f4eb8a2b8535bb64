"""The header Prefer (RFC 7240), of which one preference is known: `wait`. What is malformed is left unread."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

WAIT_MAX_S: Final = 20
"""Below the minute that proxies on the way usually allow an answer that has not begun."""
_PREFERENCE: Final = re.compile(
    r"""\s*([!#$%&'*+.^`|~\w-]+)\s*(?:=\s*([^\s",;]*|"[^"]*"))?\s*(?:;(?:"[^"]*"|[^",])*)?"""
)
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


def wait_of(values: Iterable[str]) -> int | None:
    """The seconds of `wait` in the header's values, at most `WAIT_MAX_S`; None without one. The first `wait` counts."""
    for part in _parts(",".join(values)):
        preference = _PREFERENCE.fullmatch(part)
        if preference and preference[1].lower() == "wait":
            seconds = (preference[2] or "").strip('"')
            return min(int(seconds), WAIT_MAX_S) if _SECONDS.fullmatch(seconds) else None
    return None


def _parts(text: str) -> list[str]:
    """Split at commas outside of quotes. A quote without its end makes the whole malformed."""
    return [] if text.count('"') % 2 else re.findall(r'(?:"[^"]*"|[^,"])+', text)
