"""Webhooks and their deliveries in Redis, and their owners' operations on them. Each change is one script.

Every method raises `TrackerUnavailable` when Redis is down. Another owner's webhook is treated like a missing one.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from serve_app.connections import redis_errors
from serve_app.contracts import Json
from serve_app.errors import (
    DeliveryUnknown,
    QueueFull,
    RequestError,
    WebhooksFull,
    WebhookUnknown,
    WebhookUrlForbidden,
    WebhookUrlInvalid,
)
from serve_app.keyspace import WEBHOOK, WEBHOOK_DUE, WEBHOOK_EVENTS, WEBHOOK_TOTALS, WEBHOOK_WAITING, WEBHOOKS
from serve_app.lua import key_functions, read_script
from serve_app.outbound.url import Policy, read_url
from serve_app.settings import Settings
from serve_app.webhooks import limits
from serve_app.webhooks.events import TEST_EVENT, new_secret
from serve_app.webhooks.limits import ENDPOINTS_MAX

ENDPOINT_ID: Final = re.compile(r"[0-9a-f]{32}")
DELIVERY_ID: Final = re.compile(r"msg_[0-9a-f]{32}")
SCRIPTS: Final = ("register", "remove", "rotate", "send", "read_deliveries")
Fields = Mapping[str, str]
OUTCOMES: Final = ("delivered", "failed", "dropped")


def policy_of(settings: Settings) -> Policy:
    """Which URLs receivers may have; in `prod` only https."""
    schemes = ("https",) if settings.environment == "prod" else ("http", "https")
    return Policy("webhook URL", WebhookUrlInvalid, WebhookUrlForbidden, settings.webhook_private_hosts, schemes)


class WebhookStore:
    """The registered receivers."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._policy = policy_of(settings)
        self._scripts: dict[str, AsyncScript] = {name: redis.register_script(script(name)) for name in SCRIPTS}

    async def register(self, owner: str, url: str, events: Sequence[str]) -> Webhook:
        """Register a webhook. Raises `WebhookUrlInvalid`, `WebhookUrlForbidden`, `WebhooksFull`, `StoreFull`."""
        read_url(url, self._policy)
        endpoint = uuid.uuid4().hex
        if await self._run("register", owner, endpoint, url, ",".join(events), new_secret()) == b"full":
            raise WebhooksFull(f"You have {ENDPOINTS_MAX} webhooks already. Delete one that is no longer needed.")
        return await self.read(owner, endpoint)

    async def read(self, owner: str, endpoint: str) -> Webhook:
        """One of the owner's webhooks. Raises `WebhookUnknown`."""
        if ENDPOINT_ID.fullmatch(endpoint):
            with redis_errors():
                found: Any = await self._redis.hgetall(WEBHOOK(endpoint=endpoint))
            if found and found[b"owner"].decode() == owner:
                return read_endpoint(endpoint, texts(found))
        raise _unknown()

    async def listed(self, owner: str) -> list[Webhook]:
        """All of the owner's webhooks, newest first."""
        with redis_errors():
            names: Any = await self._redis.zrevrange(WEBHOOKS(owner=owner), 0, -1)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hgetall(WEBHOOK(endpoint=name.decode()))
                found = await pipeline.execute()
        return [
            read_endpoint(name.decode(), texts(fields))
            for name, fields in zip(names, found, strict=True)
            if fields  # deleted between the two commands
        ]

    async def remove(self, owner: str, endpoint: str) -> None:
        """Delete a webhook and its deliveries. Raises `WebhookUnknown`."""
        if not ENDPOINT_ID.fullmatch(endpoint) or not await self._run("remove", owner, endpoint):
            raise _unknown()

    async def rotate(self, owner: str, endpoint: str) -> Webhook:
        """Give the webhook a new secret; the old one also signs for another day. Raises `WebhookUnknown`."""
        if not ENDPOINT_ID.fullmatch(endpoint) or not await self._run("rotate", owner, endpoint, new_secret()):
            raise _unknown()
        return await self.read(owner, endpoint)

    async def send_test(self, owner: str, endpoint: str) -> str:
        """Send a test event; returns the delivery's id. Raises `WebhookUnknown`, `QueueFull`."""
        delivery = f"msg_{uuid.uuid4().hex}"
        if not ENDPOINT_ID.fullmatch(endpoint) or not await self._send(owner, endpoint, delivery, "type", TEST_EVENT):
            raise _unknown()
        return delivery

    async def redeliver(self, owner: str, endpoint: str, delivery: str) -> None:
        """Restart a delivery's schedule now. Raises `WebhookUnknown`, `DeliveryUnknown`, `QueueFull`."""
        await self.read(owner, endpoint)
        if not DELIVERY_ID.fullmatch(delivery) or not await self._send(owner, endpoint, delivery):
            raise DeliveryUnknown("There is no delivery of this id; the log keeps the last ones for some days.")

    async def deliveries(self, owner: str, endpoint: str) -> list[Delivery]:
        """Waiting deliveries, soonest first, then ended ones, newest first: LOG_MAX of each.

        Raises `WebhookUnknown`.
        """
        await self.read(owner, endpoint)
        found = await self._run("read_deliveries", endpoint)
        return [read_delivery(name.decode(), pairs(fields), int(due) if due else None) for name, due, fields in found]

    async def stats(self) -> WebhookStats:
        """The statistics of all webhooks, in one round trip."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.time()
                pipeline.hmget(WEBHOOK_TOTALS(), OUTCOMES)
                pipeline.zcard(WEBHOOK_WAITING())
                pipeline.zrange(WEBHOOK_WAITING(), 0, 0, withscores=True)
                pipeline.zrange(WEBHOOK_DUE(), 0, 0, withscores=True)
                pipeline.xrange(WEBHOOK_EVENTS(), count=1)
                (seconds, microseconds), counted, waiting, oldest, due, events = await pipeline.execute()
        now_s = seconds + microseconds / 1e6
        written = [(entry, int(entry.split(b"-")[0])) for entry, _ in events]
        return WebhookStats(
            ended={name: int(number or 0) for name, number in zip(OUTCOMES, counted, strict=True)},
            waiting=waiting,
            oldest_s=_age_s(oldest, now_s),
            late_s=max(_age_s(due, now_s), _age_s(written, now_s)),
        )

    async def _send(self, owner: str, endpoint: str, delivery: str, *fields: str) -> bool:
        done = await self._run("send", owner, endpoint, delivery, *fields)
        if done == b"full":
            raise QueueFull("Too many deliveries wait already. Try again later.", retry_after=60)
        return bool(done == b"queued")

    async def _run(self, name: str, *arguments: str) -> Any:
        with redis_errors():
            return await self._scripts[name](args=arguments)


def _unknown() -> RequestError:
    return WebhookUnknown("You have no webhook with this id.")


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver that a user has registered. Times in ms; the secrets are left out of its repr."""

    id: str
    owner: str
    url: str
    events: tuple[str, ...]
    secrets: tuple[str, ...]
    """Newest first."""
    created_at: int
    older_secret_until: int | None
    disabled_at: int | None
    disabled_why: str
    delivered_at: int | None
    dropped: int
    """Events dropped because its queue, or the total of all queues, was full."""
    slow: bool
    """True if the last attempt was slow."""

    def __repr__(self) -> str:
        return f"Webhook({self.id})"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery of one event to one webhook, waiting or ended."""

    id: str
    endpoint: str
    type: str
    at: int
    """When the event happened."""
    status: str
    """`waiting`, `delivered` or `failed`."""
    tries: int
    """Attempts since the schedule was last started: a redelivery restarts it."""
    job_id: str
    job_status: str
    model: str
    attempts: tuple[Json, ...]
    """The last attempts, newest last: time, status or error, and duration."""
    next_attempt_at: int | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery claimed by this sender, and its receiver."""

    token: str
    endpoint: Webhook
    delivery: Delivery


def read_endpoint(endpoint: str, fields: Fields) -> Webhook:
    """A webhook from its hash, with the secrets that are valid now."""
    until = _number(fields.get("older_until"))
    rotating = until is not None and time.time() * 1000 < until
    return Webhook(
        id=endpoint,
        owner=fields["owner"],
        url=fields["url"],
        events=tuple(fields["events"].split(",")),
        secrets=(fields["secret"], *([fields["older_secret"]] if rotating else [])),
        created_at=int(fields["created_at"]),
        older_secret_until=until if rotating else None,
        disabled_at=_number(fields.get("disabled_at")),
        disabled_why=fields.get("disabled_why", ""),
        delivered_at=_number(fields.get("delivered_at")),
        dropped=int(fields.get("dropped", 0)),
        slow="slow" in fields,
    )


def read_delivery(delivery: str, fields: Fields, next_attempt_at: int | None = None) -> Delivery:
    """A delivery from its hash."""
    attempts = sorted((int(name.removeprefix("attempt:")), text) for name, text in fields.items() if ":" in name)
    return Delivery(
        id=delivery,
        endpoint=fields["endpoint"],
        type=fields["type"],
        at=int(fields["at"]),
        status=fields["status"],
        tries=int(fields["tries"]),
        job_id=fields.get("job_id", ""),
        job_status=fields.get("job_status", ""),
        model=fields.get("model", ""),
        attempts=tuple(json.loads(text) for _, text in attempts),
        next_attempt_at=next_attempt_at,
    )


def pairs(reply: Iterable[bytes]) -> dict[str, str]:
    """A hash as scripts return it: a flat list of names and values."""
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def texts(fields: Mapping[Any, Any]) -> dict[str, str]:
    """A hash as redis-py returns it."""
    return {name.decode(): value.decode() for name, value in fields.items()}


def _number(text: str | None) -> int | None:
    return int(text) if text else None


@dataclass(frozen=True, slots=True)
class WebhookStats:
    """Statistics of all webhooks together."""

    ended: Mapping[str, int]
    """Deliveries by outcome since Redis was set up. `dropped`: nothing was sent because a queue was full."""
    waiting: int
    oldest_s: float
    """Age of the oldest waiting delivery; one to a dead receiver waits for days."""
    late_s: float
    """How long the next delivery or event has been due. More than seconds: no gateway sends."""


def _age_s(first: Sequence[tuple[Any, float]], now_s: float) -> float:
    """Seconds since the first entry's time in ms; 0 without an entry and for future times."""
    return max(0.0, now_s - first[0][1] / 1000) if first else 0.0


def script(name: str) -> str:
    """The text of `lua/<name>.lua` behind what all of them share: keys, numbers, `lua/common.lua`.

    Memory: every script but `register` may write into a full Redis. What they add is bounded, and deliveries end.
    """
    numbers = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    shared = [
        *(f"local {name} = {value}" for name, value in sorted(numbers.items())),
        read_script(__package__, "common"),
    ]
    text = "\n".join([*shared, read_script(__package__, name)])
    flags = "" if name == "register" else "#!lua flags=allow-oom\n"
    return f"{flags}{key_functions(text)}\n{text}"
