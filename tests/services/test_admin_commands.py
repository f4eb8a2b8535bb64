"""`semapi dead` and `semapi intake` against a running gateway: what they do, print and refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from click.testing import Result
from gateway_parts import IMAGE_MODEL, Running, listening, running_gateway
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

MODEL = IMAGE_MODEL.name


@pytest.fixture
async def gateway(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    async with running_gateway(settings, authority) as running, listening(running.application) as url:
        token = running.bearer("root", realm_access={"roles": ["sem-admin"]})["Authorization"].removeprefix("Bearer ")
        for name, value in (("SEMAPI_URL", url), ("SEMAPI_TOKEN", token), ("COLUMNS", "200")):
            monkeypatch.setenv(name, value)
        yield running


async def semapi(*arguments: str, answer: str = "") -> Result:
    return await asyncio.to_thread(CliRunner().invoke, commands, list(arguments), answer)


async def done(*arguments: str, answer: str = "") -> str:
    result = await semapi(*arguments, answer=answer)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_dead_jobs_are_listed_shown_requeued_and_dropped(gateway: Running) -> None:
    first, second, third = [await gateway.dead_job() for _ in range(3)]
    listed = await done("dead", "list")
    assert all(job_id in listed for job_id in (first, second, third))
    assert json.loads(await done("dead", "show", first))["input"]["media_type"] == "image/png"
    assert "1 requeued" in await done("dead", "requeue", first)
    assert (await gateway.ended(first))["status"] == "COMPLETED"
    refused = await semapi("dead", "drop", "--all", answer="n\n")
    assert refused.exit_code == 1
    assert second in await done("dead", "list")
    assert "1 dropped" in await done("dead", "drop", second)
    assert "1 requeued" in await done("dead", "requeue", "--model", MODEL, answer="y\n")
    assert (await gateway.ended(third))["status"] == "COMPLETED"
    assert "no dead jobs" in await done("dead", "list")
    again = await semapi("dead", "requeue", third)
    assert again.exit_code == 1
    assert "no dead job" in again.stderr


@pytest.mark.parametrize("arguments", [(), ("x", "--all"), ("--all", "--model", MODEL)])
async def test_one_choice_of_dead_jobs_is_made(gateway: Running, arguments: tuple[str, ...]) -> None:
    refused = await semapi("dead", "drop", *arguments)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


async def test_intake_is_stopped_shown_and_started(gateway: Running) -> None:
    assert "Nothing is stopped" in await done("intake", "show")
    await done("intake", "stop", "--message", "Maintenance until noon.")
    await done("intake", "pause", MODEL, "--message", "A new camera.")
    shown = await done("intake", "show")
    assert "by root: Maintenance until noon." in shown
    assert f"work:{MODEL}" in shown
    overview = await done("top", "--once")
    assert "intake, work stopped" in overview
    assert "…" not in overview
    assert max(map(len, overview.splitlines())) <= 80
    await done("intake", "start")
    await done("intake", "resume", MODEL)
    assert (await gateway.ended(await gateway.submit()))["status"] == "COMPLETED"
    refused = await semapi("intake", "start")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
