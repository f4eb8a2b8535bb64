"""The HTTP client against a gateway on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_parts import PICTURE, RESULT, Running, failed, held_back, listening, running_gateway
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

from serve_app import errors
from serve_app.cli.main import commands
from serve_app.client import ServiceClient
from serve_app.contracts import Priority
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[ServiceClient]:
    async with listening(gateway.application) as url:
        with ServiceClient(url, gateway.issuer.mint("ada")) as client:
            yield client


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "tips.png"
    path.write_bytes(PICTURE)
    return path


async def test_a_file_becomes_a_result(client: ServiceClient, picture: Path) -> None:
    job = await asyncio.to_thread(client.submit, picture)
    ended = await asyncio.to_thread(client.wait, job["job_id"], 10)
    assert (ended["status"], ended["result"]) == ("COMPLETED", RESULT)


async def test_a_job_has_the_parameters_that_were_given(
    gateway: Running, client: ServiceClient, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(client.submit, picture, params={"page": 1})
    with pytest.raises(errors.ParamsInvalid, match="/params/page"):
        await asyncio.to_thread(client.submit, picture, params={"page": 0})
    monkeypatch.setenv("SEMAPI_TOKEN", gateway.issuer.mint("ada"))
    async with listening(gateway.application) as url:
        for params, status in (('{"page": 1}', 0), ('{"page": 0}', 1), ("[1]", 1), ("{", 1)):
            command = ["classify", str(picture), "--url", url, "--params", params]
            done = await asyncio.to_thread(CliRunner().invoke, commands, command)
            assert done.exit_code == status, done.output


async def test_a_kept_image_comes_back(client: ServiceClient, picture: Path) -> None:
    job = await asyncio.to_thread(client.submit, picture, keep=True, priority=Priority.BULK)
    assert job["priority"] == "bulk"
    await asyncio.to_thread(client.wait, job["job_id"], 10)
    assert await asyncio.to_thread(client.image, job["job_id"]) == PICTURE
    unkept = await asyncio.to_thread(client.submit, picture)
    with pytest.raises(errors.ImageNotKept):
        await asyncio.to_thread(client.image, unkept["job_id"])


async def test_a_kept_image_becomes_a_file(gateway: Running, picture: Path, tmp_path: Path) -> None:
    async with listening(gateway.application) as url:
        env = {"SEMAPI_URL": url, "SEMAPI_TOKEN": gateway.issuer.mint("ada")}
        asked = ["classify", str(picture), "--keep", "--priority", "bulk", "--json"]
        ran = await asyncio.to_thread(CliRunner().invoke, commands, asked, env=env)
        assert ran.exit_code == 0, ran.output
        job = json.loads(ran.stdout)
        assert job["priority"] == "bulk"
        copy = tmp_path / "copy.png"
        asked = ["jobs", "image", job["job_id"], "-o", str(copy)]
        ran = await asyncio.to_thread(CliRunner().invoke, commands, asked, env=env)
        assert (ran.exit_code, copy.read_bytes()) == (0, PICTURE)
        nowhere = [*asked[:-1], str(tmp_path / "none" / "copy.png")]
        ran = await asyncio.to_thread(CliRunner().invoke, commands, nowhere, env=env)
        assert ran.exit_code == 1
        assert "No such file" in ran.output


async def test_a_failed_job_is_returned_with_its_problem(
    client: ServiceClient, picture: Path, gateway: Running
) -> None:
    gateway.model.answer = failed("image-undecodable", "The file ends early.")
    job = await asyncio.to_thread(client.submit, picture)
    ended = await asyncio.to_thread(client.wait, job["job_id"], 10)
    assert (ended["status"], ended["problem"]["detail"]) == ("FAILED", "The file ends early.")


async def test_waiting_ends_at_its_deadline(client: ServiceClient, picture: Path, gateway: Running) -> None:
    gateway.model.open.clear()
    job = await asyncio.to_thread(client.submit, picture)
    with pytest.raises(errors.DeadlineExceeded, match="still"):
        await asyncio.to_thread(client.wait, job["job_id"], 0.2)


async def test_waiting_asks_once_where_the_service_holds_the_answer_back(
    client: ServiceClient, picture: Path, gateway: Running
) -> None:
    gateway.model.open.clear()
    job = await asyncio.to_thread(client.submit, picture)
    waiting = asyncio.create_task(asyncio.to_thread(client.wait, job["job_id"], 15))
    await held_back(gateway)
    gateway.model.open.set()
    assert (await waiting)["status"] == "COMPLETED"
    looks = [event for event in await gateway.usage() if event["endpoint_type"] == "job_status"]
    assert len(looks) == 1


async def test_waiting_bears_a_service_that_is_away_for_a_moment(gateway: Running, picture: Path) -> None:
    away = 3

    async def restarting(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal away
        if scope["type"] == "http" and scope["method"] == "GET" and away:
            away -= 1
            await PlainTextResponse("Service Unavailable", 503)(scope, receive, send)
        else:
            await gateway.application(scope, receive, send)

    async with listening(restarting) as url:
        with ServiceClient(url, gateway.issuer.mint("ada")) as client:
            job = await asyncio.to_thread(client.submit, picture)
            ended = await asyncio.to_thread(client.wait, job["job_id"], 10)
    assert (ended["status"], away) == ("COMPLETED", 0)


async def test_many_files_at_once_wait_their_turn(
    settings: Settings, authority: DevIssuerServer, picture: Path
) -> None:
    async with (
        running_gateway(settings, authority, rate_submits_per_s=1.0) as gateway,
        listening(gateway.application) as url,
    ):
        with ServiceClient(url, gateway.issuer.mint("ada")) as client:
            jobs = await asyncio.gather(*(asyncio.to_thread(client.submit, picture) for _ in range(4)))
    assert len({job["job_id"] for job in jobs}) == 4


async def test_a_quota_that_is_used_up_is_said_at_once(
    settings: Settings, authority: DevIssuerServer, picture: Path
) -> None:
    async with (
        running_gateway(settings, authority, quota_submits_per_day=1) as gateway,
        listening(gateway.application) as url,
    ):
        with ServiceClient(url, gateway.issuer.mint("ada")) as client:
            await asyncio.to_thread(client.submit, picture)
            with pytest.raises(errors.RateLimited, match="midnight") as refused:
                await asyncio.to_thread(client.submit, picture)
    assert 0 < (refused.value.retry_after or 0) <= 86400


async def test_a_refusal_is_the_error_of_its_problem_type(client: ServiceClient, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("not an image")
    with pytest.raises(errors.ImageTypeUnsupported, match="PNG"):
        await asyncio.to_thread(client.submit, tmp_path / "a.txt")
    with pytest.raises(errors.JobUnknown):
        await asyncio.to_thread(client.job, "unknown")


def test_a_service_that_is_not_there_is_a_capacity_error(tmp_path: Path) -> None:
    with (
        ServiceClient("http://127.0.0.1:9", "token") as client,
        pytest.raises(errors.CapacityError, match="cannot be reached"),
    ):
        client.job("any")


async def test_owners_do_with_their_jobs_what_the_routes_offer(
    client: ServiceClient, picture: Path, gateway: Running
) -> None:
    gateway.model.open.clear()
    job_id = (await asyncio.to_thread(client.submit, picture))["job_id"]
    assert [job["job_id"] for job in (await asyncio.to_thread(client.jobs, limit=1))["data"]] == [job_id]
    assert (await asyncio.to_thread(client.jobs, status="FAILED"))["data"] == []
    with pytest.raises(errors.JobNotFinished):
        await asyncio.to_thread(client.result, job_id)
    assert (await asyncio.to_thread(client.cancel, job_id))["status"] == "CANCELLED"
    with pytest.raises(errors.RetryRefused):
        await asyncio.to_thread(client.retry, job_id)
    with pytest.raises(errors.JobHasNoResult):
        await asyncio.to_thread(client.result, job_id)
    await asyncio.to_thread(client.remove, job_id)
    with pytest.raises(errors.JobUnknown):
        await asyncio.to_thread(client.job, job_id)


async def test_semapi_jobs_asks_for_the_same(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await gateway.submit()
    await gateway.ended(job_id)
    monkeypatch.setenv("SEMAPI_TOKEN", gateway.issuer.mint("ada"))
    async with listening(gateway.application) as url:

        async def semapi(*words: str) -> tuple[int, str]:
            done = await asyncio.to_thread(CliRunner().invoke, commands, ["jobs", *words, "--url", url])
            return done.exit_code, done.stdout

        status, page = await semapi("list", "--status", "COMPLETED")
        assert (status, json.loads(page)["data"][0]["job_id"]) == (0, job_id)
        status, said = await semapi("result", job_id)
        assert (status, json.loads(said)["result"]) == (0, RESULT)
        for refused in ("cancel", "retry"):
            assert (await semapi(refused, job_id))[0] == 1
        assert await semapi("delete", job_id) == (0, "")
        assert (await semapi("delete", job_id))[0] == 1
