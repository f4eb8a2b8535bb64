"""A fifth of Redis stays free: whoever asks for a job is refused before Redis is full, and accepted jobs end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from gateway_parts import IMAGE_MODEL, Running, as_admin, until
from job_help import configured

WORDS = {"model": "words", "params": {"text": "to be"}}
UNKNOWN_ID = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"


@asynccontextmanager
async def nearly_full(gateway: Running) -> AsyncIterator[None]:
    """Redis with five sixths of its memory in use: it refuses nothing by itself."""
    used = (await gateway.redis.info("memory"))["used_memory"]
    async with configured(gateway.redis, "maxmemory", int(used * 1.2)):
        yield


async def asked(gateway: Running, failed_job: str) -> list[httpx2.Response]:
    """Everything that makes work, whether its input is an image or not."""
    return [
        await gateway.post("/api/v1/jobs", json=WORDS),
        await gateway.post("/api/v1/batches", json={**WORDS, "items": [{}, {}]}),
        await gateway.post(f"/api/v1/jobs/{failed_job}/retry"),
        await as_admin(gateway, "POST", f"/api/v1/admin/dead/{UNKNOWN_ID}/requeue"),
    ]


@pytest.mark.gateway(rate_submits_per_s=1000.0, rate_house_submits_per_s=1000.0)
async def test_nothing_is_taken_in_while_a_fifth_of_redis_is_not_free(gateway: Running) -> None:
    failed_job = await gateway.failed_job()
    gateway.model.open.clear()
    accepted = await gateway.submit()
    async with nearly_full(gateway):
        await until(
            lambda: asked(gateway, failed_job), fits=lambda found: {answer.status_code for answer in found} == {503}
        )  # what was measured may be a second old
        answers = await asked(gateway, failed_job)
        assert {answer.json()["type"] for answer in answers} == {"/problems/store-full"}
        assert all(answer.headers["retry-after"] for answer in answers)
        gateway.model.open.set()
        assert (await gateway.ended(accepted))["status"] == "COMPLETED"
    assert int(await gateway.redis.hget(f"ledger:{IMAGE_MODEL.name}", "accepted") or 0) == 2
    await until(lambda: gateway.post("/api/v1/jobs", json=WORDS), fits=lambda found: found.status_code == 202)
