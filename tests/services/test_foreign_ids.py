"""What belongs to another user is, on every route, as if it were not there."""

from __future__ import annotations

import uuid
from typing import Any, Final

import httpx2
import pytest
from gateway_parts import CIRCLES, IMAGES_API, Running, id_of

from serve_app.contracts import Json
from serve_app.gateway.endpoint import RouteSpec
from serve_app.gateway.openapi import parameters_of
from serve_app.gateway.routes.table import ROUTES

OURS: Final = {"slug", "model", "model_name", "version"}
"""Names in paths that are nobody's."""
OF_USERS: Final = [
    route for route in ROUTES if route.tracked and not route.admin and set(parameters_of(route.path)) - OURS
]
OF_ADMINS: Final = [route for route in ROUTES if route.admin]
OLDER: Final = ["/api/v1/jobs/status", "/api/v1/jobs/results"]

pytestmark = pytest.mark.gateway(**IMAGES_API)


@pytest.fixture
async def gateway(tables: str, gateway: Running) -> Running:
    return gateway


async def ids_of_ada(gateway: Running) -> dict[str, str]:
    """Something of hers for each name that stands in a path."""
    body = {"items": [{"image_url": "https://images.example.org/a.png"}]}
    batch = (await gateway.post("/api/v1/batches", "ada", json=body)).json()
    webhook = await gateway.post("/api/v1/webhooks", "ada", json={"url": "https://lab.example.org/hook"})
    webhook_id = webhook.json()["webhook_id"]
    trial = await gateway.post(f"/api/v1/webhooks/{webhook_id}/test", "ada")
    return {
        "job_id": await gateway.completed_with_file("ada"),
        "name": "mask.png",
        "principal_id": id_of(gateway, "ada"),
        "webhook_id": webhook_id,
        "batch_id": batch["batch_id"],
        "delivery_id": trial.json()["delivery_id"],
        "image_id": (await gateway.send_image("ada")).json()["image_id"],
        "object_id": str(CIRCLES[0].object_id),
    }


async def ask(gateway: Running, route: RouteSpec, ids: dict[str, str], user: str) -> httpx2.Response:
    """A request of the user with a body that passes, where the route takes one."""
    example = route.example
    body: Any = {"json": example} if example is not None else {}
    path = route.path.format_map({**ids, "slug": "job-unknown", "stop": "intake"})
    return await gateway.client.request(route.method, path, headers=gateway.bearer(user), **body)


def same_for_all(answer: httpx2.Response) -> Json:
    """A problem without what differs between any two requests."""
    return {name: value for name, value in answer.json().items() if name not in ("instance", "request_id")}


@pytest.mark.parametrize("route", OF_USERS, ids=lambda route: route.name)
async def test_a_foreign_one_is_as_one_that_never_was(gateway: Running, route: RouteSpec) -> None:
    ids = await ids_of_ada(gateway)
    names = parameters_of(route.path)
    assert set(names) <= set(ids), f"say in ids_of_ada what {names} of {route.path} can be"
    foreign = await ask(gateway, route, ids, "eve")
    unknown = await ask(gateway, route, {name: str(uuid.uuid4()) for name in names}, "eve")
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert foreign.json()["type"].endswith(("-unknown", "-not-kept"))
    assert same_for_all(foreign) == same_for_all(unknown)
    assert set(foreign.headers) == set(unknown.headers)
    assert (await gateway.client.request(route.method, route.path.format_map(ids))).status_code == 401
    mine = await ask(gateway, route, ids, "ada")
    assert mine.status_code != 404, "what the test takes for foreign is not there at all"


@pytest.mark.parametrize("path", OLDER)
async def test_on_the_older_routes_it_was_not_found(gateway: Running, path: str) -> None:
    job_id, unknown_id = await gateway.submit("ada"), str(uuid.uuid4())
    foreign = await gateway.post(path, "eve", json={"job_id": job_id})
    unknown = await gateway.post(path, "eve", json={"job_id": unknown_id})
    assert (foreign.status_code, unknown.status_code) == (200, 200)
    assert foreign.json()["status"] == "NOT_FOUND"
    assert {**foreign.json(), "job_id": unknown_id} == unknown.json()
    assert (await gateway.post(path, "ada", json={"job_id": job_id})).json()["status"] != "NOT_FOUND"


async def test_users_are_told_nothing_on_the_routes_of_admins(gateway: Running) -> None:
    ids = await ids_of_ada(gateway)
    for route in OF_ADMINS:
        there = await ask(gateway, route, ids, "eve")
        nowhere = await ask(gateway, route, {name: "0" * 32 for name in parameters_of(route.path)}, "eve")
        assert (there.status_code, nowhere.status_code) == (403, 403), route.name
        assert same_for_all(there) == same_for_all(nowhere), route.name
