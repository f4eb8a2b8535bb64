"""Traces by W3C Trace Context and OpenTelemetry; off unless TRACES_ENDPOINT names a collector (OTLP over HTTP).

One trace covers request and outcome: the gateway's span continues the caller's, its context is stored in the job's
record, and the model replica's span continues that. Spans contain no data of users or images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve_app.contracts import SERVICE_NAME
from serve_app.settings import Settings

EXPORT_TIMEOUT_S: Final = 5.0
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_CONTEXT: Final = TraceContextTextMapPropagator()


class Kind(Enum):
    """The kind of a span."""

    SERVER = SpanKind.SERVER
    CONSUMER = SpanKind.CONSUMER


@dataclass(frozen=True, slots=True)
class Step:
    """A running span. `traceparent` is for the next span; None without a trace."""

    traceparent: str | None
    _span: Span | None = None

    def end(self, facts: Mapping[str, str | int], failure: str | None = None) -> None:
        """End the span; `failure` is a reason without private data."""
        if self._span is None:
            return
        self._span.set_attributes(facts)
        if failure is not None:
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


class Tracer:
    """Makes spans; without an exporter it only passes the caller's trace on."""

    def __init__(self, exporter: SpanExporter | None, *, at_once: bool = False) -> None:
        """`at_once` exports in the caller's thread, for an in-memory exporter."""
        self._provider: TracerProvider | None = None
        if exporter is not None:
            self._provider = TracerProvider(resource=Resource({"service.name": SERVICE_NAME}), shutdown_on_exit=False)
            processor = SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter)
            self._provider.add_span_processor(processor)
            self._tracer = self._provider.get_tracer("serve_app")

    def step(self, name: str, parent: str | None, kind: Kind) -> Step:
        """Start a span that continues `parent`, a traceparent; None or a malformed one starts a new trace."""
        parent = parent if parent and _TRACEPARENT.fullmatch(parent) else None
        if self._provider is None:
            return Step(parent)
        context = _CONTEXT.extract({"traceparent": parent}) if parent else None
        span = self._tracer.start_span(name, context, kind.value)
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, set_span_in_context(span))
        return Step(carrier.get("traceparent"), span)

    def close(self) -> None:
        """Send waiting spans. Blocks for at most `EXPORT_TIMEOUT_S` per batch."""
        if self._provider is not None:
            self._provider.shutdown()


def make_tracer(settings: Settings) -> Tracer:
    """The tracer for the settings. Raises RuntimeError if its exporter is not installed."""
    if not settings.traces_endpoint:
        return Tracer(None)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise RuntimeError("TRACES_ENDPOINT needs the extra: pip install 'sem-image-classifier[traces]'.") from error
    return Tracer(OTLPSpanExporter(endpoint=settings.traces_endpoint, timeout=EXPORT_TIMEOUT_S))
