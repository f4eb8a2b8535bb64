"""What a receiver is told: the event types, and the body of each. Thin: who wants the result asks for the job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel

EventType = Literal["job.completed", "job.failed", "job.cancelled"]
EVENT_TYPES: Final[tuple[EventType, ...]] = ("job.completed", "job.failed", "job.cancelled")
TRIAL: Final = "webhook.test"


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
    """A job of yours has ended."""

    type: EventType
    timestamp: datetime
    """When the job ended."""
    data: JobEventData


class TrialEventData(BaseModel):
    """The webhook that is tried out."""

    webhook_id: str


class TrialEvent(BaseModel):
    """Sent because you asked for it; nothing has happened."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: TrialEventData


def moment(milliseconds: int) -> datetime:
    """A time of Redis as a body tells it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
