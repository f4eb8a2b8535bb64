"""One request on its way through the gateway, and the models that it may name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.requests import Request

from serve_app.contracts import ModelCard, Principal
from serve_app.errors import ModelUnknown, TokenMissing
from serve_app.gateway.audit import AuditContext
from serve_app.gateway.ratelimit import Admission
from serve_app.gateway.uploads import Pace


@dataclass(slots=True)
class Call:
    """One request: what came, who asks, and what its usage event, log line and audit line will say of it."""

    request: Request
    request_id: str
    principal: Principal | None = None
    traceparent: str | None = None
    """Where this request stands in a trace, for the job it may submit."""
    admission: Admission | None = None
    pace: Pace | None = None
    """The request's deadline, which gives a body the time it needs."""
    refusal: str = ""
    """The slug of the problem that it was answered with."""
    request_bytes: int = 0
    job_id: str = ""
    model: str = ""
    target: str = ""
    """What an admin's action was about: a principal's id, a job's, or a stop's name."""
    accepting: bool = False
    """True: from here on something may be accepted, whatever becomes of the request."""
    accepted: bool = False
    """True: the request made a job, a batch or the next run of a job, none of which was there before."""
    acts_as_admin: bool = False
    """True: only an admin may do this, so that it goes into the audit log."""
    waited_s: float = 0.0
    """How long the answer was held back because the caller asked for that."""
    holds: ExitStack = field(default_factory=ExitStack)
    """What is given back when the answer has been sent."""

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
        """For what an admin does by this request."""
        return AuditContext(self.caller, self.address, self.request_id)

    async def charge(self, more: int) -> None:
        """Count what the request holds beyond one submit. Raises as `Admission.charge`."""
        if self.admission is not None and more:
            await self.admission.charge(more)


@dataclass(frozen=True)
class Models:
    """The served models by name, the default first."""

    cards: Mapping[str, ModelCard]
    params: Mapping[str, type[BaseModel]]

    @property
    def names(self) -> list[str]:
        """In order."""
        return list(self.cards)

    def card(self, name: str | None) -> ModelCard:
        """The model of this name, or the default. Raises `ModelUnknown`."""
        if name is None:
            return next(iter(self.cards.values()))
        if card := self.cards.get(name):
            return card
        raise ModelUnknown("No model of this name is served here. GET /api/v1/models lists them.")
