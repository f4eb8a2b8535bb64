"""Streams of events through Serve's own proxy: each event when it happens, and an end when their replica has to go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
from loadtest.service import frozen
from running_service import MODEL, WORDS, RunningService
from service_client import Client, connected, until

from serve_app.contracts import Json

DEADLINE_S = 60
DRAIN_S = 20
"""What Serve gives a gateway's open requests before it kills them."""


async def told(client: Client, job_id: str) -> AsyncIterator[Json]:
    """The events of a job as they arrive; the end is the stream's own, for httpx2 raises for one that was cut."""
    async with (
        asyncio.timeout(2 * DEADLINE_S),
        client.http.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=client.headers) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def test_events_arrive_one_by_one(service: RunningService, client: Client, pictures: list[bytes]) -> None:
    statuses = []
    with frozen(service.replicas(MODEL)):
        job_id = await client.submit(pictures[0])
        events = told(client, job_id)
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


async def test_streams_do_not_hold_up_a_gateway_that_is_replaced(servers_folder: Path) -> None:
    homeless = {"name": WORDS, "implementation": "toy_model:WordStatistics", "min_replicas": 0, "num_cpus": 1000}
    folder = servers_folder / "leaving"
    folder.mkdir(mode=0o711)
    with RunningService(folder, [homeless], {}, gateways=1) as service:
        old = service.replicas("gateway")
        async with connected(service, "ada") as client:
            events = told(client, await client.submit_text("it has to wait", WORDS))
            assert (await anext(events))["status"] == "PENDING"
            await asyncio.to_thread(service.deploy_again, models=[{**homeless, "chunks_per_replica": 2}])
            await until(lambda: service.replicas("gateway") - old, DEADLINE_S)
            begun = time.monotonic()
            assert [job async for job in events] == []
            assert time.monotonic() - begun < DRAIN_S / 2
            await until(lambda: not any(map(psutil.pid_exists, old)), DRAIN_S / 2)
