"""Replicas follow the jobs that wait, not the calls that run."""

from __future__ import annotations

import asyncio

from running_service import PACED, RunningService
from service_client import Client, until

JOBS = 60
"""At two per batch and two batches a second, 15 s of work for one replica: enough for a second to come."""
SCALED_S = 60


async def test_a_backlog_brings_a_second_replica_and_its_end_takes_it_away(
    service: RunningService, client: Client
) -> None:
    await until(lambda: len(service.replicas(PACED)) == 1, SCALED_S)
    ids = await asyncio.gather(*(client.submit_text(f"word {number}", PACED) for number in range(JOBS)))
    await until(lambda: len(service.replicas(PACED)) == 2, SCALED_S)
    jobs = await client.wait(ids)
    assert [job["status"] for job in jobs] == ["COMPLETED"] * JOBS
    await until(lambda: len(service.replicas(PACED)) == 1, SCALED_S)
