"""Keys in the job Redis that no table of the project has, or break their row: its end, owner or bound."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis import Redis
from stray_rules import BOUNDS, OWNED, size

SERVE_APP: Final = Path(__file__).resolve().parents[1] / "serve_app"
ROW: Final = re.compile(r"^\| `?([a-z][^ |`]*)`? \|(.*)\|$", re.MULTILINE)
ALWAYS_ENDS: Final = re.compile(
    r"a minute after|at midnight|\d+ (?:s|h|days) after|(?:HEARTBEAT|LOG_TTL)_S after the last"
)
"""How the last column begins for a key that has a TTL as long as it is there."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row of a table: the names of its keys, and whether each must have a TTL."""

    template: str
    names: re.Pattern[str]
    ends: bool


def key_rows() -> list[KeyRow]:
    """The rows of every module `keys.py` whose docstring is a table of keys."""
    tables = [str(module.__doc__) for module in _modules() if "| key |" in str(module.__doc__)]
    assert len(tables) >= 3, "the tables of keys are not where they were"
    return [_row(*found) for table in tables for found in ROW.findall(table) if found[0] != "key"]


def strays(client: Redis, rows: Sequence[KeyRow]) -> list[str]:
    """What is wrong with the keys that are there, a line each. Looked at twice: a running service changes them."""
    suspects = [name for name in client.scan_iter(count=1000) if any(_wrong(client, name, rows))]
    return [line for name in suspects if client.exists(name) for line in _wrong(client, name, rows)]


def _modules() -> Iterator[Any]:
    for path in sorted(SERVE_APP.rglob("keys.py")):
        yield importlib.import_module(".".join(path.relative_to(SERVE_APP.parent).with_suffix("").parts))


def _row(template: str, rest: str) -> KeyRow:
    names = re.sub(r"\\{\w+\\}", "[^:]+", re.escape(template))
    return KeyRow(template, re.compile(names), bool(ALWAYS_ENDS.match(rest.split("|")[-1].strip())))


def _wrong(client: Redis, name: bytes, rows: Sequence[KeyRow]) -> Iterator[str]:
    text = name.decode(errors="backslashreplace")
    found = [row for row in rows if row.names.fullmatch(text)]
    if not found:
        yield f"{text}: no table has it"
    if any(row.ends for row in found) and client.ttl(name) == -1:
        yield f"{text}: it stays for ever, against its row"
    for template in {row.template for row in found}:
        if template in OWNED and not OWNED[template](client, text, text.partition(":")[2]):
            yield f"{text}: it is there without what it is there for, or longer"
        if template in BOUNDS and size(client, text) > BOUNDS[template]:
            yield f"{text}: it holds more than {BOUNDS[template]}"
