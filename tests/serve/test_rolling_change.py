"""A release follows another under load: every job ends, none is delivered twice, and no user meets a failure."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from running_service import GATEWAYS, MODEL, RunningService
from service_client import Client, until

UNDER_WAY = 8
"""Jobs that the users of this test have at once: about two seconds of work."""


@pytest.mark.fault(reason="every replica is replaced under load")
async def test_a_rolling_change_costs_no_job_and_no_delivery(
    service: RunningService, client: Client, pictures: list[bytes]
) -> None:
    before = service.ledger(MODEL)
    older = service.replicas(MODEL) | service.replicas("gateway")
    ids: list[str] = []
    turns = itertools.cycle(pictures)
    over = asyncio.Event()

    async def use() -> None:
        while not over.is_set():
            ids.append(await client.submit(next(turns)))
            await client.wait(ids[-1:])

    users = [asyncio.create_task(use()) for _ in range(UNDER_WAY)]
    await until(lambda: len(ids) > UNDER_WAY)
    service.deploy_again(gateway_cpus=0.11)  # the arguments of the application are a part of its version
    await until(lambda: not older & (service.replicas(MODEL) | service.replicas("gateway")), 180)
    at_the_change = len(ids)
    await until(lambda: len(ids) > at_the_change + UNDER_WAY)
    over.set()
    await asyncio.gather(*users)
    service.wait_until_whole("gateway", GATEWAYS)
    service.wait_until_whole(MODEL, replicas=2)

    jobs = await client.wait(ids)
    assert {job["status"] for job in jobs} == {"COMPLETED"}
    assert {job["deliveries"] for job in jobs} == {1}
    assert client.interruptions == []
    change = {name: count - before[name] for name, count in service.ledger(MODEL).items()}
    assert change == {**dict.fromkeys(change, 0), "accepted": len(ids), "completed": len(ids)}
