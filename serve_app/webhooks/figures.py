"""What metrics say of the webhooks, in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.webhooks.keys import key

OUTCOMES: Final = ("delivered", "failed", "dropped")


@dataclass(frozen=True, slots=True)
class WebhookFigures:
    """All webhooks together."""

    ended: Mapping[str, int]
    """By outcome, since this Redis was new. `dropped`: a queue was full, so that nothing was sent."""
    waiting: int
    oldest_s: float
    """Age of the delivery that has waited longest; one to a dead receiver waits for days."""
    late_s: float
    """How long the next one, or the next event, has been due: above seconds no gateway sends."""


class Figures:
    """Asks Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def now(self) -> WebhookFigures:
        """The figures at this moment. Raises `TrackerUnavailable` when Redis is away."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.time()
                pipeline.hmget(key("totals"), OUTCOMES)
                pipeline.zcard(key("waiting"))
                pipeline.zrange(key("waiting"), 0, 0, withscores=True)
                pipeline.zrange(key("due"), 0, 0, withscores=True)
                pipeline.xrange(key("events"), count=1)
                (seconds, microseconds), counted, waiting, oldest, due, events = await pipeline.execute()
        now_s = seconds + microseconds / 1e6
        written = [(entry, int(entry.split(b"-")[0])) for entry, _ in events]
        return WebhookFigures(
            ended={name: int(number or 0) for name, number in zip(OUTCOMES, counted, strict=True)},
            waiting=waiting,
            oldest_s=_age_s(oldest, now_s),
            late_s=max(_age_s(due, now_s), _age_s(written, now_s)),
        )


def _age_s(first: Sequence[tuple[Any, float]], now_s: float) -> float:
    """Since the milliseconds that the first entry stands for; 0 without one and for times to come."""
    return max(0.0, now_s - first[0][1] / 1000) if first else 0.0
