"""A step continues the trace it is given, and without a collector carries it on."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from serve_app.settings import Settings
from serve_app.tracing import Kind, Tracer, make_tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{TRACE}-{PARENT}-01"
MALFORMED = ["", "00-xyz", CALLER.upper(), CALLER + "-1", f"00-{TRACE}-{PARENT}", "\n" + CALLER]


def test_without_a_collector_the_callers_trace_is_carried_on() -> None:
    step = make_tracer(Settings.model_construct()).step("read", CALLER, Kind.SERVER)
    assert step.traceparent == CALLER
    step.end({"model": "words"})


@pytest.mark.parametrize("text", MALFORMED)
def test_without_a_collector_a_malformed_one_is_dropped(text: str) -> None:
    assert Tracer(None).step("read", text, Kind.SERVER).traceparent is None


def test_a_step_continues_the_callers_trace_and_the_next_one_continues_the_step() -> None:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, at_once=True)
    first = tracer.step("submit", CALLER, Kind.SERVER)
    second = tracer.step("predict", first.traceparent, Kind.CONSUMER)
    second.end({"job.id": "1"}, "model-rejected")
    first.end({"http.response.status_code": 202})
    predict, submit = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in (predict, submit)} == {TRACE}
    assert f"{submit.parent.span_id:016x}" == PARENT
    assert predict.parent.span_id == submit.context.span_id
    assert dict(submit.attributes) == {"http.response.status_code": 202}
    assert (predict.status.status_code, predict.status.description) == (StatusCode.ERROR, "model-rejected")
    assert submit.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("text", [None, *MALFORMED, f"00-{'0' * 32}-{PARENT}-01"])
def test_without_a_right_one_a_new_trace_begins(text: str | None) -> None:
    exporter = InMemorySpanExporter()
    step = Tracer(exporter, at_once=True).step("submit", text, Kind.SERVER)
    step.end({})
    [span] = exporter.get_finished_spans()
    assert span.parent is None
    assert step.traceparent
    assert step.traceparent.startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")


def test_a_caller_who_does_not_sample_is_obeyed() -> None:
    exporter = InMemorySpanExporter()
    step = Tracer(exporter, at_once=True).step("submit", CALLER[:-1] + "0", Kind.SERVER)
    step.end({})
    assert exporter.get_finished_spans() == ()
    assert step.traceparent
    assert step.traceparent.endswith("-00")
