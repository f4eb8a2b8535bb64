"""Streams of events and waits through Serve's own proxy: each event when it happens, each wait ends with its job."""

from __future__ import annotations

import time

from loadtest.service import frozen
from running_service import MODEL, RunningService
from service_client import Client


async def test_events_arrive_one_by_one(service: RunningService, client: Client, pictures: list[bytes]) -> None:
    statuses = []
    with frozen(service.replicas(MODEL)):
        job_id = await client.submit(pictures[0])
        events = client.events(job_id)
        while "PROCESSING" not in statuses:  # it arrives while the job cannot end
            statuses.append((await anext(events))["status"])
    statuses += [job["status"] async for job in events]
    assert statuses in (["PENDING", "PROCESSING", "COMPLETED"], ["PROCESSING", "COMPLETED"])


async def test_a_wait_ends_with_the_job(service: RunningService, client: Client, pictures: list[bytes]) -> None:
    with frozen(service.replicas(MODEL)):
        job_id = await client.submit(pictures[0])
        headers = {**client.headers, "Prefer": "wait=1"}
        begun = time.monotonic()
        held_back = await client.http.get(f"/api/v1/jobs/{job_id}", headers=headers)
        assert time.monotonic() - begun >= 1
        assert (held_back.status_code, held_back.json()["completed_at"]) == (200, None)
    [ended] = await client.wait([job_id])
    assert ended["status"] == "COMPLETED"
