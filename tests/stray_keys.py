"""Keys in the job Redis that no table of the project has, or that stay longer than their row says."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis import Redis

SERVE_APP: Final = Path(__file__).resolve().parents[1] / "serve_app"
ROW: Final = re.compile(r"^\| `?([a-z][^ |`]*)`? \|(.*)\|$", re.MULTILINE)
ALWAYS_ENDS: Final = re.compile(r"a minute after|at midnight|\d+ (?:h|days) after|HEARTBEAT_S after")
"""How the last column begins for a key that has a TTL as long as it is there."""
ENDED: Final = {b"COMPLETED", b"FAILED", b"CANCELLED"}


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
    """What is wrong with the keys that are there, a line each."""
    return [line for name in client.scan_iter(count=1000) for line in _wrong(client, name, rows)]


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
    if not (any(row.ends for row in found) or _is_ended_job(client, text)):
        return
    if client.ttl(name) == -1:
        yield f"{text}: it stays for ever, against its row"


def _is_ended_job(client: Redis, name: str) -> bool:
    """A job that ended has JOB_TTL; one that is kept as dead is bounded by its set instead."""
    if not name.startswith("job:"):
        return False
    status, model = client.hmget(name, "status", "model")
    return status in ENDED and client.zscore(f"dead:{(model or b'').decode()}", name.removeprefix("job:")) is None
