"""Three gateways, and every request goes to any of them: a job is there for each from the moment it was accepted."""

from __future__ import annotations

import asyncio
from collections import Counter

from benchmark.observed_service import frozen
from running_service import GATEWAYS, MODEL, RunningService
from service_client import Client, until

from serve_app.contracts import Json

JOBS = 240


async def test_no_gateway_misses_a_job_and_every_cancelled_one_ends(
    service: RunningService, client: Client, pictures: list[bytes]
) -> None:
    before = {name: len(lines) for name, lines in service.request_lines().items()}
    seen = Counter[str]()

    async def submit_read_cancel(number: int) -> str:
        job_id = await client.submit(pictures[number % len(pictures)])
        reads = await asyncio.gather(*(client.get(f"/api/v1/jobs/{job_id}") for _ in range(3)))
        assert [read.status_code for read in reads] == [200] * 3
        seen.update(read.json()["status"] for read in reads)
        cancelled = await client.post(f"/api/v1/jobs/{job_id}/cancel")
        assert cancelled.status_code in (200, 202, 409), cancelled.text  # 409: it had ended before
        return job_id

    # The models hold still meanwhile: what they have begun is cancelled while it runs, all else while it waits.
    with frozen(service.replicas(MODEL)):
        ids = await asyncio.gather(*map(submit_read_cancel, range(JOBS)))
    jobs: list[Json] = await client.wait(ids)
    ends = Counter(job["status"] for job in jobs)
    assert set(ends) <= {"CANCELLED", "COMPLETED"}
    assert ends["CANCELLED"] > JOBS / 2
    assert set(seen) == {"PENDING", "PROCESSING"}
    assert await until(lambda: service.in_flight(MODEL) == 0)
    answered = [len(lines) - before.get(name, 0) for name, lines in service.request_lines().items()]
    assert sum(count > JOBS / 10 for count in answered) == GATEWAYS
