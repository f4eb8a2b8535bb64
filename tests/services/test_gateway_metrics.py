"""GET /metrics tells what Redis holds, to the holder of its token alone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest
from gateway_parts import IMAGE_MODEL, Running, failed, listening, running_gateway, until
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

TOKEN = "a-scraper-of-this-test"
Samples = dict[tuple[str, str, str], float]


@pytest.fixture
async def gateway(settings: Settings, authority: DevIssuerServer) -> AsyncIterator[Running]:
    async with running_gateway(settings, authority, metrics_token=SecretStr(TOKEN)) as running:
        yield running


async def scrape(gateway: Running) -> Samples:
    answer = await gateway.client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, sample.labels.get("model", ""), sample.labels.get("event", "")): sample.value
        for metric in text_string_to_metric_families(answer.text)
        for sample in metric.samples
    }


async def test_the_figures_follow_jobs_from_waiting_to_ended(gateway: Running) -> None:
    model = IMAGE_MODEL.name
    await gateway.beat()
    gateway.model.open.clear()
    first = await gateway.submit()
    await until(lambda: scrape(gateway), fits=lambda found: found["semapi_jobs_running", model, ""] == 1)
    found = await scrape(gateway)
    assert found["semapi_model_replicas", model, ""] == 1
    assert found["semapi_jobs_waiting", model, ""] == 0
    assert found["semapi_jobs_total", model, "accepted"] == 1
    gateway.model.answer = failed("model-rejected", "no")
    gateway.model.open.set()
    await gateway.ended(first)
    found = await scrape(gateway)
    assert found["semapi_jobs_running", model, ""] == 0
    assert found["semapi_jobs_total", model, "failed"] == 1
    assert found["semapi_outbox_entries", "", ""] > 0  # this test has no PostgreSQL
    assert found["semapi_outbox_lag_seconds", "", ""] > 0


async def test_the_oldest_waiting_job_tells_its_age(gateway: Running) -> None:
    gateway.model.open.clear()
    for user in ("ada", "bob", "cem"):  # chunks are full at eight: some wait, of more than one owner
        for _ in range(9):
            await gateway.submit(user)

    async def some_wait_for_a_while() -> bool:
        found = await scrape(gateway)
        waiting = found["semapi_jobs_waiting", IMAGE_MODEL.name, ""]
        return 0 < waiting < 27 and found["semapi_oldest_wait_seconds", IMAGE_MODEL.name, ""] > 0.2

    await until(some_wait_for_a_while)


@pytest.mark.parametrize(
    ("headers", "slug"),
    [
        ({}, "token-missing"),
        ({"Authorization": "Bearer "}, "token-missing"),
        ({"Authorization": "Bearer wrong"}, "token-invalid"),
        ({"Authorization": "Bearer \u00e4".encode("latin-1")}, "token-invalid"),
    ],
)
async def test_nobody_else_reads_them(gateway: Running, headers: dict[str, str], slug: str) -> None:
    answer = await gateway.client.get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["type"].endswith(slug)


async def test_an_admin_reads_them_and_a_user_does_not(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority) as gateway:
        for headers, status in (({}, 200), ({"scope": "openid"}, 403)):
            claims = {"scope": "sem-admin"} | headers
            answer = await gateway.client.get("/metrics", headers=gateway.bearer("ada", **claims))
            assert answer.status_code == status
        assert await gateway.usage() == []


async def test_refused_scrapes_are_in_the_audit_log(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.audit")
    user = gateway.bearer("ada")
    for headers in ({}, {"Authorization": "Bearer a-stale-scraper"}, user, gateway.bearer("root", roles=["sem-admin"])):
        await gateway.client.get("/metrics", headers=headers)
    await scrape(gateway)
    lines = [json.loads(record.message) for record in caplog.records if record.name == "serve_app.audit"]
    assert [(line["event"], line["what"], line["outcome"], line["status"], line["who"]) for line in lines] == [
        ("refused", "GET /metrics", "token-missing", 401, ""),
        ("refused", "GET /metrics", "token-invalid", 401, ""),
        ("refused", "GET /metrics", "admin-required", 403, "ada"),
    ]


async def test_without_the_setting_an_empty_token_is_wrong(settings: Settings, authority: DevIssuerServer) -> None:
    async with running_gateway(settings, authority) as gateway:
        for token in ("x", "None"):
            answer = await gateway.client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401


async def test_top_shows_a_row_for_each_model(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await gateway.ended(await gateway.submit())
    async with listening(gateway.application) as url:
        monkeypatch.setenv("SEMAPI_TOKEN", TOKEN)
        monkeypatch.setenv("COLUMNS", "80")
        shown = await asyncio.to_thread(CliRunner().invoke, commands, ["top", "--once", "--url", url])
        assert shown.exit_code == 0, shown.output
        [row] = [line for line in shown.output.splitlines() if IMAGE_MODEL.name in line]
        repl, wait, oldest, run, done, fail, canc, dead = "0", "0", "0 s", "0", "1", "0", "0", "0"
        assert " ".join(row.split()) == " ".join([IMAGE_MODEL.name, repl, wait, oldest, run, done, fail, canc, dead])
        monkeypatch.setenv("SEMAPI_TOKEN", "wrong")
        refused = await asyncio.to_thread(CliRunner().invoke, commands, ["top", "--once", "--url", url])
        assert refused.exit_code == 1
