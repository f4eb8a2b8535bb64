"""What owners do with their jobs after the submit, through the gateway."""

from __future__ import annotations

import pytest
from gateway_parts import Running, until

UNKNOWN_ID = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"


async def running_job(gateway: Running) -> str:
    """The id of a job that the model has and does not answer yet."""
    gateway.model.open.clear()
    job_id = await gateway.submit()
    await until(lambda: gateway.model.tasks)
    return job_id


async def test_a_running_job_is_cancelled_at_once(gateway: Running) -> None:
    job_id = await running_job(gateway)
    first = await gateway.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["status"], first.json()["result"]) == (200, "CANCELLED", None)
    assert await gateway.redis.keys("blob:*") == []
    gateway.model.open.set()
    later = await gateway.submit()
    assert (await gateway.ended(later))["status"] == "COMPLETED"  # the dispatcher goes on, its breaker closed
    second = await gateway.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (second.status_code, second.json()) == (200, first.json())
    assert (await gateway.get(f"/api/v1/jobs/{job_id}")).json() == first.json()
    results = (await gateway.post("/api/v1/jobs/results", json={"job_id": job_id})).json()
    assert (results["status"], results["error"]) == ("FAILED", "job-cancelled: The job was cancelled.")
    ended = await gateway.post(f"/api/v1/jobs/{later}/cancel")
    assert (ended.status_code, ended.json()["type"]) == (409, "/problems/job-ended")


@pytest.mark.parametrize("change", ["cancel"])
async def test_nobody_else_can_change_a_job_nor_learn_of_it(gateway: Running, change: str) -> None:
    job_id = await running_job(gateway)
    answers = [
        await gateway.post(f"/api/v1/jobs/{one}/{change}", user)
        for one, user in ((job_id, "bob"), (UNKNOWN_ID, "ada"), ("no-uuid", "ada"), (job_id.upper(), "bob"))
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert (await gateway.get(f"/api/v1/jobs/{job_id}")).json()["status"] == "PROCESSING"
