"""Endpoints and deliveries as Redis keeps them, and how they are read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.contracts import Json

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver that a user has registered. Times in ms; the secrets are left out of its text."""

    id: str
    owner: str
    url: str
    events: tuple[str, ...]
    secrets: tuple[str, ...]
    """The newest first."""
    created_at: int
    older_secret_until: int | None
    disabled_at: int | None
    disabled_why: str
    delivered_at: int | None
    dropped: int
    """Events that found its queue, or that of the house, full."""
    slow: bool
    """True when the last attempt took long."""

    def __repr__(self) -> str:
        return f"Endpoint({self.id})"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint, or there."""

    id: str
    endpoint: str
    type: str
    at: int
    """When what it tells happened."""
    status: str
    """`waiting`, `delivered` or `failed`."""
    tries: int
    """Attempts since it was last begun: a redelivery starts the schedule again."""
    job_id: str
    job_status: str
    model: str
    attempts: tuple[Json, ...]
    """The last ones, the newest last: when, status or error, and how long it took."""
    next_attempt_at: int | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours to attempt, and where to."""

    token: str
    endpoint: Endpoint
    delivery: Delivery


def read_endpoint(endpoint: str, fields: Fields) -> Endpoint:
    """The endpoint that a hash tells, with the secrets that sign now."""
    until = _number(fields.get("older_until"))
    rotating = until is not None and time.time() * 1000 < until
    return Endpoint(
        id=endpoint,
        owner=fields["owner"],
        url=fields["url"],
        events=tuple(fields["events"].split(",")),
        secrets=(fields["secret"], *([fields["older_secret"]] if rotating else [])),
        created_at=int(fields["created_at"]),
        older_secret_until=until if rotating else None,
        disabled_at=_number(fields.get("disabled_at")),
        disabled_why=fields.get("disabled_why", ""),
        delivered_at=_number(fields.get("delivered_at")),
        dropped=int(fields.get("dropped", 0)),
        slow="slow" in fields,
    )


def read_delivery(delivery: str, fields: Fields, next_attempt_at: int | None = None) -> Delivery:
    """The delivery that a hash tells."""
    attempts = sorted((int(name.removeprefix("attempt:")), text) for name, text in fields.items() if ":" in name)
    return Delivery(
        id=delivery,
        endpoint=fields["endpoint"],
        type=fields["type"],
        at=int(fields["at"]),
        status=fields["status"],
        tries=int(fields["tries"]),
        job_id=fields.get("job_id", ""),
        job_status=fields.get("job_status", ""),
        model=fields.get("model", ""),
        attempts=tuple(json.loads(text) for _, text in attempts),
        next_attempt_at=next_attempt_at,
    )


def pairs(reply: Iterable[bytes]) -> dict[str, str]:
    """A flat list of names and values, as scripts give hashes."""
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def texts(fields: Mapping[Any, Any]) -> dict[str, str]:
    """A hash as redis-py gives it."""
    return {name.decode(): value.decode() for name, value in fields.items()}


def _number(text: str | None) -> int | None:
    return int(text) if text else None
