"""One trace leads from the caller's request through the gateway to the model replica's outcome, and every metric of the
dashboard and the alert rules is exported."""

from __future__ import annotations

import asyncio
import secrets
import time

import httpx2
from collector import Collector
from loadtest.service import EXPORT_DEADLINE_S, LOOK_S
from monitoring import METRIC, dashboard_expressions, rules
from running_service import METRICS_TOKEN, RunningService
from service_client import Client, connected, until

from serve_app.gateway.auth import principal_of
from serve_app.settings import Settings


async def test_a_trace_goes_from_request_to_outcome(
    service: RunningService, client: Client, collector: Collector, pictures: list[bytes]
) -> None:
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)
    parent = {"traceparent": f"00-{trace}-{caller}-01"}
    answer = await client.post("/api/v1/jobs", files={"image": ("a.jpg", pictures[0])}, headers=parent)
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


async def test_every_metric_named_there_exists_in_what_is_exported(
    service: RunningService, client: Client, pictures: list[bytes]
) -> None:
    jobs = await client.wait(await client.submit_all(pictures[:1]))
    assert jobs[0]["status"] == "COMPLETED"
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{service.cluster.url}/api/v1/models")).status_code == 401  # a problem, to be counted
    await _refused_by_the_limiter(service)
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in rules())]
    named = {name for text in expressions for name in METRIC.findall(text)}
    deadline = time.monotonic() + EXPORT_DEADLINE_S
    while missing := named - await _shown(service):
        assert time.monotonic() < deadline, f"not exported: {sorted(missing)}"
        await asyncio.sleep(LOOK_S)


async def _refused_by_the_limiter(service: RunningService) -> None:
    user = principal_of({"iss": service.stack.issuer.url, "sub": "mallory"}, Settings()).id
    async with connected(service, "root", roles=["sem-admin"]) as admin, connected(service, "mallory") as blocked:
        decision = {"principal_id": user, "reason": "A test."}
        assert (await admin.post("/api/v1/admin/blocks", json=decision)).status_code == 201
        assert (await blocked.get("/api/v1/models")).status_code == 403


async def _shown(service: RunningService) -> set[str]:
    """Names of all samples, of the service and of Ray's node agent."""
    headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    async with httpx2.AsyncClient(trust_env=False) as http:
        page = (await http.get(f"{service.cluster.url}/metrics", headers=headers)).raise_for_status().text
    lines = [*page.splitlines(), *service.exported()]
    return {name for line in lines for name in METRIC.findall(line.partition("{")[0])}
