"""Three gateways, and every request goes to any of them: a job is there for each from the moment it was accepted."""

from __future__ import annotations

import asyncio
from collections import Counter

from running_service import PACED, RunningService
from service_client import Client, until

from serve_app.contracts import Json

JOBS = 240


async def test_no_gateway_misses_a_job_and_every_cancelled_one_ends(service: RunningService, client: Client) -> None:
    before = {name: len(lines) for name, lines in service.request_lines().items()}

    async def submit_read_cancel(number: int) -> Json:
        job_id = await client.submit_text(f"job {number}", PACED)
        reads = await asyncio.gather(*(client.get(f"/api/v1/jobs/{job_id}") for _ in range(3)))
        assert [read.status_code for read in reads] == [200] * 3
        cancelled = await client.post(f"/api/v1/jobs/{job_id}/cancel")
        assert cancelled.status_code in (200, 409), cancelled.text  # 409: it had ended before
        return (await client.get(f"/api/v1/jobs/{job_id}")).json()

    jobs = await asyncio.gather(*map(submit_read_cancel, range(JOBS)))
    ends = Counter(job["status"] for job in jobs)
    assert set(ends) <= {"CANCELLED", "COMPLETED"}
    assert ends["CANCELLED"] > JOBS / 2
    await until(lambda: service.in_flight(PACED) == 0)
    answered = {name: len(lines) - before.get(name, 0) for name, lines in service.request_lines().items()}
    assert sum(count > JOBS / 10 for count in answered.values()) == 3, answered
