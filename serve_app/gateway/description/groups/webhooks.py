"""What the routes of webhooks take and answer, and what the service sends by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.gateway.description.groups.operation import Count, Moment, Operation, Shape
from serve_app.gateway.webhooks.manage import Registration
from serve_app.webhooks.events import EVENT_TYPES, TEST_EVENT, EventType, JobEvent, TrialEvent


class Links(Shape):
    """Where the webhook is, and what was sent by it."""

    self: str
    deliveries: str


class Webhook(Shape):
    """A registered receiver."""

    webhook_id: str
    url: str
    events: list[EventType]
    enabled: bool
    disabled_at: Moment | None
    disabled_reason: str | None
    created_at: Moment
    delivered_at: Annotated[Moment | None, Field(description="When an event was last taken.")]
    dropped: Annotated[Count, Field(description="Events that found no room among the waiting.")]
    older_secret_until: Annotated[Moment | None, Field(description="Until then two secrets sign.")]
    links: Links


class WebhookWithSecret(Webhook):
    """As it is shown once, when the secret is made."""

    secret: Annotated[str, Field(pattern="^whsec_")]


class Webhooks(Shape):
    """The newest first."""

    webhooks: list[Webhook]


class Attempt(BaseModel):
    """One try to deliver."""

    model_config = ConfigDict(extra="allow")

    at: Moment


class Delivery(Shape):
    """An event on its way to one receiver."""

    delivery_id: Annotated[str, Field(description="The header webhook-id of every attempt.")]
    type: str
    job_id: str | None
    status: Literal["waiting", "delivered", "failed"]
    timestamp: Moment
    next_attempt_at: Moment | None
    attempts: list[Attempt]


class Deliveries(Shape):
    """Those that wait, then those that ended."""

    deliveries: list[Delivery]


class Begun(Shape):
    """What is on its way."""

    delivery_id: str


_EXAMPLE: Final[dict[str, Any]] = {"url": "https://lab.example.org/hooks/sem", "events": ["job.completed"]}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /api/v1/webhooks": Operation(
        "Webhooks", {201: (WebhookWithSecret,)}, {"application/json": Registration}, _EXAMPLE
    ),
    "GET /api/v1/webhooks": Operation("Webhooks", {200: (Webhooks,)}),
    "GET /api/v1/webhooks/{webhook_id}": Operation("Webhooks", {200: (Webhook,)}),
    "DELETE /api/v1/webhooks/{webhook_id}": Operation("Webhooks", {204: ()}),
    "POST /api/v1/webhooks/{webhook_id}/rotate": Operation("Webhooks", {200: (WebhookWithSecret,)}),
    "POST /api/v1/webhooks/{webhook_id}/test": Operation("Webhooks", {202: (Begun,)}),
    "GET /api/v1/webhooks/{webhook_id}/deliveries": Operation("Webhooks", {200: (Deliveries,)}),
    "POST /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": Operation("Webhooks", {202: (Begun,)}),
}
SENT: Final[Mapping[str, type[BaseModel]]] = {**dict.fromkeys(EVENT_TYPES, JobEvent), TEST_EVENT: TrialEvent}
"""By event type: its body."""
