"""Endpoints and their deliveries, for their owner: what the API's routes do. Each change is one script.

Every method raises `TrackerUnavailable` when Redis is away. What is somebody else's is as unknown as what is not there.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from serve_app.connections import redis_errors
from serve_app.errors import DeliveryUnknown, QueueFull, WebhooksFull, WebhookUnknown
from serve_app.outbound.url import read_url
from serve_app.settings import Settings
from serve_app.webhooks.attempt import policy_of
from serve_app.webhooks.events import TRIAL
from serve_app.webhooks.figures import Figures
from serve_app.webhooks.keys import key, script
from serve_app.webhooks.limits import ENDPOINTS_MAX
from serve_app.webhooks.records import Delivery, Endpoint, pairs, read_delivery, read_endpoint, texts
from serve_app.webhooks.signature import new_secret

ENDPOINT_ID: Final = re.compile(r"[0-9a-f]{32}")
DELIVERY_ID: Final = re.compile(r"msg_[0-9a-f]{32}")
SCRIPTS: Final = ("register", "remove", "rotate", "send", "look")


class Endpoints:
    """The registered receivers."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._policy = policy_of(settings)
        self.figures = Figures(redis)
        self._scripts: dict[str, AsyncScript] = {name: redis.register_script(script(name)) for name in SCRIPTS}

    async def register(self, owner: str, url: str, events: Sequence[str]) -> Endpoint:
        """A new endpoint. Raises `WebhookUrlInvalid`, `WebhookUrlForbidden`, `WebhooksFull`, `StoreFull`."""
        read_url(url, self._policy)
        endpoint = uuid.uuid4().hex
        if await self._run("register", owner, endpoint, url, ",".join(events), new_secret()) == b"full":
            raise WebhooksFull(f"You have {ENDPOINTS_MAX} webhooks already. Delete one that is no longer needed.")
        return await self.read(owner, endpoint)

    async def read(self, owner: str, endpoint: str) -> Endpoint:
        """One of the owner's. Raises `WebhookUnknown`."""
        if ENDPOINT_ID.fullmatch(endpoint):
            with redis_errors():
                found: Any = await self._redis.hgetall(key("endpoint", endpoint=endpoint))
            if found and found[b"owner"].decode() == owner:
                return read_endpoint(endpoint, texts(found))
        raise _unknown()

    async def listed(self, owner: str) -> list[Endpoint]:
        """All of the owner's, the newest first."""
        with redis_errors():
            names: Any = await self._redis.zrevrange(key("endpoints", owner=owner), 0, -1)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hgetall(key("endpoint", endpoint=name.decode()))
                found = await pipeline.execute()
        return [
            read_endpoint(name.decode(), texts(fields))
            for name, fields in zip(names, found, strict=True)
            if fields  # deleted between the two looks
        ]

    async def remove(self, owner: str, endpoint: str) -> None:
        """Forget an endpoint and its deliveries. Raises `WebhookUnknown`."""
        if not ENDPOINT_ID.fullmatch(endpoint) or not await self._run("remove", owner, endpoint):
            raise _unknown()

    async def rotate(self, owner: str, endpoint: str) -> Endpoint:
        """Give it a new secret; the older one signs along for a day. Raises `WebhookUnknown`."""
        if not ENDPOINT_ID.fullmatch(endpoint) or not await self._run("rotate", owner, endpoint, new_secret()):
            raise _unknown()
        return await self.read(owner, endpoint)

    async def try_out(self, owner: str, endpoint: str) -> str:
        """Send a test event; the delivery's id. Raises `WebhookUnknown`, `QueueFull`."""
        delivery = f"msg_{uuid.uuid4().hex}"
        if not ENDPOINT_ID.fullmatch(endpoint) or not await self._send(owner, endpoint, delivery, "type", TRIAL):
            raise _unknown()
        return delivery

    async def redeliver(self, owner: str, endpoint: str, delivery: str) -> None:
        """Begin a delivery's schedule again, now. Raises `WebhookUnknown`, `DeliveryUnknown`, `QueueFull`."""
        await self.read(owner, endpoint)
        if not DELIVERY_ID.fullmatch(delivery) or not await self._send(owner, endpoint, delivery):
            raise DeliveryUnknown("There is no delivery of this id; the log keeps the last ones for some days.")

    async def deliveries(self, owner: str, endpoint: str) -> list[Delivery]:
        """Those that wait, soonest first, then those that ended, newest first: LOG_MAX of each.

        Raises `WebhookUnknown`.
        """
        await self.read(owner, endpoint)
        found = await self._run("look", endpoint)
        return [read_delivery(name.decode(), pairs(fields), int(due) if due else None) for name, due, fields in found]

    async def _send(self, owner: str, endpoint: str, delivery: str, *fields: str) -> bool:
        done = await self._run("send", owner, endpoint, delivery, *fields)
        if done == b"full":
            raise QueueFull("Too many deliveries wait already. Try again later.", retry_after=60)
        return bool(done == b"queued")

    async def _run(self, name: str, *arguments: str) -> Any:
        with redis_errors():
            return await self._scripts[name](args=arguments)


def _unknown() -> WebhookUnknown:
    return WebhookUnknown("You have no webhook with this id.")
