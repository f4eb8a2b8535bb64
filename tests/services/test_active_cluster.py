"""Two clusters of an upgrade share the jobs' Redis: only the one that serves users begins jobs, as long as it runs."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from gateway_parts import IMAGE_MODEL, Answering, Running, running_gateway, until

from serve_app.errors import ModelUnready
from serve_app.jobs import limits
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

JOBS = 20


async def active(gateway: Running, cluster: str) -> None:
    """Return when this cluster is the active one."""

    async def is_active() -> bool:
        return bool(await gateway.redis.hget("active", "cluster") == cluster.encode())

    await until(is_active)


async def completed(gateway: Running, through: Running | None = None) -> set[str]:
    """The ids of jobs that were submitted to a gateway, once all have ended. Each time by another user: one alone would
    send more than the limits of a user allow."""
    user = uuid.uuid4().hex
    ids = await asyncio.gather(*((through or gateway).submit(user) for _ in range(JOBS)))
    jobs = await asyncio.gather(*(gateway.ended(job_id, user) for job_id in ids))
    assert {job["status"] for job in jobs} == {"COMPLETED"}
    assert {job["deliveries"] for job in jobs} == {1}
    return set(ids)


def worked_on(gateway: Running) -> set[str]:
    return {task.job_id for task in gateway.model.tasks}


@pytest.mark.slow(reason="a cluster counts as active for five seconds")
async def test_the_old_cluster_takes_no_job_once_the_new_one_serves(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with running_gateway(settings, authority, cluster="old") as old:
        first = await completed(old)
        await active(old, "old")
        async with running_gateway(settings, authority, cluster="new") as new:
            second = await completed(old)
            assert worked_on(new) == set(), "no user reached it yet"

            assert (await new.get("/api/v1/models")).status_code == 200
            await active(new, "new")
            third = await completed(new)
            stray = await completed(new, through=old)  # a connection that was kept to the old one
            assert worked_on(old) == first | second
            assert worked_on(new) == third | stray


async def test_what_needs_no_user_makes_no_cluster_active(settings: Settings, authority: DevIssuerServer) -> None:
    async with (
        running_gateway(settings, authority, cluster="old") as old,
        running_gateway(settings, authority, cluster="new") as new,
    ):
        await completed(old)
        await active(old, "old")
        for path in ("/livez", "/readyz", "/api/v1/version"):
            assert (await new.client.get(path)).status_code == 200
        assert (await new.client.get("/api/v1/models", headers={"Authorization": "Bearer no"})).status_code == 401
        ids = await completed(old)
        assert ids <= worked_on(old)


@pytest.mark.slow(reason="a cluster counts as active for five seconds")
async def test_the_older_cluster_goes_on_when_the_newer_is_gone(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority, cluster="old") as old:
        await completed(old)
        async with running_gateway(settings, authority, cluster="new") as new:
            await new.get("/api/v1/models")
            await active(new, "new")
            job_id = await old.submit()
            await new.ended(job_id)
        await active(old, "old")  # only now: polling jobs for ACTIVE_S takes more reads than a user has
        ids = await completed(old)
        assert ids <= worked_on(old)


async def test_a_redis_that_forgets_does_not_bring_the_old_cluster_back(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with (
        running_gateway(settings, authority, cluster="old") as old,
        running_gateway(settings, authority, cluster="new") as new,
    ):
        await old.get("/api/v1/models")
        await active(old, "old")
        await new.get("/api/v1/models")
        await active(new, "new")
        await new.redis.delete("active", "serving:old", "serving:new")
        await active(new, "new")
        stray = await completed(new, through=old)  # the last user that each saw is the old one's
        await active(new, "new")
        assert stray <= worked_on(new)


async def test_jobs_do_not_wait_for_a_cluster_whose_model_is_refused(
    settings: Settings, authority: DevIssuerServer
) -> None:
    """Somebody looks at a new cluster that does not become ready; users stay with the old one."""
    refused = Answering()

    async def fails() -> str:
        raise ModelUnready("The model was refused.")

    refused.warm_up = fails  # type: ignore[method-assign]
    async with (
        running_gateway(settings, authority, cluster="old") as old,
        running_gateway(settings, authority, cluster="new", model=refused) as new,
    ):
        await old.get("/api/v1/models")
        await active(old, "old")
        await new.get("/api/v1/models")
        await active(new, "new")
        assert await completed(old) == worked_on(old)


async def test_what_is_known_of_clusters_ends_with_them(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority, cluster="one") as gateway:
        await gateway.get("/api/v1/models")
        await active(gateway, "one")
        for key in ("active", "serving:one", f"asking:one:{IMAGE_MODEL.name}"):
            assert 0 < await gateway.redis.pttl(key) <= limits.ACTIVE_S * 1000


async def test_outside_of_kuberay_there_is_no_mark(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority) as gateway:
        await gateway.redis.hset("active", "cluster", "another")
        await completed(gateway)
        await gateway.redis.delete("active")


@pytest.mark.parametrize("pause_s", [0.0, 1.2])
@pytest.mark.slow(reason="a cluster counts as active for five seconds")
async def test_a_gateway_that_starts_later_does_not_take_the_mark_back(
    settings: Settings, authority: DevIssuerServer, pause_s: float
) -> None:
    """A replica of the old cluster that was started again remembers nothing of its own."""
    async with (
        running_gateway(settings, authority, cluster="old") as old,
        running_gateway(settings, authority, cluster="new") as new,
    ):
        await old.get("/api/v1/models")
        await active(old, "old")
        await new.get("/api/v1/models")
        await active(new, "new")
        async with running_gateway(settings, authority, cluster="old") as again:
            await asyncio.sleep(pause_s)
            ids = await completed(new, through=again)
            assert worked_on(again) == worked_on(old) == set()
            assert ids <= worked_on(new)
