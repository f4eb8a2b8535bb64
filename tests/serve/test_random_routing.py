"""Two gateways, and every request goes to either: a job is there for both from the moment it was accepted."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from loadtest.service import frozen
from running_service import GATEWAYS, HELD, RunningService
from service_client import Client, connected, until

from serve_app.contracts import Json

JOBS = 1000
RUNNING = 300
"""Jobs that the model has, when it is made to hold still and all are cancelled."""


@pytest.mark.fault(reason="every job is submitted, read and cancelled one by one")
async def test_no_gateway_misses_a_job_and_every_cancelled_one_ends(service: RunningService, client: Client) -> None:
    before = {name: len(lines) for name, lines in service.request_lines().items()}

    async def submit_and_read(number: int) -> str:
        job_id = await client.submit_text(f"word {number}", HELD)
        assert await status(job_id) == "PENDING"
        return job_id

    async def status(job_id: str) -> str:
        answer = await client.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

    async def read_and_cancel(job_id: str) -> str:
        found = await status(job_id)
        answer = await client.post(f"/api/v1/jobs/{job_id}/cancel")
        assert answer.status_code in (200, 202, 409), answer.text  # 409: it had ended before
        return found

    async with connected(service, "root", realm_access={"roles": ["sem-admin"]}) as admin:
        stop = {"what": "work", "model": HELD, "message": "Until all jobs are there."}
        stopped = await admin.post("/api/v1/admin/stops", json=stop)
        assert stopped.status_code == 201, stopped.text
        ids = await asyncio.gather(*map(submit_and_read, range(JOBS)))
        resumed = await admin.http.delete(stopped.headers["location"], headers=admin.headers)
        assert resumed.status_code == 204, resumed.text
    await until(lambda: len(service.leases(HELD)) >= RUNNING)
    with frozen(service.replicas(HELD)):
        found = await asyncio.gather(*map(read_and_cancel, ids))
    jobs: list[Json] = await client.wait(ids)
    ends = Counter(zip(found, (job["status"] for job in jobs), strict=True))
    assert {end for _, end in ends} <= {"CANCELLED", "COMPLETED"}
    assert ends["PROCESSING", "CANCELLED"] >= 200
    assert service.ledger(HELD)["cancelled"] == sum(count for (_, end), count in ends.items() if end == "CANCELLED")
    assert await until(lambda: service.in_flight(HELD) == 0)
    answered = [len(lines) - before.get(name, 0) for name, lines in service.request_lines().items()]
    assert sum(count > JOBS / 10 for count in answered) == GATEWAYS
    service.wait_until_whole(HELD, replicas=1)
