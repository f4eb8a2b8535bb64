"""A Redis that answers, but with a refusal: 503 while it lasts, never 500, and nothing to restart afterwards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_parts import PICTURE, Running, running_gateway, until
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis_address import Address

from serve_app.connections import GroupingRedis, JobRedis, connect_redis, redis_errors
from serve_app.errors import TrackerUnavailable
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.state import password
from serve_app.local.valkey import Valkey, check_redis
from serve_app.settings import Settings
from tests.leaks import LeakScan

UNKNOWN = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"
READS = (
    "/api/v1/jobs?limit=1",
    f"/api/v1/jobs/{UNKNOWN}",
    f"/api/v1/jobs/{UNKNOWN}/result",
    f"/api/v1/jobs/{UNKNOWN}/events",
    "/api/v1/batches",
    "/api/v1/webhooks",
    "/api/v1/models",
    "/health",
    "/readyz?verbose",
)


@pytest.fixture(scope="module")
def server(servers_folder: Path, leak_scan: LeakScan) -> Iterator[Valkey]:
    """A Valkey whose configuration these tests may change."""
    server = Valkey(servers_folder / "refusing")
    server.start()
    leak_scan.words.add(password(server.folder / "password"))
    yield server
    server.stop()


@pytest.fixture
def admin(server: Valkey) -> Iterator[BlockingRedis]:
    with BlockingRedis.from_url(server.url) as client:
        client.flushall()
        yield client
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("replica-serve-stale-data", "yes")
        client.acl_deluser("limited")


def settings_of(url: str) -> Settings:
    return Settings(redis_url=SecretStr(url))


async def statuses(gateway: Running) -> Counter[int]:
    """What reads and submits of every kind are answered."""
    answers = [await gateway.get(path) for path in READS]
    answers.append(await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}))
    answers.append(await gateway.post("/api/v1/jobs", json={"model": "words", "params": {"text": "a"}}))
    answers.append(await gateway.post("/api/v1/batches", json={"model": "words", "items": [{"params": {"text": "a"}}]}))
    answers.append(await gateway.post("/api/v1/jobs/status", json={"job_id": UNKNOWN}))
    for answer in answers:
        if answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json":
            assert answer.json()["type"] in ("/problems/tracker-unavailable", "/problems/usage-unavailable")
            assert int(answer.headers["retry-after"]) > 0
    return Counter(answer.status_code for answer in answers)


async def is_well(gateway: Running) -> bool:
    return (await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)})).status_code == 202


@pytest.mark.parametrize("stale", ["no", "yes"], ids=["MASTERDOWN", "READONLY"])
async def test_a_replica_in_the_place_of_the_primary_is_503_and_then_well(
    server: Valkey, admin: BlockingRedis, authority: DevIssuerServer, stale: str
) -> None:
    async with running_gateway(settings_of(server.url), authority) as gateway:
        assert set(await statuses(gateway)) <= {200, 202, 404, 503}  # no model beats: /health is 503
        job_id = await gateway.submit()
        await gateway.ended(job_id)
        admin.config_set("replica-serve-stale-data", stale)
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        seen = await statuses(gateway)
        assert seen[503] >= 4
        assert set(seen) <= {200, 404, 503}
        admin.execute_command("REPLICAOF", "NO", "ONE")
        await until(lambda: is_well(gateway))
        await gateway.ended(await gateway.submit())  # the dispatcher too


@pytest.mark.parametrize("taken", ["-evalsha", "-hget", "~nothing:*", "-@write"])
async def test_a_right_that_is_taken_away_is_503_and_comes_back(
    server: Valkey, admin: BlockingRedis, authority: DevIssuerServer, taken: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "limited", "on", ">a-password-of-tests", "~*", "&*", "+@all")
    url = f"redis://limited:a-password-of-tests@127.0.0.1:{server.port}/0"
    async with running_gateway(settings_of(url), authority) as gateway:
        assert await is_well(gateway)
        rules = ("resetkeys", taken) if taken.startswith("~") else (taken,)
        admin.execute_command("ACL", "SETUSER", "limited", *rules)
        seen = await statuses(gateway)
        assert seen[503] >= 1
        assert set(seen) <= {200, 202, 404, 503}
        admin.execute_command("ACL", "SETUSER", "limited", "~*", "+@all")
        await until(lambda: is_well(gateway))


async def test_another_password_is_503_and_the_old_one_again_is_well(
    server: Valkey, admin: BlockingRedis, authority: DevIssuerServer
) -> None:
    admin.execute_command("ACL", "SETUSER", "limited", "on", ">a-password-of-tests", "~*", "&*", "+@all")
    url = f"redis://limited:a-password-of-tests@127.0.0.1:{server.port}/0"
    async with running_gateway(settings_of(url), authority) as gateway:
        assert await is_well(gateway)
        admin.execute_command("ACL", "SETUSER", "limited", "resetpass", ">another-one-of-tests")
        admin.client_kill_filter(_type="normal", skipme=True)
        assert set(await statuses(gateway)) <= {200, 503}
        admin.execute_command("ACL", "SETUSER", "limited", "resetpass", ">a-password-of-tests")
        await until(lambda: is_well(gateway))


async def test_a_managed_redis_without_info_and_config_works_and_says_what_is_not_checked(
    server: Valkey, admin: BlockingRedis, authority: DevIssuerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Managed servers forbid @dangerous and @admin: INFO, CONFIG, KEYS, CLIENT KILL, …; some also SCRIPT."""
    rules = ("-@dangerous", "-@admin", "-config", "-client", "-script", "-debug")
    admin.execute_command("ACL", "SETUSER", "limited", "on", ">a-password-of-tests", "~*", "&*", "+@all", *rules)
    admin.script_flush()
    url = f"redis://limited:a-password-of-tests@127.0.0.1:{server.port}/0"
    check_redis(url)
    async with running_gateway(settings_of(url), authority, image_store_share=0.0001) as gateway:
        assert (await gateway.ended(await gateway.submit()))["status"] == "COMPLETED"
        seen = await statuses(gateway)
        assert seen[202] == 3
        assert set(seen) <= {200, 202, 404, 503}
        verbose = (await gateway.get("/readyz?verbose")).json()
        assert verbose["memory"].startswith("not checked: ")
        assert caplog.text.count("does not tell its memory") == 1
        admin.execute_command("ACL", "SETUSER", "limited", "+info")
        await until(
            lambda: gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}),
            fits=lambda found: found.status_code == 503,
        )  # the share is one of nothing
        assert "memory" not in (await gateway.get("/readyz?verbose")).json()


@pytest.mark.parametrize("kind", [JobRedis, GroupingRedis])
@pytest.mark.parametrize("how", ["command", "script", "pipeline"])
async def test_after_a_failover_the_next_try_finds_the_new_primary(
    server: Valkey, admin: BlockingRedis, valkey: Valkey, own_keys: None, kind: type[Redis], how: str
) -> None:
    with BlockingRedis.from_url(valkey.url) as other:
        secret = urlsplit(server.url).password
        other.execute_command("ACL", "SETUSER", "moved", "on", f">{secret}", "~*", "&*", "+@all")
        admin.execute_command("ACL", "SETUSER", "moved", "on", f">{secret}", "~*", "&*", "+@all")
    async with Address(server.port) as address:
        redis = connect_redis(settings_of(f"redis://moved:{secret}@127.0.0.1:{address.port}/0"), client=kind)
        script = redis.register_script("return redis.call('SET', KEYS[1], 'x')")

        async def write() -> None:
            with redis_errors():
                if how == "command":
                    await redis.set("moved-key", "x", ex=60)
                elif how == "script":
                    await script(keys=["moved-key"])
                else:
                    async with redis.pipeline(transaction=False) as pipeline:
                        pipeline.set("moved-key", "x")
                        pipeline.get("moved-key")
                        await pipeline.execute()

        await asyncio.gather(*(write() for _ in range(5)))  # several connections are open now
        address.target = valkey.port
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        deadline, failed = time.monotonic() + 5, 0
        while True:
            try:
                await write()
                break
            except TrackerUnavailable:
                failed += 1
                assert time.monotonic() < deadline
        assert 1 <= failed <= 6  # at most once for each connection that was open
        await redis.aclose()
    with BlockingRedis.from_url(valkey.url) as other:
        assert other.get("moved-key") == b"x"
        other.delete("moved-key")
        other.acl_deluser("moved")
    admin.acl_deluser("moved")


async def test_a_command_that_is_wrong_stays_a_defect(server: Valkey, admin: BlockingRedis) -> None:
    redis = connect_redis(settings_of(server.url))
    await redis.set("text", "no list", ex=60)
    for command in (("LPUSH", "text", "x"), ("INCRBY", "text"), ("EVAL", "return nil + 1", "0")):
        with pytest.raises(ResponseError), redis_errors():
            await redis.execute_command(*command)
    await redis.aclose()


def test_redis_errors_are_told_apart_from_all_others() -> None:
    with pytest.raises(RedisError), redis_errors():
        raise RedisError("what no server said")
