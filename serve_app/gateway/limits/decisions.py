"""What admins decide on single users while the service runs: blocks, and other rates than everybody's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import AuditEvent, Json
from serve_app.errors import DecisionsFull, DecisionUnknown
from serve_app.gateway.admin.actor import Actor
from serve_app.gateway.limits.keys import BLOCKS, DECISIONS_MAX, OVERRIDES
from serve_app.keyspace import OUTBOX
from serve_app.lua import read_script

TABLES: Final[Mapping[str, str]] = {"block": BLOCKS, "override": OVERRIDES}

Sort = Literal["block", "override"]


class Decisions:
    """Blocks and overrides in Redis. Each change and its audit event happen together or not at all.

    Every method raises `TrackerUnavailable` when Redis is away.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._decide = redis.register_script(read_script(__package__, "decide"))

    async def keep(self, sort: Sort, owner: str, decision: Json, actor: Actor) -> Json:
        """Put a decision into force, in place of the last one; as it is kept. Raises `DecisionsFull`."""
        event = actor.event(sort, owner, decision)
        kept = actor.signed(decision, event)
        if await self._change(sort, owner, json.dumps(kept), event) == b"full":
            raise DecisionsFull(f"There are {DECISIONS_MAX} already. Take some back that are no longer needed.")
        return {"principal_id": owner, **kept}

    async def remove(self, sort: Sort, owner: str, actor: Actor) -> None:
        """Take a decision back. Raises `DecisionUnknown`."""
        event = actor.event(f"remove-{sort}", owner)
        if await self._change(sort, owner, "", event) == b"unknown":
            raise DecisionUnknown(f"There is no {sort} of this principal id.")

    async def listed(self, sort: Sort) -> list[Json]:
        """All decisions in force, the newest first."""
        with redis_errors():
            found: Any = await self._redis.hgetall(TABLES[sort])
        kept = [{"principal_id": owner.decode(), **json.loads(decision)} for owner, decision in found.items()]
        return sorted(kept, key=lambda decision: -decision["at"])

    async def _change(self, sort: Sort, owner: str, decision: str, event: AuditEvent) -> bytes:
        args = (DECISIONS_MAX, owner, decision, *event.pairs())
        with redis_errors():
            done: bytes = await self._decide(keys=(TABLES[sort], OUTBOX()), args=args)
        return done
