"""The Lua scripts. The same lines stand before each: keys, numbers, allowed changes of state, shared functions.

A script's file is the body of a function, whose parameters are declared by the line `local … = ...`. Its changes are
published after it, wherever it returns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from serve_app.contracts import Priority
from serve_app.jobs import limits
from serve_app.jobs.states import ALLOWED
from serve_app.lua import key_functions, read_script
from serve_app.settings import Settings

SHARED: Final = ("batch", "common", "accept")
"""The files before every script, in this order."""
PARAMETERS: Final = re.compile(r"^local ([\w,\s]+) = \.\.\.$", re.MULTILINE)


class Scripts:
    """Runs a script by its file's name. It is sent by its hash, and as text to a server that does not know the hash."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._head = _head(settings)
        self._loaded: dict[str, tuple[AsyncScript, Sequence[str], bool]] = {}

    async def run(self, name: str, *arguments: str | int | float | bytes) -> Any:
        """The script's reply. Raises TypeError when the number of arguments does not fit its parameters."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        script, parameters, takes_more = self._loaded[name]
        if len(arguments) < len(parameters) or (len(arguments) > len(parameters) and not takes_more):
            declared = ", ".join([*parameters, *(["..."] if takes_more else [])])
            raise TypeError(f"{name}.lua takes ({declared}), not {len(arguments)} arguments")
        return await script(args=arguments)

    def _load(self, name: str) -> tuple[AsyncScript, Sequence[str], bool]:
        """The script, its parameters, and whether it takes further arguments."""
        body = read_script(__package__, name)
        declared = PARAMETERS.search(body)
        text = f"{self._head}\nlocal function run(...)\n{body}\nend\nlocal reply = run(unpack(ARGV))\n"
        text += "publish_changes()\nreturn reply"
        script = self._redis.register_script(f"{key_functions(text)}\n{text}")
        parameters = re.findall(r"\w+", declared[1]) if declared else []
        return script, parameters, body.count("...") > (declared is not None)


def _head(settings: Settings) -> str:
    numbers = {
        "VERSION": limits.RECORD_VERSION,
        "PLAIN_VERSION": limits.PLAIN_VERSION,
        "MAX_STRIKES": limits.MAX_STRIKES,
        "TRANSIENT_TRIES": limits.TRANSIENT_TRIES,
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
