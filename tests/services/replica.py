"""Models and a registrar for the tests of model replicas; imported in the replicas, too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from serve_app.connections import connect_redis
from serve_app.contracts import Registrar, ReplicaCard, Task
from serve_app.settings import read_settings
from tests.toy_model import WordStatistics


class HostileWords(WordStatistics):
    """Counts words, unless they tell it to fail, to hang, to die or to tell the batch."""

    def forward(self, items: Sequence[list[str]]) -> list[Any]:
        for words in items:
            if "fail" in words:
                raise ArithmeticError("told to")
            if "hang" in words:
                time.sleep(3600)
            if "die" in words:
                os.kill(os.getpid(), signal.SIGKILL)
        answers = super().forward(items)
        # "batch" is answered with the size of the batch it was in.
        return [(len(items), *one[1:]) if "batch" in words else one for words, one in zip(items, answers, strict=True)]


class Notebook:
    """A registrar that writes down in Redis what the replica tells; tasks with the token `late` are refused."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def beat(self, card: ReplicaCard) -> None:
        await self._redis.hset("beats", card.replica, f"{card.model} {card.version} {card.device}")

    async def start_alone(self, task: Task) -> bool:
        if task.token == "late":
            return False
        await self._redis.rpush("started-alone", task.job_id)
        return True


def make_registrar() -> Registrar:
    return Notebook(connect_redis(read_settings(), max_connections=2))
