"""Looks at the queue once a second, everything in one script and so at one moment: does the ledger's equation hold?"""

from __future__ import annotations

import asyncio
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from serve_app.contracts import Json, Priority
from serve_app.jobs.keys import KEYS
from serve_app.lua import lua_keys

EVERY_S = 1.0
ANSWER_S = 5.0
LOOK = (
    lua_keys(KEYS)
    + """
local model, waiting, clock = ARGV[1], 0, redis.call('TIME')
for place = 2, #ARGV do
  for _, owner in ipairs(redis.call('ZRANGE', ring_key(model, ARGV[place]), 0, -1)) do
    waiting = waiting + redis.call('ZCARD', wait_key(model, ARGV[place], owner))
  end
end
return { clock[1], clock[2], waiting, redis.call('ZCARD', lease_key(model)), redis.call('HGETALL', ledger_key(model)) }
"""
)


class Watcher:
    """`samples` holds what each look saw, also that Redis was away."""

    def __init__(self, url: str, model: str) -> None:
        self.samples: list[Json] = []
        self._url, self._model = url, model

    async def run(self) -> None:
        """Look until cancelled."""
        client = Redis.from_url(
            self._url, decode_responses=True, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
        )
        async with client as redis:
            while True:
                began = time.monotonic()
                self.samples.append(await self._look(redis))
                await asyncio.sleep(began + EVERY_S - time.monotonic())

    async def _look(self, redis: Redis) -> Json:
        try:
            reply = await redis.eval(LOOK, 0, self._model, *Priority)
        except (RedisError, OSError) as error:
            return {"at": time.time(), "away": type(error).__name__}
        seconds, microseconds, waiting, leased, ledger = reply
        counters = dict(zip(ledger[::2], map(int, ledger[1::2]), strict=True))
        at = int(seconds) + int(microseconds) / 1e6
        return {"at": at, "waiting": waiting, "leased": leased, "ledger": counters}


def holds(sample: Json) -> bool:
    """Accepted and reopened are ended, waiting or claimed. True too for a look at a Redis that was away."""
    if "away" in sample:
        return True
    ledger = {name: sample["ledger"].get(name, 0) for name in (*BEGUN, *ENDED)}
    begun, ended = sum(ledger[name] for name in BEGUN), sum(ledger[name] for name in ENDED)
    return bool(begun == ended + sample["waiting"] + sample["leased"])


BEGUN = ("accepted", "reopened")
ENDED = ("completed", "failed", "cancelled", "dead")
