"""The routes of webhooks through a real gateway: from registration to the receiver, each user for themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from gateway_parts import Running, failed, listening, running_gateway, until
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from receiver import Receiver
from standardwebhooks import Webhook
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.contracts import Json
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings
from serve_app.webhooks.limits import ENDPOINTS_MAX

TOKEN = "a-scraper-of-this-test"
PATH = "/api/v1/webhooks"


@pytest.fixture
async def gateway(settings: Settings, authority: DevIssuerServer, receiver: Receiver) -> AsyncIterator[Running]:
    changes: Json = {"metrics_token": SecretStr(TOKEN), "webhook_private_hosts": (receiver.here,)}
    async with running_gateway(settings, authority, **changes) as running:
        yield running


async def register(gateway: Running, url: str, **more: Any) -> Json:
    answer = await gateway.post(PATH, json={"url": url, **more})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    assert answer.headers["location"] == made["links"]["self"] == f"{PATH}/{made['webhook_id']}"
    return made


async def log(gateway: Running, webhook: Json) -> list[Json]:
    found: list[Json] = (await gateway.get(webhook["links"]["deliveries"])).json()["deliveries"]
    return found


async def ended(gateway: Running, webhook: Json, number: int) -> list[Json]:
    """The log, once so many deliveries have ended."""

    async def look() -> list[Json]:
        found = await log(gateway, webhook)
        return found if len(found) == number and all(one["status"] != "waiting" for one in found) else []

    found: list[Json] = await until(look)
    return found


async def delete(gateway: Running, path: str, user: str = "ada") -> httpx2.Response:
    return await gateway.client.delete(path, headers=gateway.bearer(user))


def problem(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


async def test_from_registration_to_the_receiver_and_back(gateway: Running, receiver: Receiver) -> None:
    made = await register(gateway, receiver.url)
    assert made["events"] == ["job.cancelled", "job.completed", "job.failed"]
    job = await gateway.submit()
    [delivery] = await ended(gateway, made, 1)
    [message] = receiver.got
    body = Webhook(made["secret"]).verify(message.body, message.headers)
    assert body["data"]["job_id"] == delivery["job_id"] == job
    assert (await gateway.get(body["data"]["links"]["self"])).json()["status"] == "COMPLETED"
    assert len(message.body) < 20_000
    assert (delivery["delivery_id"], delivery["status"]) == (message.id, "delivered")
    assert delivery["attempts"][0]["status"] == 204
    again = await gateway.post(f"{made['links']['deliveries']}/{message.id}/redeliver")
    assert (again.status_code, again.json()) == (202, {"delivery_id": message.id})
    await until(lambda: len(receiver.got) == 2)
    assert receiver.got[1].id == message.id


async def test_events_are_filtered_and_a_test_event_always_comes(gateway: Running, receiver: Receiver) -> None:
    made = await register(gateway, receiver.url, events=["job.failed", "job.cancelled"])
    await gateway.ended(await gateway.submit())
    gateway.model.answer = failed("model-rejected", "no")
    await gateway.ended(await gateway.submit())
    gateway.model.open.clear()
    cancelled = await gateway.submit()
    assert (await gateway.post(f"/api/v1/jobs/{cancelled}/cancel")).status_code == 200
    tried = await gateway.post(f"{made['links']['self']}/test")
    assert tried.status_code == 202
    found = await ended(gateway, made, 3)
    assert {one["type"] for one in found} == {"job.failed", "job.cancelled", "webhook.test"}
    assert tried.json()["delivery_id"] in {one["delivery_id"] for one in found}
    bodies = [Webhook(made["secret"]).verify(message.body, message.headers) for message in receiver.got]
    [data] = [body["data"] for body in bodies if body["type"] == "job.cancelled"]
    assert (data["job_id"], data["status"]) == (cancelled, "CANCELLED")


async def test_the_secret_is_shown_once_and_rotates(gateway: Running, receiver: Receiver) -> None:
    made = await register(gateway, receiver.url)
    assert made["secret"].startswith("whsec_")
    rotated = (await gateway.post(f"{made['links']['self']}/rotate")).json()
    assert rotated["secret"] != made["secret"]
    assert rotated["older_secret_until"]
    for path in (PATH, made["links"]["self"], made["links"]["deliveries"]):
        assert "whsec_" not in (await gateway.get(path)).text
    await gateway.post(f"{made['links']['self']}/test")
    await ended(gateway, made, 1)
    for secret in (made["secret"], rotated["secret"]):
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)


async def test_a_deleted_webhook_leaves_nothing(gateway: Running, receiver: Receiver) -> None:
    before = await gateway.keys()
    made = await register(gateway, receiver.url)
    await gateway.post(f"{made['links']['self']}/test")
    await ended(gateway, made, 1)
    assert (await delete(gateway, made["links"]["self"])).status_code == 204
    assert (await gateway.get(PATH)).json() == {"webhooks": []}
    assert await gateway.keys() - before == {"webhook-totals"}


async def test_what_is_somebody_else_s_is_unknown(gateway: Running, receiver: Receiver) -> None:
    made = await register(gateway, receiver.url)
    await gateway.post(f"{made['links']['self']}/test")
    [delivery] = await ended(gateway, made, 1)
    one, other = made["links"]["self"], f"{PATH}/{'0' * 32}"
    assert (await gateway.get(PATH, "eve")).json() == {"webhooks": []}
    for path in (one, other, f"{PATH}/..%2f", f"{PATH}/{'x' * 3000}", f"{PATH}/%00"):
        answers = [await gateway.get(path, "eve"), await gateway.get(f"{path}/deliveries", "eve")]
        answers += [await gateway.post(f"{path}/{verb}", "eve") for verb in ("rotate", "test")]
        answers.append(await gateway.post(f"{path}/deliveries/{delivery['delivery_id']}/redeliver", "eve"))
        answers.append(await delete(gateway, path, "eve"))
        assert {answer.status_code for answer in answers} == {404}
    unknown = await gateway.post(f"{one}/deliveries/msg_{'0' * 32}/redeliver")
    assert problem(unknown) == (404, "delivery-unknown")
    second = await register(gateway, receiver.url)
    stray = await gateway.post(f"{second['links']['deliveries']}/{delivery['delivery_id']}/redeliver")
    assert problem(stray) == (404, "delivery-unknown")
    assert len(await log(gateway, made)) == len(receiver.got) == 1


async def test_a_user_has_ten_and_no_more(gateway: Running, receiver: Receiver) -> None:
    made = [await register(gateway, receiver.url) for _ in range(ENDPOINTS_MAX)]
    answer = await gateway.post(PATH, json={"url": receiver.url})
    assert problem(answer) == (409, "webhooks-full")
    shown = (await gateway.get(PATH)).json()["webhooks"]
    assert [one["webhook_id"] for one in shown] == [one["webhook_id"] for one in reversed(made)]
    assert (await gateway.post(PATH, "bob", json={"url": receiver.url})).status_code == 201


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "body-invalid")),
        ({"url": 5}, (400, "body-invalid")),
        ({"url": "https://example.org/", "events": []}, (400, "body-invalid")),
        ({"url": "https://example.org/", "events": ["job.started"]}, (400, "body-invalid")),
        ({"url": "https://example.org/", "events": "job.failed"}, (400, "body-invalid")),
        ({"url": "https://example.org/", "secret": "whsec_mine"}, (400, "body-invalid")),
        ({"url": ""}, (422, "webhook-url-invalid")),
        ({"url": "ftp://example.org/"}, (422, "webhook-url-invalid")),
        ({"url": "http://169.254.169.254/"}, (422, "webhook-url-forbidden")),
        ({"url": "https://redis:6379/"}, (422, "webhook-url-forbidden")),
    ],
)
async def test_what_does_not_fit_is_refused_and_leaves_nothing(
    gateway: Running, body: Json, expected: tuple[int, str]
) -> None:
    assert problem(await gateway.post(PATH, json=body)) == expected
    assert (await gateway.get(PATH)).json() == {"webhooks": []}


async def test_metrics_tell_of_deliveries(gateway: Running, receiver: Receiver) -> None:
    receiver.answers = [500]
    made = await register(gateway, receiver.url)
    await gateway.post(f"{made['links']['self']}/test")
    await until(lambda: log(gateway, made), fits=lambda found: any(one["attempts"] for one in found))
    text = (await gateway.client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).text
    families = text_string_to_metric_families(text)
    found = {(one.name, one.labels.get("outcome", "")): one.value for family in families for one in family.samples}
    assert found["semapi_webhooks_waiting", ""] == 1
    assert 0 < found["semapi_webhooks_oldest_seconds", ""] < 60
    assert found["semapi_webhooks_late_seconds", ""] == 0
    assert found["semapi_webhook_deliveries_total", "delivered"] == 0
    assert json.loads(receiver.got[0].body)["type"] == "webhook.test"


async def test_the_command_line_does_all_of_it(
    gateway: Running, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMAPI_TOKEN", gateway.bearer()["Authorization"].partition(" ")[2])

    async with listening(gateway.application) as url:

        async def semapi(*words: str, status: int = 0) -> str:
            done = await asyncio.to_thread(CliRunner().invoke, commands, ["webhooks", *words, "--url", url])
            assert done.exit_code == status, done.output
            return done.output.strip()

        webhook, secret = (await semapi("add", receiver.url, "--event", "job.failed")).split()
        assert await semapi("list") == f"{webhook}  {receiver.url}  job.failed  on"
        delivery = await semapi("test", webhook)
        await ended(gateway, {"links": {"deliveries": f"{PATH}/{webhook}/deliveries"}}, 1)
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
        line = await semapi("deliveries", webhook)
        assert line.startswith(delivery)
        assert line.endswith("webhook.test   delivered  1: 204")
        assert await semapi("redeliver", webhook, delivery) == ""
        assert (await semapi("rotate", webhook)).split()[1] != secret
        assert await semapi("remove", webhook) == ""
        assert "no webhook with this id" in await semapi("test", webhook, status=1)
        assert await semapi("list") == ""
