"""File names from a sender's file name or URL, made safe for headers, paths, shells and logs."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote, urlsplit

NAME_MAX: Final = 100
"""Most characters of a made name, as for every output of a job."""
UNNAMED: Final = "image"
LAST: Final = 1000
"""Most characters of a given name that are looked at, from its end."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_EXTENSION: Final = re.compile(r"(?<=.)\.[A-Za-z0-9]{1,5}$")


def safe_name(given: str, *, prefix: str = "", extension: str | None = None) -> str:
    """`prefix` and the last part of a path, of ASCII letters, digits, `.`, `_` and `-`, at most NAME_MAX characters.

    Accents are dropped, other characters become `_`. A name of nothing else becomes `image`. `extension` replaces the
    name's own.
    """
    last = re.split(r"[/\\]", given[-LAST:])[-1]
    plain = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    kept = re.sub(r"\.{2,}", ".", _UNSAFE.sub("_", plain)).strip("._-")
    found = _EXTENSION.search(kept)
    stem, own = (kept[: found.start()], found[0].lower()) if found else (kept, "")
    ending = own if extension is None else f".{extension}"
    stem = stem[: NAME_MAX - len(prefix) - len(ending)].strip("._-")
    return f"{prefix}{stem or UNNAMED}{ending}"


def name_in_url(url: str) -> str:
    """The last part of a URL's path, decoded; empty if there is none."""
    try:
        return unquote(urlsplit(url).path.rpartition("/")[2])
    except ValueError:
        return ""
