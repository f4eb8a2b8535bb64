"""Sends webhook events of ended jobs to their receivers. Every gateway replica runs one sender.

A webhook is served by one sender at a time, under a claim that expires: deliveries that a sender took and did not
finish are then claimed by another, with the same id. So a delivery comes at least once, and a slow receiver delays
nobody else. Of a response only status and Retry-After are read, so that a webhook reveals nothing of what is behind
its address."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, cast
from uuid import uuid4

import httpx2
from redis.asyncio import Redis

from serve_app.connections import end_tasks
from serve_app.contracts import Json
from serve_app.errors import ServiceError
from serve_app.outbound.connect import Broken, OutboundRequest, Resolver, Unreachable, exchange
from serve_app.outbound.url import Policy, read_url
from serve_app.settings import Settings
from serve_app.webhooks.events import (
    TEST_EVENT,
    EventType,
    JobEvent,
    JobEventData,
    Links,
    WebhookTestData,
    WebhookTestEvent,
    moment,
    sign,
)
from serve_app.webhooks.limits import AT_ONCE, JITTER, RETRY_AFTER_MAX_S, SCHEDULE_S, SLOW_AT_ONCE, TIMEOUT_S
from serve_app.webhooks.store import Claimed, Delivery, pairs, policy_of, read_delivery, read_endpoint, script

POLL_S: Final = 0.5
"""Longest wait for the next look at the queue; shorter while attempts are running."""
PAUSE_S: Final = 5.0

_log = logging.getLogger(__name__)
GONE: Final = 410
Verdict = Literal["delivered", "retry", "failed", "gone"]
JobPath = Callable[[str], str]
"""Returns a job's path in the service for its id."""


class Sender:
    """Claims deliveries and attempts them. No outage ends it."""

    def __init__(self, redis: Redis, settings: Settings, job_path: JobPath, resolver: Resolver | None = None) -> None:
        self._policy = policy_of(settings)
        self._job_path = job_path
        self._resolver = resolver
        self._claim = redis.register_script(script("claim"))
        self._end_attempt = redis.register_script(script("end_attempt"))
        self._attempts: dict[asyncio.Task[None], Claimed] = {}
        self._in_trouble = False

    async def run(self) -> None:
        """Deliver until cancelled. Running attempts end too, and are claimed by another sender when their claims
        expire."""
        try:
            while True:
                try:
                    await self._turn()
                    self._in_trouble = False
                except Exception as error:  # after any error the due deliveries are still there for the next turn
                    self._log_trouble(error)
                    await asyncio.sleep(PAUSE_S)
        finally:
            await end_tasks(self._attempts)

    async def _turn(self) -> None:
        """Start what is due, then wait until an attempt ends or `POLL_S` is over."""
        for claimed in await self._take():
            task = asyncio.create_task(self._deliver(claimed))
            self._attempts[task] = claimed
            task.add_done_callback(self._attempts.pop)
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(POLL_S)

    async def _take(self) -> list[Claimed]:
        token, slow = uuid4().hex, sum(claimed.endpoint.slow for claimed in self._attempts.values())
        reply: Any = await self._claim(args=(token, AT_ONCE - len(self._attempts), SLOW_AT_ONCE - slow))
        return [_read_claim(token, *entry) for entry in reply]

    async def _deliver(self, claimed: Claimed) -> None:
        endpoint, delivery = claimed.endpoint.id, claimed.delivery.id
        try:
            done = await attempt(claimed, self._policy, self._job_path, self._resolver)
            facts = (done.verdict, int(done.pause_s * 1000), done.record["duration_ms"], json.dumps(done.record))
            await self._end_attempt(args=(claimed.token, endpoint, delivery, *facts))
        except Exception as error:  # it is attempted again when the claim has expired
            self._log_trouble(error)

    def _log_trouble(self, error: Exception) -> None:
        """Log once per trouble, not once per attempt."""
        if not self._in_trouble:
            _log.warning("webhooks are delayed: %s", type(error).__name__, exc_info=error)
        self._in_trouble = True


def _read_claim(token: str, delivery: bytes, endpoint_fields: list[bytes], fields: list[bytes]) -> Claimed:
    told = read_delivery(delivery.decode(), pairs(fields))
    return Claimed(token, read_endpoint(told.endpoint, pairs(endpoint_fields)), told)


@dataclass(frozen=True, slots=True)
class Attempted:
    """How an attempt ended; `record` is its entry in the log."""

    verdict: Verdict
    pause_s: float
    record: Json


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after_s: int = 0


def body_of(delivery: Delivery, job_path: JobPath) -> bytes:
    """The body, byte for byte the same in each attempt."""
    event: JobEvent | WebhookTestEvent
    if delivery.type == TEST_EVENT:
        event = WebhookTestEvent(
            type=TEST_EVENT, timestamp=moment(delivery.at), data=WebhookTestData(webhook_id=delivery.endpoint)
        )
    else:
        data = JobEventData(
            job_id=delivery.job_id,
            status=cast(Literal["COMPLETED", "FAILED", "CANCELLED"], delivery.job_status),
            model=delivery.model,
            links=Links(self=job_path(delivery.job_id)),
        )
        event = JobEvent(type=cast(EventType, delivery.type), timestamp=moment(delivery.at), data=data)
    return event.model_dump_json().encode()


async def attempt(
    claimed: Claimed, policy: Policy, job_path: JobPath, resolver: Resolver | None = None, timeout_s: float = TIMEOUT_S
) -> Attempted:
    """Send one delivery once. Ends after at most `timeout_s` seconds and raises nothing, whatever the receiver does."""
    started, at = time.monotonic(), time.time()
    found = await _post(claimed, policy, int(at), body_of(claimed.delivery, job_path), resolver, timeout_s)
    answer, error = (found, _fault(found.status)) if isinstance(found, _Answer) else (None, found)
    record = {
        "at": int(at * 1000),
        "status": answer.status if answer else None,
        "error": error,
        "duration_ms": round((time.monotonic() - started) * 1000),
    }
    last = claimed.delivery.tries + 1 >= len(SCHEDULE_S)
    if error is None:
        return Attempted("delivered", 0, record)
    if answer and answer.status == GONE:
        return Attempted("gone", 0, record)
    if last:
        return Attempted("failed", 0, record)
    pause_s = SCHEDULE_S[claimed.delivery.tries + 1] * random.uniform(1, 1 + JITTER)
    return Attempted("retry", max(pause_s, answer.retry_after_s if answer else 0), record)


async def _post(
    claimed: Claimed, policy: Policy, timestamp: int, body: bytes, resolver: Resolver | None, timeout_s: float
) -> _Answer | str:
    """The receiver's answer, or the reason why there is none."""
    headers = sign(claimed.endpoint.secrets, claimed.delivery.id, timestamp, body)
    ask = OutboundRequest(
        "POST", timeout_s, {**headers, "Content-Type": "application/json"}, body, claimed.endpoint.owner
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await exchange(read_url(claimed.endpoint.url, policy), ask, _read, resolver)
    except TimeoutError:
        return f"The receiver did not answer within {timeout_s:g} seconds."
    except Unreachable:
        return "The receiver could not be reached."
    except Broken:
        return "The receiver broke off or answered with something else than HTTP."
    except ServiceError as error:
        return error.detail


async def _read(response: httpx2.Response) -> _Answer:
    asked = retry_after_s(response.headers.get("retry-after", ""), time.time())
    return _Answer(response.status_code, asked)


def retry_after_s(asked: str, now: float) -> int:
    """The seconds of a Retry-After header, given as a number or a date (RFC 9110); 0 for anything else."""
    if asked.isascii() and asked.isdecimal():
        seconds = float(asked[:9])
    else:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - now
        except (ValueError, OverflowError):
            return 0
    return max(0, min(math.ceil(seconds), RETRY_AFTER_MAX_S))


def _fault(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The receiver answered {status}, a redirect; redirects are not followed."
    return f"The receiver answered {status}."
