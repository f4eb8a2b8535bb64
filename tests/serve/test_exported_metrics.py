"""Every metric of the dashboard and the alert rules is exported by a running service."""

from __future__ import annotations

import asyncio
import time

import httpx2
from loadtest.service import EXPORT_DEADLINE_S, POLL_S
from monitoring import METRIC, dashboard_expressions, rules
from running_service import METRICS_TOKEN, RunningService
from service_client import Client, connected

from serve_app.gateway.auth import principal_of
from serve_app.settings import Settings


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
        await asyncio.sleep(POLL_S)


async def _refused_by_the_limiter(service: RunningService) -> None:
    user = principal_of({"iss": service.stack.authority.url, "sub": "mallory"}, Settings()).id
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
