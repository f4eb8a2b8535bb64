"""Bad input to the images API: each case gets its documented 4xx problem with a reason, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from gateway_parts import CIRCLES, END, FORM, IMAGES_API, PICTURE, Running, part

from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES
from tests.unit.test_images_header import TOO_LARGE, UNREADABLE, UNSUPPORTED

IMAGE_MAX_BYTES = 256 * 1024
FILE = part('form-data; name="file"; filename="a.png"', PICTURE)
KEY = "Idempotency-Key"


def upload(picture: bytes, **parts: Any) -> dict[str, Any]:
    return {"files": {"file": ("a.png", picture)}, **parts}


POST: list[tuple[int, str, dict[str, Any]]] = [
    (415, "body-type-unsupported", {}),
    (415, "body-type-unsupported", {"json": {"image_url": "https://example.com/a.png"}}),
    (415, "body-type-unsupported", {"data": {"file": "text"}}),
    (415, "body-type-unsupported", {"content": PICTURE, "headers": {"Content-Type": "image/png"}}),
    (415, "body-type-unsupported", upload(PICTURE, headers={"Content-Encoding": "gzip"})),
    (400, "image-missing", upload(b"")),
    (400, "image-missing", {"files": {"file": (None, "text")}}),
    (400, "image-missing", {"content": END, "headers": FORM}),
    (400, "body-invalid", {"files": {"image": ("a.png", PICTURE)}}),
    (400, "body-invalid", upload(PICTURE, data={"label": "coin"})),
    (400, "body-invalid", {"files": [("file", ("a", PICTURE)), ("file", ("b", PICTURE))]}),
    (400, "body-invalid", {"content": FILE, "headers": FORM}),
    (400, "body-invalid", {"content": FILE + END, "headers": {"Content-Type": "multipart/form-data"}}),
    *((415, "image-type-unsupported", upload(data)) for data in UNSUPPORTED.values() if data),
    *((413, "image-too-large", upload(data)) for data in TOO_LARGE.values()),
    *((422, "image-unreadable", upload(data)) for data in UNREADABLE.values() if 0 < len(data) < IMAGE_MAX_BYTES),
    (413, "image-too-large", upload(PICTURE + bytes(IMAGE_MAX_BYTES))),
    (413, "body-too-large", upload(PICTURE + bytes(IMAGE_MAX_BYTES + 1_100_000))),
    *((400, "idempotency-key-invalid", upload(PICTURE, headers={KEY: key})) for key in ("", "two words", "x" * 256)),
]
QUERIES = (
    *("limit=0", "limit=201", "limit=x", "limit=", "limit=1&limit=2", "offset=1", "cursor=", "cursor=x"),
    *("cursor=%C3%A9", "cursor=MTo", "cursor=MTo1", f"cursor={'9' * 200}", "status=FAILED"),
)
NAMES = (
    *("0" * 64, "0" * 63, "0" * 65, "g" * 64, "x", "*", "%00", "%0d%0a", "%C3%A9", "-1", "x" * 4000),
    *("null", "0" * 64 + "%0a", "'; DROP TABLE images", "2f0c1c1e-8a39-4d4e-9d0a-000000000000", "%ED%A0%80"),
)


@pytest.mark.gateway(
    **IMAGES_API, image_max_bytes=IMAGE_MAX_BYTES, rate_submits_per_s=1000.0, rate_house_submits_per_s=1000.0
)
async def test_each_case_has_its_problem_and_leaves_nothing(tables: str, gateway: Running) -> None:
    image_id = (await gateway.send_image("bob")).json()["image_id"]
    mine = (await gateway.send_image(picture=PICTURE + b"more")).json()["image_id"]
    before = await gateway.keys()
    cases = [("POST", "", "", status, slug, parts) for status, slug, parts in POST]
    cases += [("GET", f"?{query}", "", 400, "query-invalid", {}) for query in QUERIES]
    for name in (*NAMES, image_id):
        one = ("/{image_id}", f"/{name}")
        cases += [(method, one[1], one[0], 404, "image-unknown", {}) for method in ("GET", "DELETE")]
        for below in ("/objects", f"/objects/{CIRCLES[0].object_id}"):
            path = "/{image_id}/objects" if below == "/objects" else "/{image_id}/objects/{object_id}"
            cases.append(("GET", one[1] + below, path, 404, "image-unknown", {}))
        path = f"/{mine}/objects/{name}"
        cases.append(("GET", path, "/{image_id}/objects/{object_id}", 404, "object-unknown", {}))
    wrong = []
    for method, suffix, pattern, status, slug, parts in cases:
        for root in ("/api/v1/images", "/images"):
            headers = {**gateway.bearer(), **parts.get("headers", {})}
            answer = await gateway.client.request(method, root + suffix, **{**parts, "headers": headers})
            problem = answer.json()
            found = (answer.status_code, problem["type"], answer.headers["content-type"])
            if found != (status, f"/problems/{slug}", "application/problem+json") or not problem["detail"]:
                wrong.append(f"{method} {root}{suffix[:100]}: {found} {problem}")
            (route,) = (one for one in ROUTES if (one.method, one.path) == (method, root + pattern))
            if slug not in {one.slug for one in (*route.problems, *EVERY_ROUTE, *EVERY_AUTHENTICATED_ROUTE)}:
                wrong.append(f"{slug} is not documented for {route.name}")
    assert wrong == []
    assert await gateway.keys() == before
    assert len(gateway.detector.tasks) == 2
    with psycopg.connect(tables) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (2,)
