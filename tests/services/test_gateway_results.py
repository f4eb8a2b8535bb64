"""Results of ended jobs: with a record, after it, after they were pruned, and after their owner removed them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx2
import psutil
import psycopg
import pytest
from gateway_parts import RESULT, Running, failed, running_gateway, until

from serve_app.contracts import Outcome
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.settings import Settings
from serve_app.usage import outcomes
from serve_app.usage.report.prune import prune

UNKNOWN_ID = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"


@pytest.fixture
async def gateway(tables: str, gateway: Running) -> Running:
    return gateway


async def result(gateway: Running, job_id: str, user: str = "ada") -> httpx2.Response:
    return await gateway.get(f"/api/v1/jobs/{job_id}/result", user)


def told(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


async def expired(gateway: Running, job_id: str, database: str) -> None:
    """The job's outcome is in PostgreSQL, and its record gone."""

    async def stored() -> bool:
        with psycopg.connect(database) as connection:
            return bool(connection.execute("SELECT 1 FROM job_outcomes WHERE job_id = %s", [job_id]).fetchone())

    await until(stored)
    await gateway.redis.delete(f"job:{job_id}")


async def test_a_result_is_the_same_from_record_and_database(gateway: Running, database: str) -> None:
    gateway.model.open.clear()
    job_id = await gateway.submit()
    early = await result(gateway, job_id)
    assert (told(early), early.headers["retry-after"]) == ((409, "job-not-finished"), "1")
    gateway.model.open.set()
    job = await gateway.ended(job_id)
    first = await result(gateway, job_id)
    assert first.status_code == 200
    assert first.json() == {
        "job_id": job_id,
        "model": "sem-classifier",
        "completed_at": job["completed_at"],
        "result": RESULT,
    }
    await expired(gateway, job_id, database)
    later = await result(gateway, job_id)
    assert (later.status_code, later.content) == (200, first.content)
    assert later.headers["etag"] == first.headers["etag"]
    foreign = [await result(gateway, job_id, "bob"), await result(gateway, UNKNOWN_ID), await result(gateway, "x")]
    assert {told(answer) for answer in foreign} == {(404, "job-unknown")}
    assert prune(database, datetime.now(UTC) + timedelta(hours=1)).outcomes == 1
    assert told(await result(gateway, job_id)) == (410, "result-expired")
    assert told(await result(gateway, job_id, "bob")) == (404, "job-unknown")


async def test_a_postgresql_that_falls_silent_is_told_in_time(
    gateway: Running, database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg alone would wait ten seconds more for an answer to its request to cancel, past the request's deadline."""
    monkeypatch.setattr(outcomes, "WITHIN_S", 0.5)
    job_id = await gateway.submit()
    await gateway.ended(job_id)
    await expired(gateway, job_id, database)
    assert (await result(gateway, job_id)).status_code == 200  # the connection is there
    server = psutil.Process(postgres.pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        began = time.monotonic()
        assert told(await result(gateway, job_id)) == (503, "usage-unavailable")
        assert time.monotonic() - began < 5
    finally:
        for process in processes:
            process.resume()
    assert (await result(gateway, job_id)).status_code == 200


async def test_a_result_that_no_database_takes_as_it_is_reaches_it(gateway: Running, database: str) -> None:
    words = {"most_common": "a\0b", "nul\0": [{"lone": "\ud83d", "pair": "\U0001f600", "slash": "\\u0000"}]}
    kept = {"most_common": "a\ufffdb", "nul\ufffd": [{"lone": "\ufffd", "pair": "\U0001f600", "slash": "\\u0000"}]}
    gateway.model.answer = lambda task: Outcome(task.job_id, result=words)
    job_id = await gateway.submit()
    assert (await gateway.ended(job_id))["result"] == kept
    await expired(gateway, job_id, database)
    later = await result(gateway, job_id)
    assert (later.status_code, later.json()["result"]) == (200, kept)


async def test_a_job_without_result_says_why(gateway: Running, database: str) -> None:
    gateway.model.answer = failed("image-undecodable", "The file ends early.")
    job_id = await gateway.submit()
    await gateway.ended(job_id)
    first = await result(gateway, job_id)
    assert told(first) == (409, "job-has-no-result")
    assert first.json()["detail"] == "The job is FAILED. image-undecodable: The file ends early."
    await expired(gateway, job_id, database)
    assert (await result(gateway, job_id)).json()["detail"] == first.json()["detail"]


async def test_a_failed_job_is_retried(gateway: Running) -> None:
    job_id = await gateway.failed_job()
    again = await gateway.post(f"/api/v1/jobs/{job_id}/retry")
    assert (again.status_code, again.json()["status"], again.json()["problem"]) == (202, "PENDING", None)
    assert again.headers["location"] == f"/api/v1/jobs/{job_id}"
    assert (await gateway.ended(job_id))["status"] == "COMPLETED"
    assert told(await gateway.post(f"/api/v1/jobs/{job_id}/retry")) == (409, "retry-refused")


async def test_a_removed_job_is_forgotten_everywhere(gateway: Running, database: str) -> None:
    gateway.model.open.clear()
    job_id = await gateway.submit()
    path, headers = f"/api/v1/jobs/{job_id}", gateway.bearer()
    assert told(await gateway.client.delete(path, headers=headers)) == (409, "job-not-finished")
    gateway.model.open.set()
    await gateway.ended(job_id)
    assert told(await gateway.client.delete(path, headers=gateway.bearer("bob"))) == (404, "job-unknown")
    removed = await gateway.client.delete(path, headers=headers)
    assert (removed.status_code, removed.content) == (204, b"")
    for gone in (await gateway.get(path), await result(gateway, job_id)):
        assert told(gone) == (404, "job-unknown")
    assert (await gateway.get("/api/v1/jobs")).json()["data"] == []

    async def erased() -> bool:
        with psycopg.connect(database) as connection:
            rows = connection.execute("SELECT removed_at IS NOT NULL, result, status FROM job_outcomes").fetchall()
        return rows == [(True, None, "COMPLETED")]

    await until(erased)
    await gateway.redis.delete(f"removed:{job_id}")
    assert told(await result(gateway, job_id)) == (404, "job-unknown")


async def test_a_result_on_its_way_to_the_database_is_a_503_and_no_unknown_job(
    settings: Settings, authority: DevIssuerServer, tables: str
) -> None:
    """PostgreSQL can be read, and has not taken what came of the job when the job's record leaves."""
    async with running_gateway(settings, authority, job_ttl=2) as gateway:
        with psycopg.connect(tables) as connection:
            connection.execute("LOCK TABLE job_outcomes IN SHARE MODE")  # reads pass, writes wait
            job_id = await gateway.submit()
            await until(lambda: gateway.redis.exists(f"job:{job_id}"), fits=lambda found: not found)
            late = await result(gateway, job_id)
            assert told(late) == (503, "usage-unavailable")
            assert late.headers["retry-after"]
            assert told(await result(gateway, "no-uuid")) == (404, "job-unknown")
        await until(lambda: result(gateway, job_id), 60, fits=lambda found: found.status_code == 200)
        await until(lambda: result(gateway, UNKNOWN_ID), fits=lambda found: told(found) == (404, "job-unknown"))


async def test_a_result_that_cannot_be_looked_up_is_a_503(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority) as gateway:
        answer = await result(gateway, UNKNOWN_ID)
        assert told(answer) == (503, "usage-unavailable")
        assert told(await result(gateway, "no-uuid")) == (404, "job-unknown")
