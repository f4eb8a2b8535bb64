"""Keys in the job Redis that have no row in `keyspace.py`, or break their row: its TTL, its bound, or the key that they
belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final

from redis import Redis

from serve_app.keyspace import KEYS, Key
from serve_app.settings import Settings

Rule = Callable[[Redis, str, str], bool]
"""Whether a key, of this name and with this last part of its name, is there rightly."""

ENDED: Final = {b"COMPLETED", b"FAILED", b"CANCELLED"}
_DEFAULTS: Final = Settings()


def _has_end(client: Redis, name: str) -> bool:
    return client.ttl(name) != -1


def _job(client: Redis, name: str, job: str) -> bool:
    """A job that ended has JOB_TTL; one that is kept as dead is bounded by its set instead."""
    status, model = client.hmget(name, "status", "model")
    dead = client.zscore(f"dead:{(model or b'').decode()}", job) is not None
    return _has_end(client, name) == (status in ENDED and not dead)


def _input(client: Redis, name: str, job: str) -> bool:
    """It ends by itself, or with a job that has it. The service names it as its job; tests of the scripts may not."""
    return (
        _has_end(client, name)
        or bool(client.exists(f"job:{job}"))
        or any(client.hget(found, "reference") == name.encode() for found in client.scan_iter("job:*", count=1000))
    )


def _batch(client: Redis, name: str, _: str) -> bool:
    return _has_end(client, name) == (client.hget(name, "open") == b"0")


def _items(client: Redis, name: str, batch: str) -> bool:
    return bool(client.exists(f"batch:{batch}")) and _has_end(client, name) == _has_end(client, f"batch:{batch}")


def _jobs_are(status: bytes) -> Rule:
    """Each member of the sorted set is a job in this state."""

    def rule(client: Redis, name: str, _: str) -> bool:
        return all(client.hget(f"job:{job.decode()}", "status") == status for job in client.zrange(name, 0, -1))

    return rule


def _fetches(client: Redis, name: str, _: str) -> bool:
    items: list[tuple[str, ...]] = [item.decode().partition("/")[::2] for item in client.zrange(name, 0, -1)]
    return all(client.hexists(f"items:{batch}", index) for batch, index in items)


def _endpoint(client: Redis, name: str, endpoint: str) -> bool:
    owner = (client.hget(name, "owner") or b"").decode()
    return client.zscore(f"webhooks:{owner}", endpoint) is not None


def _of_endpoint(client: Redis, _: str, endpoint: str) -> bool:
    return bool(client.exists(f"webhook:{endpoint}"))


def _delivery(client: Redis, name: str, delivery: str) -> bool:
    return _has_end(client, name) != (client.zscore("webhook-waiting", delivery) is not None)


OWNED: Final[dict[str, Rule]] = {
    "job:{id}": _job,
    "blob:{id}": _input,
    "wait:{model}:{priority}:{owner}": _jobs_are(b"PENDING"),
    "lease:{model}": _jobs_are(b"PROCESSING"),
    "dead:{model}": _jobs_are(b"FAILED"),
    "batch:{batch}": _batch,
    "items:{batch}": _items,
    "fetch:{owner}": _fetches,
    "fetching": _fetches,
    "webhook:{endpoint}": _endpoint,
    "webhook-queue:{endpoint}": _of_endpoint,
    "webhook-log:{endpoint}": _of_endpoint,
    "webhook-delivery:{id}": _delivery,
}
"""The rule of a row, by its template."""


def _most(key: Key) -> int:
    """The number behind a row's `most`."""
    if isinstance(key.most, int):
        return key.most
    if key.most.isupper():
        return int(getattr(_DEFAULTS, key.most.lower()))
    return int(resolve_name(f"serve_app.{key.most}"))


BOUNDS: Final = {key.template: _most(key) for key in KEYS if key.most}
"""The most that a key of a row may hold, by its template."""

UNBOUNDED: Final = {
    "ring:{model}:{priority}",  # a member for each `wait:`
    "chunks:{model}",  # held to the window by the claim
    "dead-bytes:{model}",
    "ledger:{model}",
    "held-bytes",
    "url-key",
    "stops",
    "fetch-ring",  # a member for each `fetch:`
    "fetches",
    "outbox",  # outcomes stay until PostgreSQL has them
    "webhook-due",  # a member for each endpoint
}
"""Rows without a rule: single counters, and what mirrors another row."""

_SIZES: Final[dict[bytes, str]] = {b"zset": "ZCARD", b"hash": "HLEN", b"stream": "XLEN", b"list": "LLEN"}


def size(client: Redis, name: str) -> int:
    """How many members, fields or entries a key has."""
    command = _SIZES.get(client.type(name))
    found: Any = client.execute_command(command, name) if command else 1
    return int(found)


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
