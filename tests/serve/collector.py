"""A trace collector that remembers: OTLP over HTTP, as any collector takes it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from web_server import Handler, web_server


class Collector:
    """What came in so far."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []

    def of_trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


@contextmanager
def listening_collector() -> Iterator[Collector]:
    collector = Collector()

    class Traces(Handler):
        def reply(self) -> None:
            body = self.body()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            self.answer()

    with web_server(Traces) as url:
        collector.url = f"{url}/v1/traces"
        yield collector
