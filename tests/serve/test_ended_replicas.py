"""SIGTERM of a process that has work: what runs is finished, what is only claimed waits again at once."""

from __future__ import annotations

import psutil
from benchmark.observed_service import frozen
from running_service import GATEWAYS, PACED, RunningService
from service_client import Client, until

JOBS = 12
WINDOW = 6
"""Jobs that one replica of the toy may have: three chunks of two. A second one may have started."""


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


async def test_what_an_ended_gateway_had_claimed_waits_again_before_its_lease_ends(
    service: RunningService, client: Client
) -> None:
    warm = await client.submit_text("one", PACED)
    await client.wait([warm])
    with frozen(service.replicas(PACED)):  # so that claimed jobs stay claimed
        ids = [await client.submit_text(f"job {number}", PACED) for number in range(JOBS)]
        await until(lambda: len(service.claims(PACED)) >= WINDOW)
        for victim in sorted(service.replicas("gateway")):  # one of them may have claimed all there was to claim
            claimed = service.claims(PACED)
            psutil.Process(victim).terminate()
            await until(lambda: _gone(victim) or service.claims(PACED) != claimed)  # noqa: B023  awaited in this turn
            if left := service.claims(PACED) != claimed:
                break
    jobs = await client.wait(ids)

    assert left
    assert [job["status"] for job in jobs] == ["COMPLETED"] * JOBS
    assert [job["deliveries"] for job in jobs] == [1] * JOBS
    await until(lambda: service.in_flight(PACED) == 0)
    service.wait_until_whole("gateway", GATEWAYS)


async def test_an_ended_model_replica_finishes_what_it_runs(service: RunningService, client: Client) -> None:
    ids = [await client.submit_text(f"job {number}", PACED) for number in range(JOBS)]
    begun = await until(lambda: service.claims(PACED))
    victim = min(service.replicas(PACED))
    psutil.Process(victim).terminate()
    jobs = await client.wait(ids)
    await until(lambda: _gone(victim))

    assert [job["status"] for job in jobs] == ["COMPLETED"] * JOBS
    assert [job["deliveries"] for job in jobs if job["job_id"] in begun] == [1] * len(begun)
    await until(lambda: service.in_flight(PACED) == 0)
