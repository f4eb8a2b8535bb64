"""What was accepted first with an idempotency key: a job or a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.errors import IdempotencyKeyReused
from serve_app.jobs.keys import key
from serve_app.jobs.records import Idempotency


@dataclass(frozen=True, slots=True)
class First:
    """The id that the key's first request was answered with, and when it was accepted, in ms."""

    id: str
    at: int


def first_of(asked: Idempotency | None, found: Sequence[bytes]) -> First:
    """What Redis remembers of the key: fingerprint, id, time. Raises IdempotencyKeyReused for another request's."""
    fingerprint, first, at = found
    if asked is None or asked.fingerprint != fingerprint.decode():
        raise IdempotencyKeyReused("This Idempotency-Key came with another request before. Take a new one.")
    return First(first.decode(), int(at))


async def earlier(redis: Redis, asked: Idempotency | None) -> First | None:
    """The first with this key, if any, before anything is stored. Raises as `first_of`."""
    if asked is None:
        return None
    with redis_errors():
        found: Any = await redis.hmget(key("idem", hash=asked.hash), "fingerprint", "id", "at")
    return first_of(asked, found) if found[0] else None
