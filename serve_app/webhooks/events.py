"""The content of deliveries: the event types, the body of each, and its signature.

Bodies are short: the receiver reads the result from the job. Signatures follow Standard Webhooks 1.0.0: HMAC-SHA256
over `id.timestamp.body`, base64, prefixed with `v1,`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel

from serve_app.webhooks.limits import SECRET_BYTES

EventType = Literal["job.completed", "job.failed", "job.cancelled"]
EVENT_TYPES: Final[tuple[EventType, ...]] = ("job.completed", "job.failed", "job.cancelled")
TEST_EVENT: Final = "webhook.test"
PREFIX: Final = "whsec_"


class Links(BaseModel):
    """Paths of the service."""

    self: str


class JobEventData(BaseModel):
    """The job that ended."""

    job_id: str
    status: Literal["COMPLETED", "FAILED", "CANCELLED"]
    model: str
    links: Links


class JobEvent(BaseModel):
    """One of your jobs has ended."""

    type: EventType
    timestamp: datetime
    """When the job ended."""
    data: JobEventData


class WebhookTestData(BaseModel):
    """The webhook under test."""

    webhook_id: str


class WebhookTestEvent(BaseModel):
    """Sent because you asked for it; nothing has happened."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: WebhookTestData


def moment(milliseconds: int) -> datetime:
    """A time of Redis in the form of the bodies."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def new_secret() -> str:
    """A new secret in the form that its owner gets: `whsec_` and base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")


def sign(keys: Iterable[str], message: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The three headers, with one signature for each secret, so that a receiver with any of them can verify."""
    signed = f"{message}.{timestamp}.".encode() + body
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in keys),
    }


def _signature(secret: str, signed: bytes) -> str:
    raw = base64.b64decode(secret.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.digest(raw, signed, hashlib.sha256)).decode("ascii")
