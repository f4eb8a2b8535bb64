"""A second model beside the first, by one file and one block of the config; it sleeps until a job comes."""

from __future__ import annotations

from running_service import WORDS, RunningService
from service_client import Client, until

TEXT = "a grain beside a grain"
ASLEEP_S = 90


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
