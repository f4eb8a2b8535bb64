"""Thumbnails over HTTP: the upload's name reaches the model that asks for it, and large images only models that read in
steps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from waiting import until

from serve_app.local.issuer import DevIssuerServer
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from tests.pictures import encode, gradient, large_tiff
from tests.services.gateway_parts import IMAGE_MODEL, PICTURE, Running, running_gateway
from tests.web_server import Handler, web_server

THUMBNAIL = card(ModelConfig(name="thumbnail", implementation="serve_app.models.thumbnail:ThumbnailModel"))
LARGE = large_tiff(12_000, "uint8", tile=2000)


@pytest.fixture
async def gateway(settings: Settings, database: str, authority: DevIssuerServer) -> AsyncIterator[Running]:
    async with running_gateway(settings, authority, cards=[IMAGE_MODEL, THUMBNAIL]) as running:
        yield running


async def test_the_name_of_an_upload_reaches_the_model_that_declares_it(gateway: Running) -> None:
    hostile = 'Probe\u202e 1/"; ä.TIF'
    files = {"image": (hostile, PICTURE)}
    for model in ("thumbnail", "sem-classifier"):
        assert (await gateway.post("/api/v1/jobs", files=files, data={"model": model})).status_code == 202
    own = json.dumps({"file_name": "mine.png", "width": 50})
    await gateway.post("/api/v1/jobs", files=files, data={"model": "thumbnail", "params": own})
    batch = [("image", (f"{number}.png", encode(gradient(), "PNG"))) for number in range(2)]
    answer = await gateway.post("/api/v1/batches", files=batch, data={"model": "thumbnail"})
    assert answer.status_code == 202, answer.text
    await until(lambda: len(gateway.model.tasks) == 5)
    found = sorted(json.dumps(task.params, sort_keys=True) for task in gateway.model.tasks)
    assert found == [
        '{"file_name": "0.png"}',
        '{"file_name": "1.png"}',
        '{"file_name": "22_a.tif"}',  # a form writes a quotation mark as %22
        '{"file_name": "mine.png", "width": 50}',
        "{}",
    ]


async def test_a_url_names_the_file_and_may_lead_to_a_large_one(
    settings: Settings, database: str, authority: DevIssuerServer
) -> None:
    class Large(Handler):
        def reply(self) -> None:
            self.answer(LARGE, Content_Type="image/tiff")

    with web_server(Large) as web:
        hosts = {"image_url_private_hosts": (web.removeprefix("http://"),)}
        async with running_gateway(settings, authority, cards=[IMAGE_MODEL, THUMBNAIL], **hosts) as gateway:
            one = {"image_url": f"{web}/a%20large/wafer%2001.tif?x=1"}
            answer = await gateway.post("/api/v1/jobs", json={**one, "model": "thumbnail"})
            assert answer.status_code == 202, answer.text
            assert (await gateway.post("/api/v1/jobs", json=one)).status_code == 413
            for model, ends in (("thumbnail", "COMPLETED"), ("sem-classifier", "REFUSED")):
                accepted = await gateway.post("/api/v1/batches", json={"items": [one], "model": model})
                path = f"/api/v1/batches/{accepted.json()['batch_id']}"

                async def ended(path: str = path) -> str | None:
                    batch = (await gateway.get(path)).json()
                    return str(batch["items"][0]["status"]) if batch["completed_at"] else None

                assert await until(ended) == ends
            assert [task.params for task in gateway.model.tasks] == [{"file_name": "wafer_01.tif"}] * 2


async def test_only_a_model_that_reads_in_steps_takes_a_large_image(gateway: Running) -> None:
    before = await gateway.keys()
    answer = await gateway.post("/api/v1/jobs", files={"image": ("a.tif", LARGE)})
    assert answer.status_code == 413
    assert "at most 100,000,000 are accepted" in answer.json()["detail"]
    assert await gateway.keys() == before
    job_id = await gateway.submit(picture=LARGE, model="thumbnail")
    assert (await gateway.ended(job_id))["status"] == "COMPLETED"
    files = [("image", ("a.tif", LARGE))]
    for model, status in (("thumbnail", "PENDING"), ("sem-classifier", "REFUSED")):
        batch = (await gateway.post("/api/v1/batches", files=files, data={"model": model})).json()
        assert batch["items"][0]["status"] in (status, "PROCESSING", "COMPLETED")
