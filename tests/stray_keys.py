"""Keys in the job Redis that have no row in `keyspace.py`, or break their row: its end, owner or bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from redis import Redis
from stray_rules import BOUNDS, OWNED, size

from serve_app.keyspace import KEYS, Key


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row, and the names of its keys."""

    key: Key
    names: re.Pattern[str]


ROWS: Final = [KeyRow(key, re.compile(re.sub(r"\\{\w+\\}", "[^:]+", re.escape(key.template)))) for key in KEYS]


def rows_of(name: str) -> Sequence[Key]:
    """The rows that have a key of this name."""
    return [row.key for row in ROWS if row.names.fullmatch(name)]


def strays(client: Redis) -> list[str]:
    """What is wrong with the keys that are there, a line each. Looked at twice: a running service changes them."""
    suspects = [name for name in client.scan_iter(count=1000) if any(_wrong(client, name))]
    return [line for name in suspects if client.exists(name) for line in _wrong(client, name)]


def _wrong(client: Redis, name: bytes) -> Iterator[str]:
    text = name.decode(errors="backslashreplace")
    rows = rows_of(text)
    if not rows:
        yield f"{text}: no table has it"
    for row in rows:
        template = row.template
        if row.ends and client.ttl(name) == -1:
            yield f"{text}: it stays for ever, against its row"
        if template in OWNED and not OWNED[template](client, text, text.partition(":")[2]):
            yield f"{text}: it is there without what it is there for, or longer"
        if template in BOUNDS and size(client, text) > BOUNDS[template]:
            yield f"{text}: it holds more than {BOUNDS[template]}"
