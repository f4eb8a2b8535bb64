"""A server that is away: what still works, what is told, and that everything comes back by itself."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from loadtest.service import frozen
from running_service import METRICS_TOKEN, MODEL, RunningService
from service_client import Client, recorded_once, until

AT_ONCE_S = 5.0
METRICS_S = 40.0
FEW = 24


@pytest.mark.slow(reason="PostgreSQL is killed and its rows come later")
async def test_postgres_away_delays_rows_and_nothing_else(
    service: RunningService, client: Client, pictures: list[bytes]
) -> None:
    await asyncio.to_thread(service.stack.postgres.kill)
    try:
        ids = await client.submit_all(pictures[:FEW])
        jobs = await client.wait(ids)
        assert [job["status"] for job in jobs] == ["COMPLETED"] * FEW
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert not client.interruptions
        await _measured(service, client, at_least=2 * FEW)
    finally:
        await asyncio.to_thread(service.stack.postgres.start)
    await recorded_once(service, client, ids)


async def _measured(service: RunningService, client: Client, at_least: int) -> None:
    """The metrics tell how many events wait, and that the model works all the same."""
    scraper = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    page = (await client.get("/metrics", headers=scraper)).raise_for_status().text
    [waiting] = re.findall(r"^semapi_outbox_entries ([0-9.]+)$", page, re.MULTILINE)
    assert float(waiting) >= at_least
    breaker = re.compile(rf'^ray_gateway_breaker_open\{{.*model="{MODEL}".*\}} ([0-9.]+)$', re.MULTILINE)
    deadline = time.monotonic() + METRICS_S
    while not (breakers := breaker.findall("\n".join(service.exported()))):
        assert time.monotonic() < deadline, "no gateway has told of its breakers"
        await asyncio.sleep(0.5)
    assert set(map(float, breakers)) == {0.0}


@pytest.mark.slow(reason="Redis is killed and leases run out")
async def test_redis_away_is_told_at_once_and_no_accepted_job_is_lost(
    service: RunningService, client: Client, pictures: list[bytes]
) -> None:
    with frozen(service.replicas(MODEL)):  # so that jobs are waiting and claimed when Redis goes
        ids = await client.submit_all(pictures[:FEW])
        await until(lambda: service.leases(MODEL))
        await asyncio.to_thread(service.stack.valkey.kill)
        try:
            await _told_at_once(client, ids[0], pictures[0])
        finally:
            await asyncio.to_thread(service.stack.valkey.start)
    jobs = await client.wait(ids)
    assert [job["status"] for job in jobs] == ["COMPLETED"] * FEW
    service.wait_until_whole(MODEL, replicas=2)


async def _told_at_once(client: Client, job_id: str, picture: bytes) -> None:
    began = time.monotonic()
    answers = await asyncio.gather(
        client.post("/api/v1/jobs", files={"image": ("a.jpg", picture)}),
        client.post("/api/v1/inference", files={"image": ("a.jpg", picture)}),
        client.get(f"/api/v1/jobs/{job_id}"),
        client.post("/api/v1/jobs/status", json={"job_id": job_id}),
    )
    assert time.monotonic() - began < AT_ONCE_S
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("tracker-unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    while (health := await client.get("/health")).status_code == 200:  # what it tells may be a second old
        assert time.monotonic() - began < AT_ONCE_S
        await asyncio.sleep(0.1)
    assert health.status_code == 503
    assert (health.json()["status"], health.json()["redis_connected"]) == ("degraded", False)
