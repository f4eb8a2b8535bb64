"""Files of a result over HTTP, where they lie in the job Redis: downloads, and gone with their job."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.contracts import Outcome, Output
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.contract import Answer
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from tests.services.gateway_parts import Answering, Running, running_gateway
from tests.toy_files import Bright

BRIGHT = card(ModelConfig(name="bright", implementation="tests.toy_files:BrightMask"))
PAGE = b"<script>alert(1)</script>"
FILES = {"mask.png": Output("image/png", b"a mask"), "page.html": Output("text/html", PAGE)}


@pytest.fixture
async def gateway(settings: Settings, database: str, authority: DevIssuerServer) -> AsyncIterator[Running]:
    model = Answering()
    result = Answer(Bright(share=0.5), FILES).listed().model_dump(mode="json")
    model.answer = lambda task: Outcome(task.job_id, result=result)
    async with running_gateway(settings, authority, cards=[BRIGHT], model=model) as running:
        yield running


async def test_a_file_is_a_download_whatever_it_is(gateway: Running) -> None:
    path = f"/api/v1/jobs/{await gateway.submit_with_files(FILES)}/outputs"
    mask = await gateway.get(f"{path}/mask.png")
    assert (mask.status_code, mask.content, mask.headers["content-type"]) == (200, b"a mask", "image/png")
    page = await gateway.get(f"{path}/page.html")
    assert page.content == PAGE
    assert page.headers["content-disposition"] == 'attachment; filename="page.html"'
    assert page.headers["content-security-policy"] == "sandbox"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["other.png", "mask.png%0a", "..%2fmask.png", "type:mask.png", "%00"])
async def test_a_name_that_the_result_does_not_list_is_none(gateway: Running, name: str) -> None:
    answer = await gateway.get(f"/api/v1/jobs/{await gateway.submit_with_files(FILES)}/outputs/{name}")
    assert answer.status_code == 404
    assert answer.json()["type"] in ("/problems/output-unknown", "/problems/route-unknown")


async def test_a_failed_job_gives_no_file(gateway: Running) -> None:
    answer = await gateway.get(f"/api/v1/jobs/{await gateway.failed_job()}/outputs/mask.png")
    assert answer.json()["type"] == "/problems/output-unknown"


async def test_files_leave_with_a_deleted_job(gateway: Running) -> None:
    job_id = await gateway.submit_with_files(FILES)
    assert await gateway.redis.exists(f"outputs:{job_id}")
    deleted = await gateway.client.delete(f"/api/v1/jobs/{job_id}", headers=gateway.bearer())
    assert deleted.status_code == 204
    assert not await gateway.redis.exists(f"outputs:{job_id}")
    assert (await gateway.get(f"/api/v1/jobs/{job_id}/outputs/mask.png")).status_code == 404
