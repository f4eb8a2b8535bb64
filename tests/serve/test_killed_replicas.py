"""kill -9 of a process that holds claimed jobs: every job still ends once, with the right result."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest
from loadtest.service import frozen
from running_service import GATEWAYS, MODEL, RunningService
from service_client import CONNECTIONS, Client, until

from serve_app.contracts import Json

STEADY_S = 3.0
"""No job ended for so long, although one of two replicas works: what is left is held by the other."""

SLOW = 20
"""Uploads on their way through the gateways when one is killed. Serve draws a gateway for each, so there are many: the
victim mostly has some of them, but that is Serve's to decide and nothing that a run can demand."""


@pytest.mark.fault(reason="96 jobs, and a replica is killed and starts again")
async def test_a_killed_model_replica_costs_no_job(
    service: RunningService, client: Client, pictures: list[bytes], references: list[Json]
) -> None:
    before = service.ledger(MODEL)
    victim = psutil.Process(min(service.replicas(MODEL)))
    with frozen({worker.pid for worker in victim.children(recursive=True)}):  # it takes chunks and cannot decode them
        ids = await client.submit_all(pictures)
        held = await until(lambda: _held_by_the_one_that_cannot_decode(service))
        victim.kill()
    jobs = await client.wait(ids)

    assert held <= set(ids)
    assert all(job["deliveries"] >= 2 for job in jobs if job["job_id"] in held)
    await _ended_once(service, client, jobs, references, before)
    await until(lambda: victim.pid not in service.replicas(MODEL))
    service.wait_until_whole(MODEL, replicas=2)


@pytest.mark.fault(reason="96 jobs, and a replica is killed and starts again")
async def test_a_killed_gateway_replica_costs_no_job(
    service: RunningService, client: Client, pictures: list[bytes], references: list[Json]
) -> None:
    before, half = service.ledger(MODEL), len(pictures) // 2
    rest = asyncio.Event()
    uploaders = [Client(service, client.http, client.user) for _ in range(SLOW)]
    slow = [asyncio.create_task(one.submit_slowly(pictures[place], rest)) for place, one in enumerate(uploaders)]
    with frozen(service.replicas(MODEL)):  # so that claimed jobs stay claimed until the gateway is dead
        first = await client.submit_all(pictures[SLOW:half])
        submitting, part = [], -(-half // GATEWAYS)
        waiting = [pictures[start : start + part] for start in range(half, len(pictures), part)]
        for gateway in sorted(service.replicas("gateway")):  # one of them may have claimed all there was to claim
            with frozen({gateway}) as [victim]:
                submitting.append(asyncio.create_task(client.submit_all(waiting.pop(0))))
                if held := set(await asyncio.to_thread(service.held_by_frozen_gateway, MODEL)):
                    victim.kill()
                    break
        assert held
        submitting += [asyncio.create_task(client.submit_all(rest_of_them)) for rest_of_them in waiting]
    rest.set()
    later = [job for part in await asyncio.gather(*submitting) for job in part]
    ids = [*await asyncio.gather(*slow), *first, *later]
    jobs = await client.wait(ids)

    assert held <= set(ids)
    assert all(job["deliveries"] >= 2 for job in jobs if job["job_id"] in held)
    await _ended_once(service, client, jobs, references, before)
    await until(lambda: victim.pid not in service.replicas("gateway"))
    service.wait_until_whole("gateway", GATEWAYS)


def _held_by_the_one_that_cannot_decode(service: RunningService) -> set[str]:
    """The claimed jobs, when nothing waits and nothing ends any more; else none."""
    ended, claimed = service.ledger(MODEL), set(service.leases(MODEL))
    if not claimed or service.in_flight(MODEL) != len(claimed):
        return set()
    time.sleep(STEADY_S)
    return claimed if (service.ledger(MODEL), set(service.leases(MODEL))) == (ended, claimed) else set()


async def _ended_once(
    service: RunningService, client: Client, jobs: list[Json], references: list[Json], before: dict[str, int]
) -> None:
    assert [job["status"] for job in jobs] == ["COMPLETED"] * len(references)
    for job, reference in zip(jobs, references, strict=True):
        assert job["result"]["label"] == reference["label"]
        assert job["result"]["all_scores"] == pytest.approx(reference["all_scores"], abs=1e-4)
    await until(lambda: service.in_flight(MODEL) == 0)
    change = {name: count - before[name] for name, count in service.ledger(MODEL).items()}
    # A submit whose answer got lost may have been accepted; there were only so many at once.
    unseen = change["accepted"] - len(jobs)
    assert 0 <= unseen <= CONNECTIONS
    assert change == {**dict.fromkeys(change, 0), "accepted": len(jobs) + unseen, "completed": len(jobs) + unseen}
    await _recorded_once(service, client, [job["job_id"] for job in jobs], unseen)


async def _recorded_once(service: RunningService, client: Client, ids: list[str], unseen: int) -> None:
    mine = "FROM job_outcomes WHERE owner = (SELECT owner FROM job_outcomes WHERE job_id = %s)"
    await until(lambda: service.rows(f"SELECT count(*) {mine}", ids[0])[0][0] >= len(ids) + unseen, seconds=60)
    outcomes = service.rows(f"SELECT job_id, run, status, dead {mine}", ids[0])
    assert set(ids) <= {job for job, *_ in outcomes}
    assert len(outcomes) == len({job for job, *_ in outcomes}) == len(ids) + unseen
    assert {tuple(outcome) for _, *outcome in outcomes} == {(1, "COMPLETED", False)}
    submits = "SELECT job_id FROM api_usage WHERE username = %s AND endpoint_type = 'inference' AND status_code = 202"
    await until(lambda: len(service.rows(submits, client.user)) >= len(ids), seconds=60)
    billed = [job for (job,) in service.rows(submits, client.user)]
    assert len(billed) == len(set(billed))
    assert set(ids) <= set(billed) <= {job for job, *_ in outcomes}
