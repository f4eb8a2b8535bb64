"""The Lua scripts, each behind the same lines: keys, numbers, allowed changes, then what they share.

A script's file is the body of a function, so that wherever it returns, what it changed is published after it.
"""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from serve_app.contracts import Priority
from serve_app.jobs import limits
from serve_app.jobs.states import ALLOWED
from serve_app.lua import key_functions, read_script
from serve_app.settings import Settings

SHARED: Final = ("batch", "common", "accept")
"""What stands before every script, in this order."""


class Scripts:
    """Runs a script by its file's name. Sent by hash; a server that forgot the text is given it again."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._head = _head(settings)
        self._scripts: dict[str, AsyncScript] = {}

    async def run(self, name: str, *arguments: str | int | float | bytes) -> Any:
        """The script's reply."""
        script = self._scripts.get(name)
        if script is None:
            text = self._head + _body(name)
            script = self._scripts[name] = self._redis.register_script(f"{key_functions(text)}\n{text}")
        return await script(args=arguments)


def _body(name: str) -> str:
    text = read_script(__package__, name)
    return f"\nlocal function run()\n{text}\nend\nlocal reply = run()\npublish_changes()\nreturn reply"


def _head(settings: Settings) -> str:
    numbers = {
        "VERSION": limits.RECORD_VERSION,
        "PLAIN_VERSION": limits.PLAIN_VERSION,
        "MAX_STRIKES": limits.MAX_STRIKES,
        "MAX_DELIVERIES": limits.MAX_DELIVERIES,
        "SUSPECT_AFTER": limits.SUSPECT_AFTER,
        "IDEMPOTENCY_TTL_S": limits.IDEMPOTENCY_TTL_S,
        "IDEMPOTENCY_MAX": limits.IDEMPOTENCY_MAX,
        "IDEMPOTENCY_SWEEP": limits.IDEMPOTENCY_SWEEP,
        "LISTED_MAX": limits.LISTED_MAX,
        "LISTED_TTL_S": limits.LISTED_TTL_S,
        "PAGE_LOOKS": limits.PAGE_LOOKS,
        "REMOVED_TTL_S": limits.REMOVED_TTL_S,
        "ACTIVE_MS": int(limits.ACTIVE_S * 1000),
        "HEARTBEAT_MS": int(limits.HEARTBEAT_S * 1000),
        "FETCH_LEASE_MS": int(limits.FETCH_LEASE_S * 1000),
        "FETCH_FAULTS_MAX": limits.FETCH_FAULTS_MAX,
        "LEASE_MS": int(settings.lease_seconds * 1000),
        "JOB_TTL_S": settings.job_ttl,
        "QUEUE_MAX_JOBS": settings.queue_max_jobs,
        "QUEUE_MAX_BYTES": settings.queue_max_bytes,
        "WEBHOOK_EVENTS_MAX": limits.WEBHOOK_EVENTS_MAX,
        "DEAD_MAX_JOBS": settings.dead_max_jobs,
        "DEAD_MAX_BYTES": settings.queue_max_bytes // limits.DEAD_BYTES_SHARE,
    }
    return "\n".join(
        [
            *(f"local {name} = {number}" for name, number in numbers.items()),
            f"local PRIORITIES = {{{', '.join(repr(priority.value) for priority in Priority)}}}",
            f"local ALLOWED = {{{', '.join(_lua_changes())}}}",
            *(read_script(__package__, name) for name in SHARED),
        ]
    )


def _lua_changes() -> list[str]:
    return [f"{before} = {{{', '.join(f'{after} = true' for after in sorted(ALLOWED[before]))}}}" for before in ALLOWED]
