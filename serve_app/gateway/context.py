"""The context of one request, and the served models."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.requests import Request

from serve_app.contracts import ModelCard, Principal
from serve_app.errors import ModelRefused, ModelUnknown, TokenMissing
from serve_app.gateway.audit import AuditContext
from serve_app.gateway.ratelimit import Admission
from serve_app.gateway.uploads import Pace


@dataclass(slots=True)
class Call:
    """One request: its data, its caller, and the facts for its usage event, log line and audit line."""

    request: Request
    request_id: str
    principal: Principal | None = None
    traceparent: str | None = None
    """The request's position in a trace, for a job that it submits."""
    admission: Admission | None = None
    pace: Pace | None = None
    """The request's deadline, which allows a body its time."""
    refusal: str = ""
    """The slug of the problem in the answer."""
    request_bytes: int = 0
    job_id: str = ""
    model: str = ""
    target: str = ""
    """The object of an admin's action: the id of a principal or a job, or a stop's name."""
    accepting: bool = False
    """True: something may be accepted from here on, even if the request fails."""
    accepted: bool = False
    """True: the request created a job, a batch or the next run of a job."""
    acts_as_admin: bool = False
    """True: an action that only admins may perform, so it goes into the audit log."""
    waited_s: float = 0.0
    """How long the answer was delayed because the caller asked for that."""
    holds: ExitStack = field(default_factory=ExitStack)
    """Resources that are released when the answer has been sent."""

    @property
    def caller(self) -> Principal:
        """The principal. Raises `TokenMissing` on a route without tokens."""
        if self.principal is None:
            raise TokenMissing("This needs an access token.")
        return self.principal

    @property
    def address(self) -> str:
        """The peer of the connection: behind a proxy, the proxy."""
        return self.request.client.host if self.request.client else ""

    @property
    def audit(self) -> AuditContext:
        """The author of an admin's action in this request."""
        return AuditContext(self.caller, self.address, self.request_id)

    async def charge(self, more: int) -> None:
        """Count the request as this many submits more. Raises as `Admission.charge`."""
        if self.admission is not None and more:
            await self.admission.charge(more)


@dataclass(frozen=True)
class Models:
    """The served models by name, the default first."""

    cards: Mapping[str, ModelCard]
    params: Mapping[str, type[BaseModel]]
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Why models cannot be served here, by name."""

    @property
    def names(self) -> list[str]:
        """In order; the first is the default."""
        return list(self.cards)

    def takes_jobs(self, name: str | None) -> ModelCard:
        """The model of this name, or the default, for a job. Raises `ModelUnknown`, `ModelRefused`."""
        card = self.card(name)
        if reason := self.refusals.get(card.name):
            raise ModelRefused(reason)
        return card

    def card(self, name: str | None) -> ModelCard:
        """The model of this name, or the default. Raises `ModelUnknown`."""
        if name is None:
            return next(iter(self.cards.values()))
        if card := self.cards.get(name):
            return card
        raise ModelUnknown("There is no model of this name. GET /api/v1/models lists them.")
