"""What a refused request costs: the limiter's look, its usage event, and nothing else; and a submit that made nothing
costs nothing of the day's quota."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from gateway_parts import FORM, PICTURE, Running, failed, id_of, running_gateway, service_of, stuck, until
from redis.asyncio import Redis

from serve_app.contracts import Json
from serve_app.gateway.routes.table import ROUTES
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

PLENTY: Final = {"rate_reads_per_s": 1000.0, "rate_submits_per_s": 1000.0}
WORDS: Final = {"model": "words", "params": {"text": "one two"}}
DECIDED_FIRST: Final = [route for route in ROUTES if route.tracked and not route.overlaps]
ROLES: Final = {"realm_access": {"roles": ["sem-admin"]}}


async def block(gateway: Running, user: str) -> None:
    said = {"reason": "A test.", "by": "root", "by_id": "r", "at": 1}
    await gateway.redis.hset("limits:blocks", id_of(gateway, user), json.dumps(said))


async def batch_of_words(gateway: Running, size: int) -> str:
    answer = await gateway.post(
        "/api/v1/batches", json={"model": "words", "items": [{"params": WORDS["params"]}] * size}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["batch_id"])


async def ended_batch(gateway: Running, size: int) -> str:
    batch_id = await batch_of_words(gateway, size)
    await until(lambda: gateway.get(f"/api/v1/batches/{batch_id}"), fits=lambda found: found.json()["open"] == 0)
    return batch_id


async def of_ada(gateway: Running) -> dict[str, str]:
    """Something for each name that stands in a path. Nothing works on it any more: webhook and image are made up."""
    return {
        "job_id": await gateway.completed_with_file("ada"),
        "name": "mask.png",
        "principal_id": id_of(gateway, "ada"),
        "webhook_id": uuid.uuid4().hex,
        "batch_id": await ended_batch(gateway, 3),
        "image_id": uuid.uuid4().hex * 2,
        "object_id": str(uuid.uuid4()),
        "delivery_id": f"msg_{uuid.uuid4().hex}",
        "stop": "intake",
        **dict.fromkeys(("model", "model_name"), "sem-classifier"),
        "version": "1",
    }


def test_only_reads_of_one_record_overlap_with_the_limiter() -> None:
    assert [f"{route.method} {route.path}" for route in ROUTES if route.overlaps] == ["GET /api/v1/jobs/{job_id}"]


@pytest.mark.gateway(**PLENTY)
async def test_a_blocked_user_costs_no_route_that_is_decided_first_anything(gateway: Running) -> None:
    """Whatever Redis is asked for the request, beside the limiter's look and the event that tells of the refusal."""
    ids = await of_ada(gateway)
    await block(gateway, "ada")
    for route in DECIDED_FIRST:
        example = {"job_id": ids["job_id"]} if "/jobs/" in route.path else route.example
        path = route.path.format_map(ids)

        async with gateway.redis.monitor() as monitor:
            answer = await gateway.client.request(
                route.method, path, headers=gateway.bearer("ada", **ROLES), json=example
            )
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/user-blocked"), path
            mark = uuid.uuid4().hex
            await gateway.redis.echo(mark)
            commands = [command async for command in _until(monitor, mark)]
        assert [command for command in commands if _is_of_a_handler(command, ids)] == [], f"{route.method} {path}"


async def _until(monitor: Any, mark: str) -> AsyncIterator[str]:
    async for seen in monitor.listen():
        if mark in seen["command"]:
            return
        yield seen["command"]


def _is_of_a_handler(command: str, ids: dict[str, str]) -> bool:
    if command.startswith(("EVALSHA", "HGET limits:blocks", "XADD outbox")):
        return False  # a script's own commands come one by one
    if command.startswith(("HGETALL limits:", "HGETALL stops", "ZCARD dead:", "ZREVRANGEBYSCORE dead:")):
        return True
    return any(value in command for name, value in ids.items() if name.endswith("_id"))


@pytest.mark.gateway(**PLENTY)
async def test_a_blocked_users_reads_of_a_batch_ask_redis_for_no_item(gateway: Running) -> None:
    path = f"/api/v1/batches/{await ended_batch(gateway, 100)}"
    assert (await gateway.get(path)).status_code == 200
    await block(gateway, "ada")
    before = await _calls(gateway.redis, "hmget")
    for _ in range(20):
        assert (await gateway.get(path)).status_code == 403
    assert await _calls(gateway.redis, "hmget") - before < 100  # those of who works beside; 20 reads would be 4000


async def _calls(redis: Redis, command: str) -> int:
    stats: Any = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def used(gateway: Running, user: str = "ada") -> int:
    return int(await gateway.redis.get(f"quota:{id_of(gateway, user)}") or 0)


async def test_a_refused_batch_costs_nothing_of_the_quota(settings: Settings, authority: DevIssuerServer) -> None:
    """A full queue is asked again and again, as its Retry-After says; that must not use a day up."""
    quota = {"quota_submits_per_day": 1000, "queue_max_jobs": 10, "rate_submits_per_s": 20.0}
    async with running_gateway(settings, authority, **quota) as gateway:
        gateway.model.open.clear()
        body = {"model": "words", "items": [{"params": WORDS["params"]}] * 200}
        for _ in range(6):
            answer = await gateway.post("/api/v1/batches", json=body)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-full")
            assert '"submits-per-day";r=1000' in answer.headers["ratelimit"]
        assert await used(gateway) == 0
        await batch_of_words(gateway, 10)
        assert await used(gateway) == 10
        answer = await gateway.post("/api/v1/batches", json=body)
        assert (answer.status_code, await used(gateway)) == (503, 10)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"json": WORDS}, 503),
        ({"files": {"image": ("a.png", PICTURE)}}, 503),
        ({"files": {"image": ("a.png", b"no image")}}, 415),
        ({"json": {"model": "sem-classifier", "image_url": "http://127.0.0.1:9/a.png"}}, 422),
        ({"json": {"model": "no-such"}}, 404),
        ({"json": []}, 400),
    ],
)
async def test_a_submit_that_is_refused_costs_nothing_of_the_quota(
    settings: Settings, authority: DevIssuerServer, body: Json, status: int
) -> None:
    async with running_gateway(settings, authority, quota_submits_per_day=5, queue_max_jobs=1) as gateway:
        gateway.model.open.clear()
        for model in ("words", "sem-classifier"):
            fields = {"json": WORDS} if model == "words" else {"files": {"image": ("a.png", PICTURE)}}
            assert (await gateway.post("/api/v1/jobs", **fields)).status_code == 202
        for path in ("/api/v1/jobs", "/api/v1/inference"):
            if path == "/api/v1/jobs" or "json" not in body:
                answer = await gateway.post(path, **body)
                assert answer.status_code == status, answer.text
        assert await used(gateway) == 2


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/batches"])
async def test_an_upload_that_does_not_arrive_costs_nothing_of_the_quota(
    settings: Settings, authority: DevIssuerServer, path: str
) -> None:
    """Its client goes away, or it is too slow."""
    arriving = asyncio.Event()
    changes = {"quota_submits_per_day": 5, "submit_timeout_s": 0.5}
    async with running_gateway(settings, authority, **changes) as gateway:
        headers = {**FORM, **gateway.bearer()}
        request = asyncio.create_task(gateway.client.post(path, headers=headers, content=stuck(arriving=arriving)))
        await arriving.wait()
        assert await used(gateway) == 1
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert (await gateway.client.post(path, headers=headers, content=stuck())).status_code == 504
        await until(lambda: used(gateway), fits=lambda found: found == 0)


async def test_a_submit_that_is_sent_again_is_counted_once(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority, quota_submits_per_day=5) as gateway:
        headers = {**gateway.bearer(), "Idempotency-Key": "again"}
        for _ in range(3):
            assert (await gateway.client.post("/api/v1/jobs", headers=headers, json=WORDS)).status_code == 202
        assert await used(gateway) == 1
        body = {"model": "words", "items": [{"params": WORDS["params"]}] * 3}
        for _ in range(3):
            assert (await gateway.client.post("/api/v1/batches", headers=headers, json=body)).status_code == 202
        assert await used(gateway) == 4


async def test_a_retry_that_is_refused_costs_nothing_of_the_quota(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with running_gateway(settings, authority, quota_submits_per_day=5) as gateway:
        gateway.model.answer = failed("model-rejected", "No.")
        job_id = await gateway.submit()
        await gateway.ended(job_id)
        assert (await gateway.post(f"/api/v1/jobs/{job_id}/retry")).status_code == 202
        assert await used(gateway) == 2
        await gateway.ended(job_id)
        done = (await gateway.post("/api/v1/jobs", json=WORDS)).json()["job_id"]
        await gateway.ended(done)
        await gateway.redis.hset(f"job:{done}", "status", "COMPLETED")
        assert (await gateway.post(f"/api/v1/jobs/{done}/retry")).status_code == 409
        assert await used(gateway) == 3


async def test_a_count_of_another_day_is_given_nothing_back(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority, quota_submits_per_day=5) as gateway:
        limiter = service_of(gateway).limiter
        name = f"quota:{id_of(gateway, 'ada')}"
        await gateway.redis.set(name, 3, ex=60)
        keys = ["limits:blocks", "limits:overrides", "rate:submit:x", name]
        for left, expected in ((0, 3), (86_400, 2), (86_400, 1)):
            await limiter.refund(keys=keys, args=[1, 5, 1, 0, left])
            assert int(await gateway.redis.get(name)) == expected
        assert await gateway.redis.ttl(name) > 0
