"""Stops: an admin lets no more jobs in, of all models or of one, or lets a model's jobs wait. Accepted jobs stay.

`submit.lua` and `claim.lua` look at them, so a stop is in force at every gateway once it is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import AuditEvent, Json
from serve_app.errors import StopUnknown
from serve_app.jobs.keys import key
from serve_app.jobs.scripts import Scripts
from serve_app.settings import Settings

Stopped = Literal["intake", "work"]


@dataclass(frozen=True, slots=True)
class StopName:
    """What is stopped: `intake` (no jobs are taken in) or `work` (none are begun); of a model, or of all (intake)."""

    what: Stopped
    model: str | None = None

    def __str__(self) -> str:
        return f"{self.what}:{self.model}" if self.model else self.what


class Stops:
    """The stops in force. Every method raises `TrackerUnavailable` when Redis is away."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, settings)

    async def stop(self, name: StopName, said: Json, event: AuditEvent) -> None:
        """Put a stop into force, in place of the last one. `said`: `message` and `retry_after_s` for who is refused."""
        with redis_errors():
            await self._scripts.run("stop", str(name), json.dumps(said), *event.pairs())

    async def resume(self, name: str, event: AuditEvent) -> None:
        """Take a stop back. Raises `StopUnknown`."""
        what, _, model = name.partition(":")
        with redis_errors():
            done = await self._scripts.run("resume", name, model if what == "work" else "", *event.pairs())
        if not done:
            raise StopUnknown("There is no stop of this name in force. GET /api/v1/admin/stops lists them.")

    async def listed(self) -> dict[str, Json]:
        """All stops in force, by name: what was said of each."""
        with redis_errors():
            found: Any = await self._redis.hgetall(key("stops"))
        return {name.decode(): json.loads(said) for name, said in sorted(found.items())}

    async def of_models(self, models: Sequence[str]) -> dict[str, list[Stopped]]:
        """What is stopped of each of these models; the house's stop holds for all."""
        stops, whats = await self.listed(), get_args(Stopped)
        return {model: [what for what in whats if {what, f"{what}:{model}"} & stops.keys()] for model in models}
