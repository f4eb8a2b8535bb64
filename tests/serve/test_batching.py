"""A burst runs in full batches, and a batch changes no answer."""

from __future__ import annotations

import pytest
from benchmark.observed_service import frozen
from benchmark.scrape import batches
from running_service import BATCH, MODEL, RunningService
from service_client import Client, until

from serve_app.contracts import Json


async def test_a_burst_runs_in_batches_and_every_score_is_that_of_the_image_alone(
    service: RunningService, client: Client, pictures: list[bytes], references: list[Json]
) -> None:
    before = await batches(service.cluster, MODEL)
    with frozen(service.replicas(MODEL)):  # how full batches get must not depend on how fast this machine submits
        ids = await client.submit_all(pictures)
    jobs = await client.wait(ids)

    assert [job["status"] for job in jobs] == ["COMPLETED"] * len(pictures)
    assert not client.interruptions
    for job, reference in zip(jobs, references, strict=True):
        assert job["result"]["label"] == reference["label"]
        assert job["result"]["all_scores"] == pytest.approx(reference["all_scores"], abs=1e-4)
    await _recorded_once(service, client, ids)

    after = await batches(service.cluster, MODEL, at_least=before.items + len(ids))
    mean = (after.items - before.items) / (after.count - before.count)
    assert mean >= 0.5 * BATCH, f"{after.count - before.count} batches, {mean} images each"


async def _recorded_once(service: RunningService, client: Client, ids: list[str]) -> None:
    """One outcome per job; one usage row per request of this user, of which each submit is one."""
    outcomes = "SELECT job_id FROM job_outcomes WHERE job_id = ANY(%s) AND status = 'COMPLETED' AND NOT dead"
    await until(lambda: len(service.rows(outcomes, ids)) >= len(ids))
    assert sorted(job for (job,) in service.rows(outcomes, ids)) == sorted(ids)
    submits = "SELECT job_id FROM api_usage WHERE username = %s AND endpoint_type = 'inference'"
    await until(lambda: len(service.rows(submits, client.user)) >= len(ids))
    assert sorted(job for (job,) in service.rows(submits, client.user)) == sorted(ids)
