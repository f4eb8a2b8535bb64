"""One trace leads from the caller's request through the gateway to the model replica's outcome."""

from __future__ import annotations

import secrets

import httpx2
from collector import Collector
from running_service import RunningService
from service_client import Client, until


async def test_a_trace_goes_from_request_to_outcome(
    service: RunningService, client: Client, collector: Collector, pictures: list[bytes]
) -> None:
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"Authorization": f"Bearer {service.token(client.user)}", "traceparent": f"00-{trace}-{caller}-01"}
    async with httpx2.AsyncClient(base_url=service.cluster.url, trust_env=False, headers=headers) as http:
        answer = await http.post("/api/v1/jobs", files={"image": ("a.jpg", pictures[0])})
    job_id = answer.json()["job_id"]
    await client.wait([job_id])

    await until(lambda: len(collector.of_trace(trace)) >= 2)
    submit, predict = sorted(collector.of_trace(trace), key=lambda span: span.start_time_unix_nano)
    assert submit.name == "POST /api/v1/jobs"
    assert submit.parent_span_id.hex() == caller
    assert predict.name == "predict sem-classifier"
    assert predict.parent_span_id == submit.span_id
    assert submit.start_time_unix_nano <= predict.start_time_unix_nano < predict.end_time_unix_nano
    for span in (submit, predict):
        facts = {fact.key: fact.value.string_value for fact in span.attributes}
        assert facts["job.id"] == job_id
        assert facts["model"] == "sem-classifier"
