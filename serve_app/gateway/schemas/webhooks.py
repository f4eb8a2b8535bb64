"""Webhooks: request bodies and answers, and the bodies of the events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from serve_app.gateway.schemas.common import Count, Moment, timestamp, timestamp_or_none
from serve_app.webhooks import store
from serve_app.webhooks.events import EVENT_TYPES, TEST_EVENT, EventType, JobEvent, WebhookTestEvent

PATH: Final = "/api/v1/webhooks"
DeliveryStatus = Literal["waiting", "delivered", "failed"]


class Registration(BaseModel):
    """The URL, and the events to send to it; without `events` all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(strict=True)]
    events: Annotated[frozenset[EventType], Field(min_length=1)] = frozenset(EVENT_TYPES)


class WebhookLinks(TypedDict):
    """Links to the webhook and its deliveries."""

    self: str
    deliveries: str


class Webhook(TypedDict):
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
    links: WebhookLinks


class WebhookWithSecret(Webhook):
    """Shown once, when the secret is made."""

    secret: Annotated[str, Field(pattern="^whsec_")]


class Webhooks(TypedDict):
    """Newest first."""

    webhooks: list[Webhook]


@with_config(ConfigDict(extra="allow"))
class Attempt(TypedDict):
    """One attempt to deliver."""

    at: Moment


class Delivery(TypedDict):
    """One event for one receiver."""

    delivery_id: Annotated[str, Field(description="The header webhook-id of every attempt.")]
    type: str
    job_id: str | None
    status: DeliveryStatus
    timestamp: Moment
    next_attempt_at: Moment | None
    attempts: list[Attempt]


class Deliveries(TypedDict):
    """Waiting deliveries first, then ended ones."""

    deliveries: list[Delivery]


class StartedDelivery(TypedDict):
    """The delivery that was started."""

    delivery_id: str


SENT: Final[Mapping[str, type[BaseModel]]] = {**dict.fromkeys(EVENT_TYPES, JobEvent), TEST_EVENT: WebhookTestEvent}
"""The body of each event type."""


def webhook(endpoint: store.Webhook) -> Webhook:
    """The webhook without its secret."""
    path = f"{PATH}/{endpoint.id}"
    return {
        "webhook_id": endpoint.id,
        "url": endpoint.url,
        "events": cast(list[EventType], endpoint.events),  # a tuple, which is a list in JSON
        "enabled": endpoint.disabled_at is None,
        "disabled_at": timestamp_or_none(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_why or None,
        "created_at": timestamp(endpoint.created_at),
        "delivered_at": timestamp_or_none(endpoint.delivered_at),
        "dropped": endpoint.dropped,
        "older_secret_until": timestamp_or_none(endpoint.older_secret_until),
        "links": {"self": path, "deliveries": f"{path}/deliveries"},
    }


def webhook_with_secret(endpoint: store.Webhook) -> WebhookWithSecret:
    """The webhook with its newest secret."""
    return {**webhook(endpoint), "secret": endpoint.secrets[0]}


def delivery_object(delivery: store.Delivery) -> Delivery:
    """The delivery with its attempts, oldest first."""
    return {
        "delivery_id": delivery.id,
        "type": delivery.type,
        "job_id": delivery.job_id or None,
        "status": cast(DeliveryStatus, delivery.status),
        "timestamp": timestamp(delivery.at),
        "next_attempt_at": timestamp_or_none(delivery.next_attempt_at),
        "attempts": [cast(Attempt, {**attempt, "at": timestamp(attempt["at"])}) for attempt in delivery.attempts],
    }
