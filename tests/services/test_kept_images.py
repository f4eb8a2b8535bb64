"""Images that their owner asked to keep: there as long as the job's record, and given back as they came."""

from __future__ import annotations

import httpx2
import pytest
from gateway_parts import PICTURE, Running, as_admin, failed, listening, running_gateway, until
from job_help import configured
from object_store import SeaweedFS
from PIL import Image
from receiver import receiving
from test_image_fetch import whole

from serve_app.contracts import Json
from serve_app.images.store import PIECE_BYTES
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings
from tests.pictures import encode

LARGE = encode(Image.effect_noise((900, 1100), 90), "TIFF")
"""Of several pieces."""


async def kept(gateway: Running, picture: bytes = PICTURE, user: str = "ada", keep: str = "true") -> Json:
    """The object of a new job whose image is to be kept."""
    body = {"files": {"image": ("a.png", picture)}, "data": {"keep": keep}}
    answer = await gateway.post("/api/v1/jobs", user, **body)
    assert answer.status_code == 202, answer.text
    job: Json = answer.json()
    return job


async def image(gateway: Running, job_id: str, user: str = "ada") -> httpx2.Response:
    return await gateway.get(f"/api/v1/jobs/{job_id}/image", user)


async def lives_as_its_record(gateway: Running, job_id: str) -> None:
    """Image and record leave in the same second, and the image takes no room of the queue any more."""
    record, blob = await gateway.redis.ttl(f"job:{job_id}"), await gateway.redis.ttl(f"blob:{job_id}")
    assert 0 < blob <= record <= blob + 1
    assert int(await gateway.redis.get("held-bytes") or 0) == 0


async def refused(gateway: Running, job_id: str) -> None:
    answer = await image(gateway, job_id)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/image-not-kept")


async def test_a_completed_job_still_has_its_image(gateway: Running) -> None:
    job = await kept(gateway)
    ended = await gateway.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    assert ended["links"]["image"] == job["links"]["image"] == f"/api/v1/jobs/{job['job_id']}/image"
    answer = await gateway.get(ended["links"]["image"])
    assert (answer.status_code, answer.content) == (200, PICTURE)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == f'attachment; filename="{job["job_id"]}.png"'
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    await lives_as_its_record(gateway, job["job_id"])
    [page] = (await gateway.get("/api/v1/jobs")).json()["data"]
    assert page["links"] == ended["links"]


async def test_a_cancelled_job_still_has_its_image(gateway: Running) -> None:
    gateway.model.open.clear()
    job_id = (await kept(gateway))["job_id"]
    assert (await image(gateway, job_id)).content == PICTURE  # before its end too
    assert (await gateway.post(f"/api/v1/jobs/{job_id}/cancel")).json()["status"] == "CANCELLED"
    assert (await image(gateway, job_id)).content == PICTURE
    await lives_as_its_record(gateway, job_id)


async def test_a_failed_job_keeps_its_image_through_a_retry(gateway: Running) -> None:
    usual, gateway.model.answer = gateway.model.answer, failed("model-rejected", "No.")
    job_id = (await kept(gateway))["job_id"]
    assert (await gateway.ended(job_id))["status"] == "FAILED"
    assert (await image(gateway, job_id)).content == PICTURE
    await lives_as_its_record(gateway, job_id)
    gateway.model.answer = usual
    assert (await gateway.post(f"/api/v1/jobs/{job_id}/retry")).status_code == 202
    assert (await gateway.ended(job_id))["status"] == "COMPLETED"
    assert (await image(gateway, job_id)).content == PICTURE
    await lives_as_its_record(gateway, job_id)


async def test_a_dead_job_has_its_image_until_an_admin_drops_it(gateway: Running) -> None:
    job_id = await gateway.dead_job(keep="true")
    assert (await image(gateway, job_id)).content == PICTURE
    assert (await as_admin(gateway, "DELETE", f"/api/v1/admin/dead/{job_id}")).status_code < 300
    assert (await image(gateway, job_id)).json()["type"] == "/problems/job-unknown"
    assert await gateway.redis.keys("blob:*") == []


async def test_a_large_image_comes_whole_from_a_socket(gateway: Running) -> None:
    assert len(LARGE) > 5 * PIECE_BYTES
    job = await kept(gateway, LARGE)
    async with listening(gateway.application) as url, httpx2.AsyncClient(base_url=url) as client:
        answer = await client.get(job["links"]["image"], headers=gateway.bearer())
        head = await client.head(job["links"]["image"], headers=gateway.bearer())
    assert answer.content == LARGE
    assert answer.headers["content-type"] == head.headers["content-type"] == "image/tiff"
    assert answer.headers["content-length"] == head.headers["content-length"] == str(len(LARGE))
    assert head.content == b""


async def test_an_image_that_ends_early_is_no_whole_answer(gateway: Running) -> None:
    job = await kept(gateway, LARGE)
    await gateway.ended(job["job_id"])
    await gateway.redis.set(f"blob:{job['job_id']}", LARGE[: 3 * PIECE_BYTES + 1], keepttl=True)
    async with listening(gateway.application) as url, httpx2.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(job["links"]["image"], headers=gateway.bearer())


async def test_an_image_that_was_fetched_is_kept_too(settings: Settings, authority: DevIssuerServer) -> None:
    async with (
        receiving(whole(PICTURE)) as server,
        running_gateway(settings, authority, image_url_private_hosts=(server.here,)) as gateway,
    ):
        asked = {"image_url": f"http://{server.here}/a.png", "keep": True}
        job = (await gateway.post("/api/v1/jobs", json=asked)).json()
        await gateway.ended(job["job_id"])
        assert (await image(gateway, job["job_id"])).content == PICTURE


@pytest.mark.parametrize("keep", ["false", None])
async def test_without_being_asked_nothing_is_kept(gateway: Running, keep: str | None) -> None:
    gateway.model.open.clear()
    job = await kept(gateway, keep=keep) if keep else {"job_id": await gateway.submit()}
    shown = (await gateway.get(f"/api/v1/jobs/{job['job_id']}")).json()
    assert "image" not in shown["links"]
    await refused(gateway, job["job_id"])  # also while it is stored for the model
    gateway.model.open.set()
    await gateway.ended(job["job_id"])
    assert await gateway.redis.keys("blob:*") == []
    await refused(gateway, job["job_id"])


async def test_a_deleted_job_leaves_no_image(gateway: Running) -> None:
    job = await kept(gateway)
    await gateway.ended(job["job_id"])
    deleted = await gateway.client.delete(job["links"]["self"], headers=gateway.bearer())
    assert deleted.status_code == 204
    assert await gateway.redis.keys("blob:*") == []
    assert (await image(gateway, job["job_id"])).json()["type"] == "/problems/job-unknown"


async def test_an_image_that_is_gone_is_said_to_be(gateway: Running) -> None:
    job_id = (await kept(gateway))["job_id"]
    await gateway.ended(job_id)
    await gateway.redis.delete(f"blob:{job_id}")
    await refused(gateway, job_id)


async def test_reading_it_is_counted(gateway: Running) -> None:
    job_id = (await kept(gateway))["job_id"]
    await image(gateway, job_id)
    event = (await gateway.usage())[-1]
    assert (event["endpoint_type"], event["job_id"], event["model"]) == ("job_image", job_id, "sem-classifier")


async def test_kept_images_end_at_the_share_of_images(gateway: Running) -> None:
    """What is kept is out of the queue's bytes but in Redis' memory: a full store takes no more, and says so."""
    used = (await gateway.redis.info("memory"))["used_memory"]
    # The share is 0.6 of it: room for a few of these images.
    async with configured(gateway.redis, "maxmemory", int((used + 5 * len(LARGE)) / 0.6)):
        first = (await kept(gateway, LARGE))["job_id"]

        async def full() -> httpx2.Response | None:
            parts = {"files": {"image": ("a.tif", LARGE)}, "data": {"keep": "true"}}
            answer = await gateway.post("/api/v1/jobs", **parts)
            return answer if answer.status_code == 503 else None

        answer: httpx2.Response = await until(full)
        assert answer.json()["type"] == "/problems/store-full"
        assert (await image(gateway, first)).content == LARGE


async def test_a_bucket_gives_the_image_by_url(
    settings: Settings, authority: DevIssuerServer, object_store: SeaweedFS, in_bucket: dict[str, object]
) -> None:
    async with running_gateway(settings, authority, **in_bucket) as gateway:
        job_id = (await kept(gateway))["job_id"]
        await gateway.ended(job_id)
        answer = await image(gateway, job_id)
        assert answer.status_code == 307
        async with httpx2.AsyncClient() as anybody:
            found = await anybody.get(answer.headers["location"])
        assert (found.content, found.headers["content-type"]) == (PICTURE, "image/png")
        assert found.headers["content-disposition"] == f'attachment; filename="{job_id}.png"'
        await lives_as_its_record(gateway, job_id)


async def test_a_model_without_images_has_none_to_keep(gateway: Running) -> None:
    answer = await gateway.post("/api/v1/jobs", json={"model": "words", "params": {"text": "a"}, "keep": True})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/body-invalid")
    job = await gateway.post("/api/v1/jobs", json={"model": "words", "params": {"text": "a"}})
    await refused(gateway, job.json()["job_id"])


@pytest.mark.parametrize("field", ["keep", "priority"])
@pytest.mark.parametrize("value", ["", "TRUE", "1", "high", 1, [], {}, ["bulk"]])
async def test_other_words_are_refused_and_leave_nothing(gateway: Running, field: str, value: object) -> None:
    bodies: list[Json] = [{"json": {"image_url": "https://example.org/a.png", field: value}}]
    if isinstance(value, str):
        bodies.append({"files": {"image": ("a.png", PICTURE)}, "data": {field: value}})
    for body in bodies:
        answer = await gateway.post("/api/v1/jobs", **body)
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/body-invalid")
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"/{field}"]
    assert await gateway.redis.keys("*:*-*-*-*") == []


@pytest.mark.parametrize("field", [{"keep": "true"}, {"priority": "bulk"}])
async def test_the_older_submit_knows_neither(gateway: Running, field: dict[str, str]) -> None:
    answer = await gateway.post("/api/v1/inference", files={"image": ("a.png", PICTURE)}, data=field)
    assert answer.json()["errors"][0]["detail"] == "no such field; the body may hold image, image_url, model and params"


async def test_a_key_is_of_what_is_kept_and_how_it_hurries(gateway: Running) -> None:
    async def send(**fields: str) -> httpx2.Response:
        headers = {**gateway.bearer(), "Idempotency-Key": "one"}
        return await gateway.client.post(
            "/api/v1/jobs", headers=headers, files={"image": ("a.png", PICTURE)}, data=fields
        )

    first, again = await send(keep="true", priority="bulk"), await send(keep="true", priority="bulk")
    assert (again.status_code, again.json()) == (202, first.json())
    assert (first.json()["priority"], "image" in first.json()["links"]) == ("bulk", True)
    for fields in ({"keep": "true"}, {"priority": "bulk"}, {"keep": "false", "priority": "bulk"}, {}):
        assert (await send(**fields)).json()["type"] == "/problems/idempotency-key-reused"


async def test_normal_jobs_go_before_bulk_ones(gateway: Running) -> None:
    """Behind a job that runs, bulk ones wait; normal ones that come later, another user's too, go first."""
    gateway.model.open.clear()
    await gateway.submit()
    await until(lambda: gateway.model.tasks)
    sent = []
    for priority, user in (("bulk", "ada"), ("bulk", "bob"), ("normal", "ada"), ("normal", "bob")):
        answer = await gateway.post(
            "/api/v1/jobs", user, files={"image": ("a.png", PICTURE)}, data={"priority": priority}
        )
        job = answer.json()
        assert job["priority"] == priority
        sent.append((job["job_id"], user))
    gateway.model.open.set()
    shown = [await gateway.ended(job_id, user) for job_id, user in sent]
    assert [job["priority"] for job in shown] == ["bulk", "bulk", "normal", "normal"]
    order = [task.job_id for task in gateway.model.tasks[1:]]
    assert set(order[:2]) == {job_id for job_id, _ in sent[2:]}
    assert len(order) == 4
