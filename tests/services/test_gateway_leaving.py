"""A gateway that is told to go takes no more work, although its lifespan goes on for its open requests."""

from __future__ import annotations

import asyncio

from gateway_parts import running_gateway, service_of

from serve_app.local.authority import Authority
from serve_app.settings import Settings

JOBS = 20


async def test_who_is_told_to_go_claims_no_more_before_its_requests_have_ended(
    settings: Settings, authority: Authority
) -> None:
    async with running_gateway(settings, authority) as leaving, running_gateway(settings, authority) as staying:
        service_of(leaving).departure.tell()
        ids = await asyncio.gather(*(leaving.submit() for _ in range(JOBS)))
        jobs = await asyncio.gather(*map(leaving.ended, ids))
        assert {job["status"] for job in jobs} == {"COMPLETED"}
        assert leaving.model.tasks == []
        assert {task.job_id for task in staying.model.tasks} == set(ids)
