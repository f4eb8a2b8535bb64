"""The images API: an image and its objects in one answer, kept for their owner alone, and looked at once."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from gateway_parts import (
    DETECTIONS,
    DETECTOR,
    IMAGES_API,
    PICTURE,
    UNKNOWN_ID,
    Running,
    failed,
    id_of,
    running_gateway,
)
from waiting import until

from serve_app.contracts import Json, Outcome
from serve_app.gateway.routes import images as routes
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.settings import Settings
from serve_app.usage import images as table
from serve_app.usage.report.prune import prune
from tests.pictures import encode, gradient

PATH = "/api/v1/images"
ID = sha256(PICTURE).hexdigest()
OTHER, THIRD = encode(gradient(40, 30), "PNG"), encode(gradient(20, 20), "PNG")
SHOWN = [{name: one[name] for name in one} for one in DETECTIONS["detections"]]
FIRST = SHOWN[0]

pytestmark = pytest.mark.gateway(**IMAGES_API)


@pytest.fixture
async def gateway(tables: str, gateway: Running) -> Running:
    return gateway


def told(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


def rows(database: str, table: str = "images") -> list[Any]:
    statement = {
        "images": "SELECT owner, image_id, job_id FROM images ORDER BY id",
        "job_outcomes": "SELECT job_id, result IS NULL, removed_at IS NULL FROM job_outcomes ORDER BY id",
    }[table]
    with psycopg.connect(database) as connection:
        return connection.execute(statement).fetchall()


async def outcome_is_stored(database: str, job_id: str) -> None:
    await until(lambda: job_id in [row[0] for row in rows(database, "job_outcomes")] or None)


async def test_an_image_is_answered_with_its_objects_which_are_read_from_both_paths(gateway: Running) -> None:
    sent = await gateway.post("/images/", files={"file": ("a.png", PICTURE)})
    assert sent.status_code == 200, sent.text
    image = sent.json()
    assert image["image_id"] == ID
    assert image["detection"] == {"detections": SHOWN, "count": 2}
    assert (image["status"], image["problem"]) == ("COMPLETED", None)
    assert (image["media_type"], image["bytes"], image["model"]) == ("image/png", len(PICTURE), DETECTOR.name)
    assert sent.headers["location"] == f"{PATH}/{ID}"
    for root in ("/images", PATH):
        assert (await gateway.get(f"{root}/{ID}")).json() == image
        found = (await gateway.get(f"{root}/{ID}/objects/")).json()
        assert found["objects"][0] == {"object_id": FIRST["object_id"], "bbox": [10, 10, 50, 50]}
        assert (found["image_id"], found["count"]) == (ID, len(found["objects"]))
        one = (await gateway.get(f"{root}/{ID}/objects/{FIRST['object_id'].upper()}")).json()
        assert one == {
            "object_id": FIRST["object_id"],
            "bbox": [10, 10, 50, 50],
            "centroid": [30.0, 30.0],
            "radius": 19.8,
            "score": 0.9,
            "label": "coin",
        }
    events = [(event["endpoint_type"], event["model"]) for event in await gateway.usage()]
    assert set(events) == {("images", DETECTOR.name)}


async def test_the_same_image_again_is_a_conflict_that_names_it_and_of_another_user_it_is_another(
    gateway: Running, tables: str
) -> None:
    await gateway.send_image()
    again = await gateway.send_image()
    assert told(again) == (409, "image-exists")
    assert again.json()["detail"] == f"Image already exists with ID: {ID}"
    assert again.headers["location"] == f"{PATH}/{ID}"
    assert (await gateway.send_image("bob")).status_code == 200
    assert {row[:2] for row in rows(tables)} == {(id_of(gateway, "ada"), ID), (id_of(gateway, "bob"), ID)}
    assert len(gateway.detector.tasks) == 2
    assert told(await gateway.get(f"{PATH}/{ID}", "eve")) == (404, "image-unknown")


async def test_of_many_requests_with_one_image_at_once_one_gets_it(gateway: Running) -> None:
    answers = await asyncio.gather(*(gateway.send_image() for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 5]
    assert len(gateway.detector.tasks) == 1
    assert len((await gateway.get("/api/v1/jobs")).json()["data"]) == 1


async def test_an_image_that_takes_longer_is_accepted_and_read_later(gateway: Running) -> None:
    gateway.detector.open.clear()
    sent = await gateway.send_image(Prefer="wait=0")
    assert (sent.status_code, sent.json()["detection"], sent.json()["status"]) == (202, None, "PENDING")
    assert (sent.headers["location"], sent.headers["retry-after"]) == (f"{PATH}/{ID}", "1")
    early = await gateway.get(f"{PATH}/{ID}/objects")
    assert (told(early), early.headers["retry-after"]) == ((409, "job-not-finished"), "1")
    assert told(await gateway.send_image()) == (409, "image-exists")
    gateway.detector.open.set()
    await gateway.ended(sent.json()["job_id"])
    assert (await gateway.get(f"{PATH}/{ID}")).json()["detection"]["count"] == 2


async def test_a_failed_image_says_why_and_is_looked_at_again_when_sent_again(gateway: Running, tables: str) -> None:
    gateway.detector.answer = failed("image-undecodable", "The file ends early.")
    sent = await gateway.send_image()
    assert (sent.status_code, sent.json()["detection"], sent.json()["status"]) == (200, None, "FAILED")
    assert sent.json()["problem"]["type"] == "/problems/image-undecodable"
    assert "The file ends early." in sent.json()["problem"]["detail"]
    none = await gateway.get(f"{PATH}/{ID}/objects")
    assert told(none) == (409, "job-has-no-result")
    assert "The file ends early." in none.json()["detail"]
    await outcome_is_stored(tables, sent.json()["job_id"])
    await gateway.redis.delete(f"job:{sent.json()['job_id']}")
    assert (await gateway.get(f"{PATH}/{ID}")).json()["problem"] == sent.json()["problem"]
    gateway.detector.answer = lambda task: Outcome(task.job_id, result=DETECTIONS)
    again = await gateway.send_image()
    assert (again.status_code, again.json()["detection"]["count"]) == (200, 2)
    assert again.json()["created_at"] == sent.json()["created_at"]
    assert len(rows(tables)) == 1


async def test_images_outlive_their_jobs_records_and_every_gateway(
    gateway: Running, tables: str, settings: Settings, authority: DevIssuerServer
) -> None:
    sent = (await gateway.send_image()).json()
    await outcome_is_stored(tables, sent["job_id"])
    await gateway.redis.flushdb()
    async with running_gateway(settings, authority, **IMAGES_API) as another:
        assert (await another.get(f"{PATH}/{ID}")).json() == sent
        assert (await another.get(f"{PATH}/{ID}/objects/{FIRST['object_id']}")).status_code == 200
        assert told(await another.send_image()) == (409, "image-exists")


async def test_a_deleted_image_is_gone_with_its_job_and_its_objects(gateway: Running, tables: str) -> None:
    sent = (await gateway.send_image()).json()
    await outcome_is_stored(tables, sent["job_id"])
    await gateway.redis.delete(f"job:{sent['job_id']}")
    path = f"{PATH}/{ID}"
    assert told(await gateway.client.delete(path, headers=gateway.bearer("bob"))) == (404, "image-unknown")
    assert (await gateway.client.delete(path, headers=gateway.bearer())).status_code == 204
    assert rows(tables) == []
    assert rows(tables, "job_outcomes") == [(sent["job_id"], True, False)]
    for gone in (await gateway.get(path), await gateway.get(f"{path}/objects")):
        assert told(gone) == (404, "image-unknown")
    gateway.detector.open.clear()
    again = (await gateway.send_image(Prefer="wait=0")).json()
    assert (await gateway.client.delete(path, headers=gateway.bearer())).status_code == 204
    assert told(await gateway.get(f"/api/v1/jobs/{again['job_id']}")) == (404, "job-unknown")
    assert rows(tables) == []


async def test_an_image_whose_job_was_deleted_is_looked_at_again(gateway: Running) -> None:
    sent = (await gateway.send_image()).json()
    await gateway.client.delete(f"/api/v1/jobs/{sent['job_id']}", headers=gateway.bearer())
    image = (await gateway.get(f"{PATH}/{ID}")).json()
    assert (image["status"], image["problem"]["type"]) == (None, "/problems/job-unknown")
    assert (await gateway.send_image()).json()["detection"]["count"] == 2


async def test_an_image_that_lost_its_job_waits_a_minute_for_it(gateway: Running, tables: str) -> None:
    """A gateway died between the image's row and its job."""
    await gateway.send_image()
    with psycopg.connect(tables) as connection:
        connection.execute("UPDATE images SET job_id = %s", [UNKNOWN_ID])
    assert told(await gateway.send_image()) == (409, "image-exists")
    deleted = await gateway.client.delete(f"{PATH}/{ID}", headers=gateway.bearer())
    assert told(deleted) == (409, "job-not-finished")
    assert (await gateway.get(f"{PATH}/{ID}")).json()["status"] == "PENDING"
    with psycopg.connect(tables) as connection:
        connection.execute(
            "UPDATE images SET submitted_at = submitted_at - make_interval(secs => %s)", [routes.ACCEPTING_S]
        )
    assert (await gateway.get(f"{PATH}/{ID}")).json()["problem"]["type"] == "/problems/job-unknown"
    assert (await gateway.send_image()).status_code == 200


async def test_a_repeated_key_gets_the_first_answer_again(gateway: Running) -> None:
    first = await gateway.send_image(**{"Idempotency-Key": "a"})
    again = await gateway.send_image(**{"Idempotency-Key": "a"})
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await gateway.send_image(picture=OTHER, **{"Idempotency-Key": "a"})
    assert told(other) == (422, "idempotency-key-reused")
    assert len(gateway.detector.tasks) == 1


@pytest.mark.gateway(images_max_per_user=2)
async def test_images_are_listed_in_pages_and_bounded(gateway: Running) -> None:
    for picture in (PICTURE, OTHER):
        assert (await gateway.send_image(picture=picture)).status_code == 200
    assert told(await gateway.send_image(picture=THIRD)) == (409, "images-full")
    assert told(await gateway.send_image()) == (409, "image-exists")
    whole = (await gateway.get(PATH)).json()
    assert [one["image_id"] for one in whole["data"]] == [sha256(OTHER).hexdigest(), ID]
    assert whole["next_cursor"] is None
    first = await gateway.get(f"{PATH}?limit=1")
    second = (await gateway.get(f"{PATH}?limit=1&cursor={first.json()['next_cursor']}")).json()
    assert first.json()["data"] + second["data"] == whole["data"]
    assert second["next_cursor"] is None
    assert 'rel="next"' in first.headers["link"]
    assert (await gateway.get(PATH, "bob")).json()["data"] == []


async def test_without_postgresql_nothing_is_accepted_and_it_recovers_alone(gateway: Running, tables: str) -> None:
    with psycopg.connect(tables, autocommit=True) as connection:
        connection.execute("ALTER TABLE images RENAME TO elsewhere")
        for answer in (await gateway.send_image(), await gateway.get(PATH), await gateway.get(f"{PATH}/{ID}")):
            assert told(answer) == (503, "images-unavailable")
            assert answer.headers["retry-after"]
        assert await gateway.keys() == set()
        connection.execute("ALTER TABLE elsewhere RENAME TO images")
    assert (await gateway.send_image()).status_code == 200


async def test_a_postgresql_that_falls_silent_is_told_in_time_and_leaves_nothing(
    gateway: Running, tables: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.send_image(picture=OTHER)  # the connection is there
    before = await gateway.keys()
    monkeypatch.setattr(table, "WITHIN_S", 0.5)
    server = psutil.Process(postgres.pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        began = time.monotonic()
        assert told(await gateway.send_image()) == (503, "images-unavailable")
        assert time.monotonic() - began < 5
    finally:
        for process in processes:
            process.resume()
    assert await gateway.keys() == before
    monkeypatch.undo()
    assert (await gateway.send_image()).status_code == 200
    assert len(rows(tables)) == 2
    assert len(gateway.detector.tasks) == 2


async def test_pruned_images_are_gone_with_their_results(gateway: Running, tables: str) -> None:
    sent = (await gateway.send_image()).json()
    await outcome_is_stored(tables, sent["job_id"])
    done = prune(tables, datetime.now(UTC) + timedelta(hours=1))
    assert (done.images, done.outcomes) == (1, 1)
    assert told(await gateway.get(f"{PATH}/{ID}")) == (404, "image-unknown")
    assert (await gateway.send_image()).json()["detection"]["count"] == 2


@pytest.mark.gateway(queue_max_jobs=1)
async def test_an_image_whose_job_is_refused_leaves_nothing(gateway: Running, tables: str) -> None:
    gateway.detector.answer = failed("model-rejected", "no")
    failed_image = (await gateway.send_image()).json()
    gateway.detector.open.clear()
    assert (await gateway.send_image(picture=OTHER, Prefer="wait=0")).status_code == 202
    kept, keys = rows(tables), await gateway.keys()
    for picture in (PICTURE, THIRD):
        assert told(await gateway.send_image(picture=picture)) == (503, "queue-full")
    assert (rows(tables), await gateway.keys()) == (kept, keys)
    assert (await gateway.get(f"{PATH}/{ID}")).json() == failed_image


async def test_a_model_that_finds_no_objects_is_refused(
    settings: Settings, authority: DevIssuerServer, tables: str
) -> None:
    for name in ("circles-of-tomorrow", "sem-classifier"):
        async with running_gateway(settings, authority, **{**IMAGES_API, "images_model": name}) as gateway:
            answer = await gateway.send_image()
            assert told(answer) == (503, "model-refused")
            assert name in answer.json()["detail"]
    assert rows(tables) == []


async def test_the_configuration_is_shown_without_secrets(gateway: Running) -> None:
    answer = await gateway.client.get("/config")
    shown: Json = answer.json()
    assert shown["mode"] == "dummy"
    assert (shown["model_name"], shown["api_prefix"]) == (DETECTOR.name, "/api/v1")
    assert set(shown) == {
        *("app_name", "app_version", "environment", "api_prefix", "mode", "model_name", "max_upload_size")
    }
