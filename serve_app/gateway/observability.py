"""What operators see of a gateway: one log line for each request, Ray's metrics of this replica, and GET /metrics.

The request line is the message of the logger `serve_app.request`. It never holds what was sent: no token, no body, no
file name, no address, no path as the caller wrote it. Of the caller's own choosing it holds the request id and the
trace id, both of a fixed alphabet and length.

GET /metrics has what is the same whichever replica answers, read from Redis. What each replica alone knows
(`RequestMeter`, `BreakerMeter`, `models/server.py`) Ray's node agents export.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from ray.serve import metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.context import Call
from serve_app.gateway.http import CLIENT_GONE, header_of, request_id_of
from serve_app.gateway.schemas.common import timestamp
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.records import QueueState, Stopped
from serve_app.texts import NAME_LIMIT, sanitize_text
from serve_app.usage.outbox import OutboxStats
from serve_app.webhooks.store import WebhookStats

PERIOD_S: Final = 5.0
MILLISECONDS: Final[list[float]] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000]
METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus, which every scraper reads."""
_FAILED: Final = 500
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_log = logging.getLogger("serve_app.request")


class RequestLog:
    """Middleware around the whole application, so that answers outside of routes have their line too."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _log.isEnabledFor(logging.INFO):
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), CLIENT_GONE

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._application(scope, receive, send_watched)
        except Exception:
            status = _FAILED  # Starlette then answers with this status
            raise
        finally:
            # Not info(): finding its caller, and the fields that Ray adds to each record, cost more than the line
            # itself.
            line = request_line(scope, status, time.perf_counter() - started)
            _log.handle(logging.LogRecord(_log.name, logging.INFO, __file__, 0, line, None, None))


def request_line(scope: Scope, status: int, seconds: float) -> str:
    """The line of an answered request. `latency_ms` lasts until the end of the answer.

    `tenant_id` is the group in the verified token. X-Tenant-ID proves nothing: it is compared, never logged.
    """
    call: Call | None = scope.get("call")
    principal = call.principal if call else None
    group = principal.group if principal else None
    asserted = header_of(scope, b"x-tenant-id")
    traceparent = call.traceparent if call else None
    route = scope.get("route")
    line = {
        "time": timestamp(time.time_ns() // 1_000_000),
        "request_id": request_id_of(scope),
        "principal_id": principal.id if principal else None,
        "tenant_id": sanitize_text(group, NAME_LIMIT) if group else None,
        "tenant_mismatch": principal is not None and asserted is not None and asserted != (group or ""),
        "method": scope["method"],
        "route": route.path if route else None,
        "status_code": status,
        "latency_ms": round(seconds * 1000, 3),
        "payload_size": call.request_bytes if call else 0,
        "job_id": (call.job_id if call else "") or None,
        "model": (call.model if call else "") or None,
        "trace_id": traceparent[3:35] if traceparent else None,
    }
    return _encode(line)


class RequestMeter:
    """Counts and times answers: one histogram, whose count is the number of requests."""

    def __init__(self) -> None:
        self._latency = metrics.Histogram(
            "gateway_request_ms",
            "From a request's first byte to its answer's, in ms.",
            boundaries=MILLISECONDS,
            tag_keys=("route", "method", "status"),  # type: ignore[arg-type]  # Ray's annotation says one key
        )
        self._problems = metrics.Counter("gateway_problems", "Answers that are problems, by type.", ("problem",))
        self._limited = metrics.Counter(
            "gateway_limited",
            "Requests that the limiter refused.",
            ("limit", "asked"),  # type: ignore[arg-type]  # as above
        )

    def observe(self, route: str, method: str, status: int, latency_ms: float, problem: str) -> None:
        """Record one answer; `problem` is its type's slug or empty.

        `route` is the path in the route table, so that callers cannot create labels.
        """
        self._latency.observe(latency_ms, {"route": route, "method": method, "status": str(status)})
        if problem:
            self._problems.inc(1, {"problem": problem})

    def limited(self, limit: str, rate_class: str) -> None:
        """The limiter refused a request: by which limit, and in which class."""
        self._limited.inc(1, {"limit": limit, "asked": rate_class})


class BreakerMeter:
    """Updates the gauge of this replica's breakers every few seconds."""

    def __init__(self, dispatchers: Mapping[str, Dispatcher]) -> None:
        self._dispatchers = dispatchers
        self._breaker = metrics.Gauge("gateway_breaker_open", "1 while the model fails and gets no jobs.", ("model",))

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            for name, dispatcher in self._dispatchers.items():
                self._breaker.set(int(dispatcher.state.startswith("breaker")), {"model": name})
            await asyncio.sleep(PERIOD_S)


def write_metrics(
    queues: Mapping[str, QueueState],
    stopped: Mapping[str, list[Stopped]],
    outbox: OutboxStats,
    webhooks: WebhookStats,
) -> bytes:
    """The metrics of all models, the outbox and the webhooks, as text."""
    registry = CollectorRegistry(auto_describe=False)
    families = [*_queue_families(queues), *_stop_families(stopped)]
    registry.register(_Families([*families, *_outbox_families(outbox), *_webhook_families(webhooks)]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _queue_families(queues: Mapping[str, QueueState]) -> list[Metric]:
    waiting = GaugeMetricFamily("semapi_jobs_waiting", "Jobs that wait.", labels=["model"])
    running = GaugeMetricFamily("semapi_jobs_running", "Jobs under a lease.", labels=["model"])
    oldest = GaugeMetricFamily("semapi_oldest_wait_seconds", "Age of the job that waits longest.", labels=["model"])
    dead = GaugeMetricFamily("semapi_dead_jobs", "Dead jobs that are kept.", labels=["model"])
    replicas = GaugeMetricFamily("semapi_model_replicas", "Replicas that beat.", labels=["model"])
    jobs = CounterMetricFamily("semapi_jobs", "Jobs by outcome, from the ledger.", labels=["model", "event"])
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


def _stop_families(stopped: Mapping[str, list[Stopped]]) -> list[Metric]:
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
