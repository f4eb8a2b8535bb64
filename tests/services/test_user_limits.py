"""Limits of one user and of the house: shared by all gateways, told in headers, refused before anything is stored."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import pytest
from gateway_parts import FORM, HEAD, PICTURE, UNKNOWN_ID, Running, running_gateway
from job_help import configured

from serve_app.connections import GroupingRedis, connect_redis
from serve_app.contracts import Principal
from serve_app.gateway.ratelimit import Limiter
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import MIB, Settings

UNKNOWN = f"/api/v1/jobs/{UNKNOWN_ID}"
FLOOD_S = 3.0


def words(text: str) -> dict[str, Any]:
    """The body of a submit without an image."""
    return {"json": {"model": "words", "params": {"text": text}}}


async def flood(gateway: Running, user: str, seconds: float) -> Counter[int]:
    """As many reads as one client gets answered in that time, by status."""
    headers, statuses, until = gateway.bearer(user), Counter[int](), time.monotonic() + seconds
    while time.monotonic() < until:
        statuses[(await gateway.client.get(UNKNOWN, headers=headers)).status_code] += 1
    return statuses


@pytest.mark.gateway(rate_reads_per_s=40.0)
async def test_a_flood_is_told_when_to_come_again_and_nobody_else_is_held_up(gateway: Running) -> None:
    flooding = asyncio.create_task(flood(gateway, "flood", FLOOD_S))
    calm = []
    while not flooding.done():
        calm.append((await gateway.get(UNKNOWN, "calm")).status_code)
        await asyncio.sleep(0.05)
    assert set(calm) == {404}
    assert (await flooding)[429] > 0
    refused = await gateway.get(UNKNOWN, "flood")
    while refused.status_code != 429:
        refused = await gateway.get(UNKNOWN, "flood")
    assert refused.json()["type"] == "/problems/rate-limited"
    assert refused.headers["retry-after"] == "1"


@pytest.mark.gateway(rate_reads_per_s=17.0)  # 58,823.5 µs apart
async def test_a_refusal_names_the_rate_that_was_set(gateway: Running) -> None:
    answers = await asyncio.gather(*(gateway.get(UNKNOWN, "fast") for _ in range(100)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused[0].json()["detail"].startswith("You may send 17 reads a second, and a burst at first.")


@pytest.mark.gateway(rate_submits_per_s=0.5)
async def test_retry_after_is_right(gateway: Running) -> None:
    """A request every two seconds: the next one passes after what `Retry-After` says, and not a second earlier."""
    assert (await gateway.post("/api/v1/jobs", **words("one"))).status_code == 202
    refused = await gateway.post("/api/v1/jobs", **words("two"))
    told = time.monotonic()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    asked = told
    while (answer := await gateway.post("/api/v1/jobs", **words("two"))).status_code == 429:
        assert asked < told + 2, "refused after the wait that was named"
        assert 0 < int(answer.headers["retry-after"]) <= 2
        await asyncio.sleep(0.05)
        asked = time.monotonic()
    assert answer.status_code == 202
    assert time.monotonic() - told > 1


@pytest.mark.gateway(rate_house_reads_per_s=0.05, rate_house_submits_per_s=0.05)
async def test_the_limit_of_all_users_holds_for_everybody_but_not_for_admins(gateway: Running) -> None:
    assert (await gateway.get(UNKNOWN, "user-1")).status_code == 404
    refused = await gateway.get(UNKNOWN, "user-2")
    assert refused.status_code == 429
    assert 10 < int(refused.headers["retry-after"]) <= 20
    assert "All users together" in refused.json()["detail"]
    assert refused.headers["ratelimit"] == '"reads";r=200;t=0'  # it was not taken from the user's own
    admin = gateway.bearer("root", roles=["sem-admin"])
    assert (await gateway.client.get("/api/v1/admin/limits", headers=admin)).status_code == 200
    assert (await gateway.post("/api/v1/jobs", "ada", **words("a"))).status_code == 202
    assert (await gateway.post("/api/v1/jobs", "bob", **words("b"))).status_code == 429


@pytest.mark.gateway(quota_submits_per_day=7)
async def test_every_answer_to_a_user_tells_the_limits(gateway: Running) -> None:
    read = await gateway.get(UNKNOWN)
    assert read.headers["ratelimit-policy"] == '"reads";q=200;w=2'
    assert read.headers["ratelimit"] == '"reads";r=199;t=1'
    submit = await gateway.post("/api/v1/jobs", **words("one two"))
    assert submit.headers["ratelimit-policy"] == '"submits";q=40;w=2, "submits-per-day";q=7;w=86400'
    assert re.fullmatch(r'"submits";r=39;t=1, "submits-per-day";r=6;t=\d{1,5}', submit.headers["ratelimit"])
    for path in ("/livez", "/nowhere"):
        assert "ratelimit" not in (await gateway.client.get(path)).headers
    unknown = await gateway.client.get(UNKNOWN, headers={"Authorization": "Bearer a.b.c"})
    assert unknown.status_code == 401
    assert "ratelimit" not in unknown.headers


@pytest.mark.gateway(quota_submits_per_day=1, quota_submits_per_day_roles=("staff=2", "robots=0"))
async def test_the_days_quota_is_the_roles(gateway: Running) -> None:

    async def accepted(user: str, **claims: Any) -> int:
        headers = gateway.bearer(user, **claims)
        answers = [await gateway.client.post("/api/v1/jobs", headers=headers, **words("x")) for _ in range(3)]
        if refused := [answer for answer in answers if answer.status_code == 429]:
            assert 0 < int(refused[0].headers["retry-after"]) <= 86400
            assert "midnight UTC" in refused[0].json()["detail"]
            assert (await gateway.client.get(UNKNOWN, headers=headers)).status_code == 404
        return sum(answer.status_code == 202 for answer in answers)

    assert await accepted("ada") == 1
    assert await accepted("bob", roles=["staff", "other"]) == 2
    assert await accepted("hal", realm_access={"roles": ["robots", "staff"]}) == 3
    counts = await gateway.redis.keys("quota:*")
    assert len(counts) == 2  # who has no quota is not counted
    assert all([0 < await gateway.redis.ttl(name) <= 86400 for name in counts])


@pytest.mark.gateway(rate_submits_per_s=0.01)
async def test_a_refused_request_is_one_usage_row_and_nothing_else(gateway: Running) -> None:
    image = {"files": {"image": ("a.png", PICTURE)}}
    assert (await gateway.post("/api/v1/jobs", **image)).status_code == 202
    for path, body in (("/api/v1/jobs", image), ("/api/v1/inference", image), ("/api/v1/jobs", {"json": {}})):
        refused = await gateway.post(path, **body)
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/rate-limited")
    assert [event["status_code"] for event in await gateway.usage()] == [202, 429, 429, 429]
    assert await gateway.redis.hget("ledger:sem-classifier", "accepted") == b"1"
    assert len(await gateway.redis.keys("blob:*")) <= 1


async def test_who_has_no_token_is_counted_nowhere(gateway: Running) -> None:
    for headers in ({}, {"Authorization": "Bearer a.b.c"}, gateway.bearer(exp=1)):
        for _ in range(3):
            assert (await gateway.client.get(UNKNOWN, headers=headers)).status_code == 401
    assert await gateway.redis.keys() == []


@pytest.mark.gateway(rate_submits_per_s=0.01)
async def test_a_refused_upload_need_not_arrive(gateway: Running) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield HEAD
        while True:
            sent += 1
            yield bytes(MIB // 64)
            await asyncio.sleep(0)

    assert (await gateway.post("/api/v1/jobs", **words("x"))).status_code == 202
    headers = {**FORM, **gateway.bearer()}
    refused = await gateway.client.post("/api/v1/jobs", headers=headers, content=endless())
    assert refused.status_code == 429
    assert sent < 50 * 64  # long before it is too large


async def test_the_limiter_costs_no_round_trip_of_its_own(gateway: Running) -> None:
    """What Redis reads at once, it counts once: the limiter's script arrives with the read, then the usage event."""
    reads, path = 50, f"/api/v1/jobs/{await gateway.submit()}"
    await gateway.ended(path.rpartition("/")[2])
    before = (await gateway.redis.info("stats"))["total_reads_processed"]
    for _ in range(reads):
        assert (await gateway.get(path)).status_code == 200
    arrived = (await gateway.redis.info("stats"))["total_reads_processed"] - before
    assert 2 * reads <= arrived < 2.5 * reads  # and what goes on beside


@pytest.mark.gateway(rate_reads_per_s=0.01)
async def test_reads_go_on_where_redis_takes_no_writes(gateway: Running) -> None:
    async with configured(gateway.redis, "min-replicas-to-write", 1):
        for _ in range(3):
            assert (await gateway.get(UNKNOWN)).status_code == 404
    assert [(await gateway.get(UNKNOWN)).status_code for _ in range(2)] == [404, 429]


async def test_buckets_are_bounded_in_time_and_never_on_disk(settings: Settings) -> None:
    redis = cast(GroupingRedis, connect_redis(settings, client=GroupingRedis))
    limiter = Limiter(redis, settings)

    async def written() -> int:
        return int((await redis.info("persistence"))["aof_current_size"])

    before = await written()
    for number in range(50):
        await limiter.ask(Principal(f"{number % 7:032x}", "ada"), "read").granted()
    names = await redis.keys()
    assert len(names) == 8
    assert all([0 < await redis.ttl(name) <= 60 for name in names])
    assert await written() == before
    await redis.script_flush()  # a Redis that forgot the script is told it again
    await limiter.ask(Principal("a" * 32, "ada"), "submit").granted()
    await redis.aclose()


async def test_a_client_that_goes_away_leaves_no_lost_answers(
    settings: Settings, authority: DevIssuerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(settings, authority, rate_reads_per_s=1.0) as gateway:
        for turn in range(20):
            request: asyncio.Task[httpx2.Response] = asyncio.create_task(gateway.get(UNKNOWN))
            for _ in range(turn):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
    assert "never retrieved" not in caplog.text
