"""GET /metrics: what is the same whichever replica answers, read from Redis when it is asked for.

What each replica knows of itself alone (`gateway/monitoring/meters.py`, `models/server.py`) Ray's node agents export.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from serve_app.errors import AdminRequired
from serve_app.gateway.endpoint import bearer_token
from serve_app.gateway.service import Call
from serve_app.jobs.records import QueueState, Stopped
from serve_app.usage.outbox import OutboxStats
from serve_app.webhooks.store import WebhookStats

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus, which every scraper reads."""


async def metrics(call: Call) -> Response:
    """The figures as text, for the holder of METRICS_TOKEN and for admins."""
    await _let_in(call)
    service = call.service
    names = list(service.cards)
    states, stopped, outbox, webhooks = await asyncio.gather(
        asyncio.gather(*(service.jobs.queue_state(name) for name in names)),
        service.jobs.stopped(names),
        service.outbox.stats(),
        service.webhooks.stats(),
    )
    families = _queue_families(dict(zip(names, states, strict=True))) + _stop_families(stopped)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures([*families, *_outbox_families(outbox), *_webhook_families(webhooks)]))
    return Response(generate_latest(registry), media_type=MEDIA_TYPE)


async def _let_in(call: Call) -> None:
    given, wanted = bearer_token(call.request.scope), call.service.settings.metrics_token.get_secret_value()
    if wanted and hmac.compare_digest(given.encode(), wanted.encode()):
        return
    call.principal = await call.service.verifier.verify(given)
    if not call.principal.is_admin:
        raise AdminRequired("Metrics are for admins and for the holder of METRICS_TOKEN.")


class _Figures(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _queue_families(queues: dict[str, QueueState]) -> list[Metric]:
    waiting = GaugeMetricFamily("semapi_jobs_waiting", "Jobs that wait.", labels=["model"])
    running = GaugeMetricFamily("semapi_jobs_running", "Jobs under a lease.", labels=["model"])
    oldest = GaugeMetricFamily("semapi_oldest_wait_seconds", "Age of the job that waits longest.", labels=["model"])
    dead = GaugeMetricFamily("semapi_dead_jobs", "Dead jobs that are kept.", labels=["model"])
    replicas = GaugeMetricFamily("semapi_model_replicas", "Replicas that beat.", labels=["model"])
    jobs = CounterMetricFamily("semapi_jobs", "Jobs by what became of them; the ledger.", labels=["model", "event"])
    difference = GaugeMetricFamily("semapi_ledger_difference", "In flight by ledger, less jobs.", labels=["model"])
    for model, queue in queues.items():
        difference.add_metric([model], queue.difference)
        waiting.add_metric([model], queue.waiting)
        running.add_metric([model], queue.leased)
        oldest.add_metric([model], queue.oldest_wait_s)
        dead.add_metric([model], queue.dead_kept)
        replicas.add_metric([model], queue.replicas)
        for event, number in asdict(queue.ledger).items():
            jobs.add_metric([model, event], number)
    return [waiting, running, oldest, dead, replicas, jobs, difference]


def _stop_families(stopped: dict[str, list[Stopped]]) -> list[Metric]:
    intake = GaugeMetricFamily("semapi_intake_stopped", "1 while an admin lets no jobs in.", labels=["model"])
    work = GaugeMetricFamily("semapi_work_stopped", "1 while an admin lets jobs wait.", labels=["model"])
    for model, whats in stopped.items():
        intake.add_metric([model], "intake" in whats)
        work.add_metric([model], "work" in whats)
    return [intake, work]


def _outbox_families(outbox: OutboxStats) -> list[Metric]:
    return [
        GaugeMetricFamily("semapi_outbox_entries", "Events on their way to PostgreSQL.", outbox.waiting),
        GaugeMetricFamily("semapi_outbox_lag_seconds", "Age of the oldest of them.", outbox.lag_s),
        CounterMetricFamily("semapi_usage_dropped", "Usage events counted instead of stored.", outbox.dropped),
        CounterMetricFamily("semapi_usage_refused", "Events that PostgreSQL can never take.", outbox.refused),
    ]


def _webhook_families(webhooks: WebhookStats) -> list[Metric]:
    deliveries = CounterMetricFamily("semapi_webhook_deliveries", "Webhook deliveries that ended.", labels=["outcome"])
    for outcome, number in webhooks.ended.items():
        deliveries.add_metric([outcome], number)
    return [
        deliveries,
        GaugeMetricFamily("semapi_webhooks_waiting", "Webhook deliveries that wait.", webhooks.waiting),
        GaugeMetricFamily("semapi_webhooks_oldest_seconds", "Age of the oldest of them.", webhooks.oldest_s),
        GaugeMetricFamily("semapi_webhooks_late_seconds", "How long the first has been due.", webhooks.late_s),
    ]
