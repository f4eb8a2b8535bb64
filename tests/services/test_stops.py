"""An admin stops intake or a model's work: what is refused and with which words, and what goes on all the same."""

from __future__ import annotations

from typing import Any

from gateway_parts import IMAGE_MODEL, PICTURE, Running, as_admin, id_of, running_gateway, until
from job_help import configured

from serve_app.contracts import Json
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

STOPS = "/api/v1/admin/stops"
MODEL = IMAGE_MODEL.name
WORDS: Json = {"model": "words", "params": {"text": "x"}}
SAID = "Beam line maintenance until noon."


async def stop(gateway: Running, **body: Any) -> Json:
    answer = await as_admin(gateway, "POST", STOPS, json={"message": SAID, **body})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    assert answer.headers["location"] == f"{STOPS}/{made['stop']}"
    return made


async def resume(gateway: Running, name: str) -> None:
    assert (await as_admin(gateway, "DELETE", f"{STOPS}/{name}")).status_code == 204


async def refusals(gateway: Running) -> list[bool]:
    """Whether the image model and the other one take nothing in, by every door; a refusal leaves nothing behind."""
    found = []
    for path, parts in (
        ("/api/v1/jobs", {"files": {"image": ("a.png", PICTURE)}}),
        ("/api/v1/inference", {"files": {"image": ("a.png", PICTURE)}}),
        ("/api/v1/jobs", {"json": WORDS}),
    ):
        before = await gateway.keys()
        answer = await gateway.post(path, **parts)
        refused = answer.status_code == 503
        if refused:
            assert answer.json()["type"] == "/problems/intake-stopped"
            assert SAID in answer.json()["detail"]
            assert answer.headers["retry-after"] == "120"
            assert {key for key in await gateway.keys() if key.startswith(("job:", "blob:"))} <= before
        found.append(refused)
    return found


async def test_a_stopped_intake_refuses_with_the_admins_words_and_the_rest_goes_on(
    gateway: Running, settings: Settings, authority: DevIssuerServer
) -> None:
    async with running_gateway(settings, authority) as other:
        gateway.model.open.clear()
        accepted = await gateway.submit()
        await stop(gateway, retry_after_s=120)
        assert await refusals(gateway) == await refusals(other) == [True] * 3
        gateway.model.open.set()
        assert (await gateway.ended(accepted))["status"] == "COMPLETED"
        assert (await other.get(f"/api/v1/jobs/{accepted}")).json()["status"] == "COMPLETED"
        await resume(other, "intake")
        assert await refusals(gateway) == [False] * 3


async def test_the_intake_of_one_model_is_stopped_alone(gateway: Running) -> None:
    await stop(gateway, model=MODEL, retry_after_s=120)
    assert await refusals(gateway) == [True, True, False]
    await resume(gateway, f"intake:{MODEL}")
    assert await refusals(gateway) == [False] * 3


async def test_a_models_work_is_stopped_while_its_jobs_are_taken_in(gateway: Running) -> None:
    gateway.model.open.clear()
    running = await gateway.submit()
    await until(lambda: gateway.model.tasks)
    await stop(gateway, what="work", model=MODEL)
    waiting = [await gateway.submit() for _ in range(5)]
    gateway.model.open.set()
    assert (await gateway.ended(running))["status"] == "COMPLETED"
    words = (await gateway.post("/api/v1/jobs", json=WORDS)).json()["job_id"]
    assert (await gateway.ended(words))["status"] == "COMPLETED"  # by a dispatcher of the same gateway
    statuses = [(await gateway.get(f"/api/v1/jobs/{job_id}")).json()["status"] for job_id in waiting]
    assert statuses == ["PENDING"] * 5
    await resume(gateway, f"work:{MODEL}")
    for job_id in waiting:
        assert (await gateway.ended(job_id))["deliveries"] == 1


async def test_stops_are_listed_shown_and_audited(gateway: Running) -> None:
    await gateway.beat()
    await gateway.beat("words")
    intake, work = await stop(gateway), await stop(gateway, what="work", model=MODEL, retry_after_s=7)
    said = {"message": SAID, "by": "root", "by_id": id_of(gateway, "root")}
    assert intake == {
        "stop": "intake",
        "what": "intake",
        "model": None,
        "retry_after_s": 300,
        **said,
        "at": intake["at"],
    }
    assert work["stop"] == f"work:{MODEL}"
    assert (await as_admin(gateway, "GET", STOPS)).json() == {"stops": [intake, work]}
    stopped = {MODEL: ["intake", "work"], "words": ["intake"]}

    async def seen() -> bool:
        health = await gateway.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "healthy")
        return bool(health.json().get("stopped") == stopped)

    await until(seen)
    ready = await gateway.client.get("/readyz?verbose")
    assert (ready.status_code, ready.json()["stopped"]) == (200, stopped)
    page = (await as_admin(gateway, "GET", "/metrics")).text.splitlines()
    assert f'semapi_work_stopped{{model="{MODEL}"}} 1.0' in page
    assert 'semapi_work_stopped{model="words"} 0.0' in page
    assert 'semapi_intake_stopped{model="words"} 1.0' in page
    await resume(gateway, "intake")
    events: Any = await gateway.redis.xrange("outbox")
    audited = [(e[b"action"], e[b"target"]) for _, e in events if e[b"kind"] == b"audit"]
    work_name = f"work:{MODEL}".encode()
    assert audited == [(b"stop", b"intake"), (b"stop", work_name), (b"remove-stop", b"intake")]


async def test_a_later_stop_takes_the_place_of_the_first_and_an_unknown_one_is_404(gateway: Running) -> None:
    await stop(gateway, message="first")
    await stop(gateway, message="second")
    [only] = (await as_admin(gateway, "GET", STOPS)).json()["stops"]
    assert only["message"] == "second"
    for name in (f"intake:{MODEL}", "work", "x" * 3000, "%00"):
        answer = await as_admin(gateway, "DELETE", f"{STOPS}/{name}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/stop-unknown")


async def test_a_full_redis_still_takes_a_stop(gateway: Running) -> None:
    async with configured(gateway.redis, "maxmemory", 1):
        await stop(gateway)
        await resume(gateway, "intake")
