"""One attempt: the event is signed and sent, and what the receiver answers decides how it goes on.

Of an answer only status and Retry-After are read, so that a webhook tells nobody what stands behind an address.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal, cast

import httpx2

from serve_app.contracts import Json
from serve_app.errors import ServiceError, WebhookUrlForbidden, WebhookUrlInvalid
from serve_app.outbound.connect import Ask, Broken, Resolver, Unreachable, exchange
from serve_app.outbound.url import Policy, read_url
from serve_app.settings import Settings
from serve_app.webhooks.events import (
    TRIAL,
    EventType,
    JobEvent,
    JobEventData,
    Links,
    TrialEvent,
    TrialEventData,
    moment,
)
from serve_app.webhooks.limits import JITTER, RETRY_AFTER_MAX_S, SCHEDULE_S, TIMEOUT_S
from serve_app.webhooks.records import Claimed, Delivery
from serve_app.webhooks.signature import sign

GONE: Final = 410
Verdict = Literal["delivered", "retry", "failed", "gone"]
JobPath = Callable[[str], str]
"""A job's path in the service, by its id."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """How an attempt went; `record` is what the log keeps of it."""

    verdict: Verdict
    pause_s: float
    record: Json


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after_s: int = 0


def policy_of(settings: Settings) -> Policy:
    """Which URLs receivers may have; in `prod` with TLS only."""
    schemes = ("https",) if settings.environment == "prod" else ("http", "https")
    return Policy("webhook URL", WebhookUrlInvalid, WebhookUrlForbidden, settings.webhook_private_hosts, schemes)


def body_of(delivery: Delivery, job_path: JobPath) -> bytes:
    """The body, byte for byte the same at each attempt."""
    event: JobEvent | TrialEvent
    if delivery.type == TRIAL:
        event = TrialEvent(type=TRIAL, timestamp=moment(delivery.at), data=TrialEventData(webhook_id=delivery.endpoint))
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
    """Send one delivery once. Whatever the receiver does, this ends after `timeout_s` seconds and raises nothing."""
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
    """The receiver's answer, or why there is none."""
    headers = sign(claimed.endpoint.secrets, claimed.delivery.id, timestamp, body)
    ask = Ask("POST", timeout_s, {**headers, "Content-Type": "application/json"}, body, claimed.endpoint.owner)
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
    """The seconds that a Retry-After asks for, as a number or as a date (RFC 9110); 0 for what is neither."""
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
