"""Models and a reporter for the tests of model replicas; imported in the replicas, too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from serve_app.connections import connect_redis
from serve_app.contracts import Outcome, ReplicaCard, ReplicaReporter, Task
from serve_app.models.contract import Prepared
from serve_app.settings import read_settings
from tests.services import hostile
from tests.toy_model import Text, WordStatistics


class HostileWords(WordStatistics):
    """Counts words, unless they tell it to fail, to hang, to die, to tell the batch, to break the decode workers, or to
    wait for a file.

    "decode FILE" and "stall FILE" write FILE.begun and wait for FILE, in the decode worker and in the forward pass.
    """

    @staticmethod
    def preprocess(data: bytes | None, params: Text, recipe: None) -> Prepared:
        words = params.text.split()
        if words[0] == "decode":
            wait_for(words[1])
        return Prepared(hostile.Trap() if words[0] == "trap" else words)

    def forward(self, items: Sequence[list[str]]) -> list[Any]:
        for words in items:
            if "fail" in words:
                raise ArithmeticError("told to")
            if words[0] == "stall":
                wait_for(words[1])
            if "hang" in words:
                time.sleep(3600)
            if "die" in words:
                os.kill(os.getpid(), signal.SIGKILL)
        answers = super().forward(items)
        # "batch" is answered with the size of the batch it was in.
        return [(len(items), *one[1:]) if "batch" in words else one for words, one in zip(items, answers, strict=True)]


def wait_for(file: str) -> None:
    Path(f"{file}.begun").touch()
    while not Path(file).exists():
        time.sleep(0.01)


class Notebook:
    """A `ReplicaReporter` that writes what the replica reports into Redis; tasks with the token `late` are refused."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def beat(self, card: ReplicaCard) -> None:
        await self._redis.hset("beats", card.replica, f"{card.model} {card.version} {card.device}")

    async def start_alone(self, task: Task) -> bool:
        if task.token == "late":
            return False
        await self._redis.rpush("started-alone", task.job_id)
        return True


class Turnstile:
    """A deployment that tells of every chunk and holds it until the test lets all through."""

    def __init__(self, version: str) -> None:
        self._redis, self._version = connect_redis(read_settings(), max_connections=2), version

    async def predict(self, chunk: Sequence[Task]) -> list[Outcome]:
        await self._redis.rpush("turnstile", *(task.job_id for task in chunk))
        while not await self._redis.exists("turnstile-open"):  # noqa: ASYNC110  the test is another process
            await asyncio.sleep(0.02)
        return [Outcome(task.job_id, result={}) for task in chunk]

    async def warm_up(self) -> str:
        return self._version


def make_reporter() -> ReplicaReporter:
    return Notebook(connect_redis(read_settings(), max_connections=2))
