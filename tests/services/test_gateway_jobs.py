"""Jobs through the gateway: the older routes exactly as their clients know them, and the resource routes."""

from __future__ import annotations

import asyncio
import re

import httpx2
import pytest
from gateway_parts import PICTURE, RESULT, VERSION, Running, failed, until

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UNKNOWN_ID = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"


async def test_the_older_routes_take_an_image_to_its_result(gateway: Running) -> None:
    gateway.model.open.clear()
    submitted = await gateway.post("/api/v1/inference", files={"image": ("a.png", PICTURE, "image/png")})
    assert submitted.status_code == 200
    assert submitted.json().keys() == {"job_id", "status", "message"}
    job_id, message = submitted.json()["job_id"], submitted.json()["message"]
    assert UUID4.fullmatch(job_id)
    assert submitted.json()["status"] == "PENDING"
    assert "POST /api/v1/jobs/status" in message
    assert "POST /api/v1/jobs/results" in message

    async def processing() -> bool:
        status = (await gateway.post("/api/v1/jobs/status", json={"job_id": job_id})).json()
        return bool(status["status"] == "PROCESSING")

    await until(processing)
    results = (await gateway.post("/api/v1/jobs/results", json={"job_id": job_id})).json()
    assert results == {
        "job_id": job_id,
        "status": "PROCESSING",
        "result": None,
        "error": "Job not completed yet",
        "completed_at": None,
    }
    gateway.model.open.set()
    await gateway.ended(job_id)
    status = (await gateway.post("/api/v1/jobs/status", json={"job_id": job_id})).json()
    assert list(status) == ["job_id", "status", "submitted_at", "started_at", "completed_at", "metadata"]
    assert (status["status"], status["metadata"]) == ("COMPLETED", {})
    assert all(TIME.fullmatch(status[name]) for name in ("submitted_at", "started_at", "completed_at"))
    results = (await gateway.post("/api/v1/jobs/results", json={"job_id": job_id})).json()
    assert list(results) == ["job_id", "status", "result", "error", "completed_at"]
    assert (results["status"], results["result"], results["error"]) == ("COMPLETED", RESULT, "")
    assert results["completed_at"] == status["completed_at"]


async def test_a_failed_job_tells_its_reason_on_both_kinds_of_routes(gateway: Running) -> None:
    gateway.model.answer = failed("image-undecodable", "The file ends early.")
    job_id = await gateway.submit()
    job = await gateway.ended(job_id)
    assert (job["status"], job["result"]) == ("FAILED", None)
    assert job["problem"]["type"] == "/problems/image-undecodable"
    assert job["problem"]["title"] == "The image's pixels could not be decoded"
    assert job["problem"]["detail"] == "The file ends early."
    results = (await gateway.post("/api/v1/jobs/results", json={"job_id": job_id})).json()
    assert (results["status"], results["result"]) == ("FAILED", None)
    assert results["error"] == "image-undecodable: The file ends early."


@pytest.mark.parametrize("job_id", [UNKNOWN_ID, "no uuid", "", "../../etc", "é", "x" * 10_000])
async def test_on_the_older_routes_an_unknown_id_is_an_answer(gateway: Running, job_id: str) -> None:
    status = await gateway.post("/api/v1/jobs/status", json={"job_id": job_id})
    assert status.status_code == 200
    assert status.json() == {
        "job_id": job_id,
        "status": "NOT_FOUND",
        "submitted_at": "",
        "started_at": None,
        "completed_at": None,
        "metadata": {"error": "Job not found or TTL expired"},
    }
    results = await gateway.post("/api/v1/jobs/results", json={"job_id": job_id})
    assert results.status_code == 200
    assert results.json() == {
        "job_id": job_id,
        "status": "NOT_FOUND",
        "result": None,
        "error": "Job not found or TTL expired",
        "completed_at": None,
    }


async def test_a_submitted_job_is_a_resource(gateway: Running) -> None:
    gateway.model.open.clear()
    answer = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}, data={"params": "{}"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/api/v1/jobs/{job['job_id']}"
    assert answer.headers["retry-after"] == "1"
    assert (job["status"], job["model"], job["deliveries"]) == ("PENDING", "sem-classifier", 0)
    waiting = await gateway.get(job["links"]["self"])
    assert (waiting.status_code, waiting.headers["retry-after"]) == (200, "1")
    gateway.model.open.set()
    ended = await gateway.ended(job["job_id"])
    assert (ended["status"], ended["result"], ended["problem"], ended["deliveries"]) == ("COMPLETED", RESULT, None, 1)
    assert "retry-after" not in (await gateway.get(job["links"]["self"])).headers


async def test_a_model_without_images_is_reached_through_the_same_route(gateway: Running) -> None:
    answer = await gateway.post("/api/v1/jobs", json={"model": "words", "params": {"text": "one two"}})
    assert answer.status_code == 202
    job = await gateway.ended(answer.json()["job_id"])
    assert (job["model"], job["status"]) == ("words", "COMPLETED")
    (task,) = gateway.model.tasks
    assert (task.params, task.input) == ({"text": "one two"}, None)


async def test_the_model_gets_the_bytes_as_they_came(gateway: Running) -> None:
    gateway.model.open.clear()
    await gateway.submit()
    await until(lambda: gateway.model.tasks)
    stored = gateway.model.tasks[0].input
    assert stored is not None
    assert (stored.bytes, stored.pixels, stored.media_type) == (len(PICTURE), 64 * 48, "image/png")
    assert await gateway.redis.get(stored.reference) == PICTURE


async def test_a_running_job_is_cancelled_at_once(gateway: Running) -> None:
    gateway.model.open.clear()
    job_id = await gateway.submit()
    await until(lambda: gateway.model.tasks)
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


async def test_usage_has_one_event_for_every_authenticated_request(gateway: Running) -> None:
    job_id = await gateway.submit("ada")
    await gateway.get(f"/api/v1/jobs/{job_id}", "ada")
    await gateway.get(f"/api/v1/jobs/{job_id}", "bob")
    await gateway.post("/api/v1/jobs/status", "bob", json={"job_id": job_id})
    await gateway.post("/api/v1/jobs/results", "ada", json={})
    await gateway.post("/api/v1/inference", "ada", content=b"x")
    await gateway.client.post("/api/v1/jobs/status", json={"job_id": job_id})
    await gateway.client.get("/api/v1/jobs/x", headers={"Authorization": "Bearer x.y.z"})
    await gateway.client.get("/api/v1/version")
    events = await gateway.usage()
    shown = [(event["username"], event["endpoint_type"], event["status_code"], event["url_path"]) for event in events]
    assert shown == [
        ("ada", "inference", 202, "/api/v1/jobs"),
        ("ada", "job_status", 200, "/api/v1/jobs/{job_id}"),
        ("bob", "job_status", 404, "/api/v1/jobs/{job_id}"),
        ("bob", "job_status", 200, "/api/v1/jobs/status"),
        ("ada", "job_results", 400, "/api/v1/jobs/results"),
        ("ada", "inference", 415, "/api/v1/inference"),
    ]
    assert [event["job_id"] for event in events] == [job_id, job_id, "", "", "", ""]
    assert events[0]["request_bytes"] > len(PICTURE)
    assert all(float(event["latency_ms"]) > 0 for event in events)


async def test_usage_names_the_group_that_the_token_names(gateway: Running) -> None:
    for claims in ({"groups": ["sem-lab", "staff"]}, {"groups": "optics"}, {}):
        await gateway.client.get("/api/v1/models", headers=gateway.bearer(**claims))
    assert [event["group"] for event in await gateway.usage()] == ["sem-lab", "optics", ""]


async def test_a_client_that_goes_away_leaves_a_whole_job_or_none(gateway: Running) -> None:
    """Cancelled at twenty moments of a submit: every input in the store belongs to an accepted job, and all end."""
    await gateway.submit()
    for turn in range(20):
        request = asyncio.create_task(gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}))
        for _ in range(turn * 2):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    async def settled() -> bool:
        ledger = {name: int(count) for name, count in (await gateway.redis.hgetall("ledger:sem-classifier")).items()}
        return ledger[b"accepted"] == ledger.get(b"completed") and not await gateway.redis.keys("blob:*")

    await until(settled)
    submits = [event for event in await gateway.usage() if event["endpoint_type"] == "inference"]
    accepted = int(await gateway.redis.hget("ledger:sem-classifier", "accepted") or 0)
    assert len(submits) >= accepted  # whoever was served was counted


async def test_headers_are_on_every_answer(gateway: Running) -> None:
    for path in ("/livez", "/nowhere", "/api/v1/jobs/status", "/api/v1/models"):
        answer = await gateway.client.get(path, headers={"X-Request-ID": "trace-7.a_b"})
        assert answer.headers["x-request-id"] == "trace-7.a_b"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    for hostile in ("a b", "x" * 200, "<script>", "a\tb"):
        answer = await gateway.client.get("/livez", headers={"X-Request-ID": hostile})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("OPTIONS", "/api/v1/jobs", "GET, HEAD, POST"),
        ("GET", "/api/v1/jobs/status", "POST"),
        ("DELETE", "/api/v1/jobs/x/result", "GET, HEAD"),
        ("PUT", "/api/v1/inference", "POST"),
        ("TRACE", "/health", "GET, HEAD"),
    ],
)
async def test_another_method_is_a_405_that_says_which(gateway: Running, method: str, path: str, allow: str) -> None:
    answer = await gateway.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["type"] == "/problems/method-not-allowed"


@pytest.mark.parametrize("path", ["/", "/api/v1/job/", "/api/v1/jobs/a/b", "/x/api/v1/inference", "/%00", "/é"])
async def test_another_path_is_a_404_problem(gateway: Running, path: str) -> None:
    answer = await gateway.client.post(path, headers=gateway.bearer())
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    assert (problem["type"], problem["status"]) == ("/problems/route-unknown", 404)
    assert problem["request_id"] == answer.headers["x-request-id"]


async def test_the_service_says_how_it_is(gateway: Running) -> None:
    degraded = await gateway.client.get("/health")
    assert degraded.status_code == 503
    assert degraded.json() == {
        "status": "degraded",
        "model_loaded": False,
        "device": "none",
        "redis_connected": True,
        "queue": {"pending": 0, "processing": 0},
    }
    await gateway.beat("sem-classifier", labels=["Tips"])
    await gateway.beat("words")

    async def with_replicas() -> httpx2.Response | None:
        answer = await gateway.client.get("/health")
        return answer if answer.status_code == 200 else None

    healthy = await until(with_replicas)
    assert {**healthy.json(), "queue": None} == {
        "status": "healthy",
        "model_loaded": True,
        "device": "cpu",
        "redis_connected": True,
        "queue": None,
    }
    assert (await gateway.client.get("/__health")).json() == {"status": "ok"}
    await until(lambda: gateway.client.get("/readyz"), fits=lambda found: found.status_code == 200)
    models = (await gateway.get("/api/v1/models")).json()
    assert models["default"] == "sem-classifier"
    assert [model["name"] for model in models["models"]] == ["sem-classifier", "words"]
    assert models["models"][0]["replicas"] == [
        {"replica": "replica-1", "version": VERSION, "device": "cpu", "description": {"labels": ["Tips"]}}
    ]
    assert models["models"][1]["params_schema"]["required"] == ["text"]


async def test_the_version_lists_every_route(gateway: Running) -> None:
    version = (await gateway.client.get("/api/v1/version")).json()
    assert version["api_version"] == "v1.0.0"
    assert (version["service"], version["gateway"]) == ("SEM Classifier API", "Ray Serve")
    for route in (
        "GET  /health",
        "POST /api/v1/inference",
        "POST /api/v1/jobs/status",
        "POST /api/v1/jobs/results",
        "GET  /api/v1/version",
        "GET  /__health",
    ):
        assert version["endpoints"][route]
