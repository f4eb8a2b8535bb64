"""What the tests of webhooks share: an owner with an endpoint, jobs that end, and a clock that can be moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from job_help import claimed, submission
from redis.asyncio import Redis

from serve_app.connections import connect_redis, end_tasks
from serve_app.contracts import Failure
from serve_app.jobs.store import JobStore
from serve_app.outbound.connect import Resolver
from serve_app.settings import Settings
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.store import Delivery, Webhook, WebhookStore

ROOT = Path(__file__).resolve().parents[2]
OWNER = "ann"


def job_path(job_id: str) -> str:
    return f"/jobs/{job_id}"


def documented_verify() -> Callable[[str, dict[str, str], bytes], None]:
    """The receiver's code as docs/webhooks.md shows it: it raises ValueError for what is not ours."""
    page = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  our own page
    verify: Callable[[str, dict[str, str], bytes], None] = names["verify"]
    return verify


def allowing(settings: Settings, *hosts: str) -> Settings:
    return settings.model_copy(update={"webhook_private_hosts": hosts})


class Town:
    """A job Redis with a tracker and the endpoints of users; senders are started by `sending`."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis, self.settings = redis, settings
        self.job_store, self.endpoints = JobStore(redis, settings), WebhookStore(redis, settings)

    async def register(self, url: str, *events: str, owner: str = OWNER) -> Webhook:
        return await self.endpoints.register(owner, url, events or ("job.completed", "job.failed"))

    async def end_job(self, owner: str = OWNER, failure: Failure | None = None) -> str:
        job = await self.job_store.submit(submission(owner))
        chunk = await claimed(self.job_store)
        [task] = chunk.tasks
        if failure:
            assert await self.job_store.fail([(task, failure)]) == [True]
        else:
            assert await self.job_store.complete([(task, {"n": 1})]) == [True]
        await self.job_store.close_chunk(chunk)
        return job.id

    async def deliveries(self, endpoint: Webhook) -> list[Delivery]:
        return await self.endpoints.deliveries(endpoint.owner, endpoint.id)

    async def attempted(self, endpoint: Webhook, number: int) -> Delivery | None:
        """The endpoint's only delivery, once so many attempts are written down."""
        found = await self.deliveries(endpoint)
        return found[0] if len(found) == 1 and len(found[0].attempts) == number else None

    async def hurry(self, endpoint: Webhook) -> None:
        """Let the time come at which the endpoint's next attempt is due."""
        queue = f"webhook-queue:{endpoint.id}"
        for delivery in await self.redis.zrange(queue, 0, -1):
            await self.redis.zadd(queue, {delivery: 0})
        await self.redis.zadd("webhook-due", {endpoint.id: 0})

    async def now_ms(self) -> int:
        seconds, microseconds = await self.redis.time()
        return int(seconds * 1000 + microseconds // 1000)


@asynccontextmanager
async def sending(settings: Settings, resolver: Resolver | None = None) -> AsyncIterator[None]:
    """While this lasts, a sender runs."""
    redis = connect_redis(settings)
    task = asyncio.create_task(Sender(redis, settings, job_path, resolver).run())
    try:
        yield
    finally:
        await end_tasks([task])
        await redis.aclose()
