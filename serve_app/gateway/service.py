"""What every endpoint works with: the parts of one gateway replica, and one request on its way through them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from serve_app.contracts import ModelCard, Principal
from serve_app.errors import ModelUnknown, TokenMissing
from serve_app.gateway.admin.audit import AuditLog
from serve_app.gateway.description.published import Description
from serve_app.gateway.keys import KeyRing
from serve_app.gateway.limits.decisions import Decisions
from serve_app.gateway.limits.limiter import Admission, Limiter
from serve_app.gateway.live.departure import Departure
from serve_app.gateway.live.places import STREAMS_MAX, STREAMS_MAX_PER_USER, WAITS_MAX, WAITS_MAX_PER_USER, Places
from serve_app.gateway.live.rates import Rates
from serve_app.gateway.monitoring.meters import RequestMeter
from serve_app.gateway.monitoring.vitals import Vitals
from serve_app.gateway.supervisor import Supervisor
from serve_app.gateway.tokens import TokenVerifier
from serve_app.gateway.uploads import SLOW_MAX, SLOW_MAX_PER_USER, Pace, Turns, UploadBudget
from serve_app.gateway.usage.reports import Reports
from serve_app.images.store import ImageStore
from serve_app.jobs.active import ActiveCluster
from serve_app.jobs.batches import BatchStore
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.messages import Messages
from serve_app.jobs.store import JobStore
from serve_app.settings import MIB, Settings
from serve_app.tracing import Tracer
from serve_app.usage.outbox import Outbox
from serve_app.usage.outcomes import Outcomes
from serve_app.usage.writer import Writer
from serve_app.webhooks.store import WebhookStore

T = TypeVar("T")

FETCHES_MAX: Final = 64
"""Of one replica at once. What they hold is bounded in bytes, with the uploads."""
FETCHES_MAX_PER_USER: Final = 8
OLDER_RESULTS_MAX_BYTES: Final = 128 * MIB
"""Results from PostgreSQL that answers of one replica hold at once: those of the largest batch have 32 MB."""


@dataclass(frozen=True)
class Service:
    """The parts of one gateway replica. The first model is the default one."""

    settings: Settings
    version: str
    cards: Mapping[str, ModelCard]
    params: Mapping[str, type[BaseModel]]
    endpoints: Mapping[str, str]
    """What GET /api/v1/version shows: `METHOD path` and a sentence."""
    description: Description
    jobs: JobStore
    batches: BatchStore
    vitals: Vitals
    store: ImageStore
    outbox: Outbox
    outcomes: Outcomes
    keys: KeyRing
    verifier: TokenVerifier
    limiter: Limiter
    decisions: Decisions
    dispatchers: Mapping[str, Dispatcher]
    writer: Writer
    reports: Reports
    webhooks: WebhookStore
    tracer: Tracer
    messages: Messages
    rates: Rates
    departure: Departure
    active: ActiveCluster
    supervisor: Supervisor
    """Of everything that runs in the background of this replica."""
    audit: AuditLog = field(default_factory=AuditLog)
    requests: RequestMeter = field(default_factory=RequestMeter)
    waits: Places = field(default_factory=lambda: Places(WAITS_MAX, WAITS_MAX_PER_USER))
    """Requests that wait for the end of their job."""
    streams: Places = field(default_factory=lambda: Places(STREAMS_MAX, STREAMS_MAX_PER_USER))
    slow_uploads: Places = field(default_factory=lambda: Places(SLOW_MAX, SLOW_MAX_PER_USER))
    """Requests whose body takes its time."""
    fetches: Turns = field(default_factory=lambda: Turns(FETCHES_MAX, FETCHES_MAX_PER_USER))
    """URLs that are being fetched: a slow server holds places of its user alone, and memory only for what it sent."""
    older_results: UploadBudget = field(
        default_factory=lambda: UploadBudget(OLDER_RESULTS_MAX_BYTES, OLDER_RESULTS_MAX_BYTES // 2)
    )
    """Results of batches on their way from PostgreSQL to who asked."""
    background: set[asyncio.Task[Any]] = field(default_factory=set)

    @cached_property
    def uploads(self) -> UploadBudget:
        """Uploads and fetched images on their way."""
        return UploadBudget(self.settings.upload_bytes_in_flight, self.settings.upload_bytes_per_user)

    def card(self, name: str | None) -> ModelCard:
        """The model of this name, or the default. Raises `ModelUnknown`."""
        if name is None:
            return next(iter(self.cards.values()))
        if card := self.cards.get(name):
            return card
        raise ModelUnknown("No model of this name is served here. GET /api/v1/models lists them.")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end even when the request that started it is cancelled; shut-down waits for it."""
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.background.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost when the caller has gone


@dataclass(slots=True)
class Call:
    """One request: what came, who asks, and what its usage event will say of it."""

    service: Service
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
    """What an admin's action was about: a principal's id, or a job's."""
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
        """The principal. Raises `TokenMissing` where the route asked for none."""
        if self.principal is None:
            raise TokenMissing("This needs an access token.")
        return self.principal

    async def charged(self, more: int) -> None:
        """Count what the request holds beyond one submit. Raises as `Admission.charge`."""
        if self.admission is not None and more:
            await self.admission.charge(more)
