"""Dead jobs: what admins see of them, and that a requeue or a drop takes effect whole, once, and within the bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_parts import IMAGE_MODEL, PICTURE, Running, as_admin, id_of
from job_help import configured
from redis.asyncio import Redis

from serve_app.contracts import Json
from serve_app.jobs.limits import MAX_DELIVERIES
from serve_app.jobs.records import Ledger
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

DEAD = "/api/v1/admin/dead"
MODEL = IMAGE_MODEL.name
UNKNOWN = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"
pytestmark = pytest.mark.gateway(queue_max_jobs=3)


async def ledger(gateway: Running, settings: Settings) -> Ledger:
    return await JobStore(gateway.redis, settings).ledger(MODEL)


async def audited(redis: Redis) -> list[tuple[str, str]]:
    """Action and target of the audit events in the outbox."""
    entries: Any = await redis.xrange("outbox")
    return [(e[b"action"].decode(), e[b"target"].decode()) for _, e in entries if e[b"kind"] == b"audit"]


async def test_an_admin_sees_why_a_job_died_and_nothing_of_its_image(gateway: Running) -> None:
    job_id = await gateway.dead_job()
    listed = (await as_admin(gateway, "GET", DEAD)).json()
    assert listed["next_cursor"] is None
    [row] = listed["data"]
    assert (row["job_id"], row["model"], row["owner"]) == (job_id, MODEL, id_of(gateway, "ada"))
    assert (row["run"], row["deliveries"], row["strikes"]) == (1, MAX_DELIVERIES, 0)
    assert "signal 9" in row["problem"]["detail"]
    shown = (await as_admin(gateway, "GET", f"{DEAD}/{job_id}")).json()
    assert {name: shown[name] for name in row} == row
    assert shown["params"] == {}
    assert shown["input"] == {"media_type": "image/png", "bytes": len(PICTURE), "pixels": 64 * 48, "kept": True}
    assert shown["submitted_at"] <= shown["started_at"] <= shown["died_at"]


async def test_a_requeued_job_runs_again_from_the_beginning(gateway: Running, settings: Settings) -> None:
    job_id = await gateway.dead_job()
    answer = await as_admin(gateway, "POST", f"{DEAD}/{job_id}/requeue")
    assert (answer.status_code, answer.json()) == (202, {"job_id": job_id, "status": "PENDING", "run": 2})
    job = await gateway.ended(job_id)
    assert (job["status"], job["deliveries"]) == ("COMPLETED", 1)
    assert await ledger(gateway, settings) == Ledger(accepted=1, reopened=1, completed=1, dead=1)
    assert await gateway.redis.mget("held-bytes", f"dead-bytes:{MODEL}") == [b"0", b"0"]
    assert 0 < await gateway.redis.ttl(f"job:{job_id}") <= settings.job_ttl
    assert (await as_admin(gateway, "GET", DEAD)).json()["data"] == []
    entries: Any = await gateway.redis.xrange("outbox")
    outcomes = [(e[b"run"], e[b"status"], e[b"dead"]) for _, e in entries if e[b"kind"] == b"outcome"]
    assert outcomes == [(b"1", b"FAILED", b"1"), (b"2", b"COMPLETED", b"0")]
    assert await audited(gateway.redis) == [("requeue", job_id)]


async def test_a_dropped_job_is_gone_for_everybody_and_still_counted(gateway: Running, settings: Settings) -> None:
    job_id = await gateway.dead_job()
    assert (await as_admin(gateway, "DELETE", f"{DEAD}/{job_id}")).status_code == 204
    for path in (f"/api/v1/jobs/{job_id}", f"/api/v1/jobs/{job_id}/result"):
        assert (await gateway.get(path)).status_code == 404
    assert await gateway.redis.exists(f"job:{job_id}", f"blob:{job_id}", f"dead:{MODEL}") == 0
    entries: Any = await gateway.redis.xrange("outbox")
    [removal] = [e for _, e in entries if e[b"kind"] == b"removal"]
    assert (removal[b"job_id"], removal[b"run"], removal[b"dead"]) == (job_id.encode(), b"1", b"1")
    assert await gateway.redis.get(f"dead-bytes:{MODEL}") == b"0"
    assert await ledger(gateway, settings) == Ledger(accepted=1, dead=1)
    assert await audited(gateway.redis) == [("drop", job_id)]


@pytest.mark.parametrize(("method", "ending"), [("GET", ""), ("DELETE", ""), ("POST", "/requeue")])
async def test_only_dead_jobs_are_found(gateway: Running, method: str, ending: str) -> None:
    gateway.model.open.clear()
    living = await gateway.submit()
    for job_id in (living, UNKNOWN, UNKNOWN.upper(), "*", "%00%0a", "x" * 4000):
        answer = await as_admin(gateway, method, f"{DEAD}/{job_id}{ending}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/job-unknown")
    assert await audited(gateway.redis) == []
    gateway.model.open.set()
    assert (await gateway.ended(living))["status"] == "COMPLETED"


async def test_of_many_requeues_at_once_one_takes_effect(gateway: Running, settings: Settings) -> None:
    job_id = await gateway.dead_job()
    path = f"{DEAD}/{job_id}/requeue"
    answers = await asyncio.gather(*(as_admin(gateway, "POST", path) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [404] * 7
    assert (await ledger(gateway, settings)).reopened == 1


async def test_a_requeue_is_refused_where_a_submit_would_be(gateway: Running, settings: Settings) -> None:
    job_id = await gateway.dead_job()
    gateway.model.open.clear()
    for _ in range(3):
        await gateway.submit()
    before = await ledger(gateway, settings)
    answer = await as_admin(gateway, "POST", f"{DEAD}/{job_id}/requeue")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-full")
    assert answer.headers["retry-after"]
    assert await ledger(gateway, settings) == before
    assert [row["job_id"] for row in (await as_admin(gateway, "GET", DEAD)).json()["data"]] == [job_id]


async def test_a_job_whose_input_is_gone_is_not_requeued(gateway: Running, settings: Settings) -> None:
    job_id = await gateway.dead_job()
    await gateway.redis.delete(f"blob:{job_id}")
    assert (await as_admin(gateway, "GET", f"{DEAD}/{job_id}")).json()["input"]["kept"] is False
    answer = await as_admin(gateway, "POST", f"{DEAD}/{job_id}/requeue")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/input-gone")
    assert await ledger(gateway, settings) == Ledger(accepted=1, dead=1)
    assert await audited(gateway.redis) == []


async def test_a_full_redis_refuses_a_requeue_and_takes_a_drop(gateway: Running) -> None:
    job_id = await gateway.dead_job()
    async with configured(gateway.redis, "maxmemory", 1):
        answer = await as_admin(gateway, "POST", f"{DEAD}/{job_id}/requeue")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-full")
        assert (await as_admin(gateway, "GET", f"{DEAD}/{job_id}")).status_code == 200
        assert (await as_admin(gateway, "DELETE", f"{DEAD}/{job_id}")).status_code == 204


async def test_pages_hold_every_dead_job_once_the_newest_first(gateway: Running) -> None:
    """Three of them died in the same millisecond."""
    jobs = sorted([await gateway.dead_job() for _ in range(5)], reverse=True)
    ends = dict(zip(jobs, (1900, 1700, 1700, 1700, 1600), strict=True))
    for job_id, at in ends.items():
        await gateway.redis.zadd(f"dead:{MODEL}", {job_id: at})
        await gateway.redis.hset(f"job:{job_id}", "completed_at", at)
    found: list[str] = []
    query: Json = {"limit": 2, "model": MODEL}
    while query:
        page = (await as_admin(gateway, "GET", DEAD, params=query)).json()
        found += [row["job_id"] for row in page["data"]]
        query = {**query, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert found == jobs
    everything = (await as_admin(gateway, "GET", DEAD, params={"limit": 5})).json()
    assert ([row["job_id"] for row in everything["data"]], everything["next_cursor"]) == (jobs, None)
    assert (await as_admin(gateway, "GET", DEAD, params={"model": "words"})).json()["data"] == []


async def test_a_requeued_job_waits_since_its_requeue(gateway: Running, settings: Settings) -> None:
    """A job that died days ago must not look as if it had waited for days."""
    job_id = await gateway.dead_job()
    await gateway.redis.hset(f"job:{job_id}", "submitted_at", 1)
    job_store = JobStore(gateway.redis, settings)
    gateway.model.open.clear()
    others = [await gateway.submit() for _ in range(2)]
    assert (await as_admin(gateway, "POST", f"{DEAD}/{job_id}/requeue")).status_code == 202
    assert (await job_store.queue_state(MODEL)).oldest_wait_s < 60
    gateway.model.open.set()
    for one in (*others, job_id):
        assert (await gateway.ended(one))["status"] == "COMPLETED"
