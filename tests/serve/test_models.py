"""Models beside each other: full batches that change no answer, replicas that follow the jobs that wait, and sleep."""

from __future__ import annotations

import asyncio

import pytest
from loadtest.service import frozen
from running_service import BATCH, MODEL, PACED, WORDS, RunningService
from service_client import Client, recorded_once, until

from serve_app.contracts import Json

JOBS = 60
"""At two per batch and two batches a second, 15 s of work for one replica: enough for a second to come."""
SCALED_S = 60
TEXT = "a grain beside a grain"
ASLEEP_S = 90


@pytest.mark.slow(reason="96 jobs")
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


@pytest.mark.slow(reason="a replica starts and stops")
async def test_a_backlog_brings_a_second_replica_and_its_end_takes_it_away(
    service: RunningService, client: Client
) -> None:
    await until(lambda: len(service.replicas(PACED)) == 1, SCALED_S)
    ids = await asyncio.gather(*(client.submit_text(f"word {number}", PACED) for number in range(JOBS)))
    await until(lambda: len(service.replicas(PACED)) == 2, SCALED_S)
    jobs = await client.wait(ids)
    assert [job["status"] for job in jobs] == ["COMPLETED"] * JOBS
    await until(lambda: len(service.replicas(PACED)) == 1, SCALED_S)


@pytest.mark.slow(reason="a model wakes and sleeps again")
async def test_a_sleeping_model_wakes_for_a_job_and_is_served_like_the_first(
    service: RunningService, client: Client
) -> None:
    await until(lambda: service.replicas(WORDS) == set(), ASLEEP_S)
    before = service.ledger(WORDS)["completed"]  # of other tests on this service
    job_id = await client.submit_text(TEXT, WORDS)
    with service.redis() as redis:
        assert redis.hget(f"job:{job_id}", "model") == WORDS
    [job] = await client.wait([job_id])
    assert (job["status"], job["model"]) == ("COMPLETED", WORDS)
    assert job["result"] == {"words": 5, "most_common": "a", "mean_length": 3.6}
    assert service.ledger(WORDS)["completed"] == before + 1
    assert len(service.replicas(WORDS)) == 1

    models = {model["name"]: model for model in (await client.get("/api/v1/models")).json()["models"]}
    assert models[WORDS]["input"] == "none"
    assert "text" in models[WORDS]["params_schema"]["properties"]
    assert models[WORDS]["replicas"][0]["description"]["id"] == "word-statistics"

    usage = "SELECT model, status_code FROM api_usage WHERE job_id = %s AND endpoint_type = 'inference'"
    await until(lambda: service.rows(usage, job_id))
    assert service.rows(usage, job_id) == [(WORDS, 202)]
    outcome = "SELECT model, status, result->>'words' FROM job_outcomes WHERE job_id = %s"
    await until(lambda: service.rows(outcome, job_id))
    assert service.rows(outcome, job_id) == [(WORDS, "COMPLETED", "5")]

    await until(lambda: service.replicas(WORDS) == set(), ASLEEP_S)
    assert (await client.get("/health")).json()["status"] == "healthy"
