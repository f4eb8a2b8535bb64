"""A burst runs in full batches, and a batch changes no answer."""

from __future__ import annotations

import pytest
from loadtest.service import frozen
from running_service import BATCH, MODEL, RunningService
from service_client import Client, recorded_once

from serve_app.contracts import Json


async def test_a_burst_runs_in_batches_and_every_score_is_that_of_the_image_alone(
    service: RunningService, client: Client, pictures: list[bytes], references: list[Json]
) -> None:
    batches_before, items_before = service.batches(MODEL)
    with frozen(service.replicas(MODEL)):  # how full batches get must not depend on how fast this machine submits
        ids = await client.submit_all(pictures)
    jobs = await client.wait(ids)

    assert [job["status"] for job in jobs] == ["COMPLETED"] * len(pictures)
    assert not client.interruptions
    for job, reference in zip(jobs, references, strict=True):
        assert job["result"]["label"] == reference["label"]
        assert job["result"]["all_scores"] == pytest.approx(reference["all_scores"], abs=1e-4)
    await recorded_once(service, client, ids)

    batches, items = service.batches(MODEL, at_least=items_before + len(ids))
    mean = (items - items_before) / (batches - batches_before)
    assert mean >= 0.5 * BATCH, f"{batches - batches_before} batches, {mean} images each"
