"""Bad input in all its kinds: each case is answered with its documented 4xx problem, and leaves nothing in Redis."""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import pytest
from forged import FAMILIES, Forge
from gateway_parts import END, FORM, HEAD, IMAGE, PICTURE, UNKNOWN_ID, Running, part, running_gateway

from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES
from serve_app.local.issuer import DevIssuerServer, Issuer
from serve_app.settings import Settings
from tests.unit.test_images_header import TOO_LARGE, UNREADABLE, UNSUPPORTED

IMAGE_MAX_BYTES = 256 * 1024
ADMIN = {"realm_access": {"roles": ["sem-admin"]}}
PATHS = {route.path for route in ROUTES}

Parts = dict[str, Any]


@dataclass(frozen=True)
class World:
    """What a case may need beside the gateway."""

    gateway: Running
    pictures_port: int

    @property
    def issuer(self) -> Issuer:
        return self.gateway.issuer

    def hosted(self, path: str) -> Parts:
        return {"json": {"image_url": f"http://127.0.0.1:{self.pictures_port}/{path}"}}


@dataclass(frozen=True)
class Case:
    """A request and the problem it must meet. `parts` are those of an httpx2 request.

    `words` must stand in the problem's detail; `pointers`, where given, are those of all its errors.
    """

    name: str
    status: int
    slug: str
    parts: Callable[[World], Parts]
    method: str = "POST"
    path: str = "/api/v1/jobs"
    words: str = ""
    pointers: tuple[str, ...] | None = None


def case(
    name: str,
    status: int,
    slug: str,
    path: str = "/api/v1/jobs",
    method: str = "POST",
    *,
    words: str = "",
    pointers: tuple[str, ...] | None = None,
    **parts: Any,
) -> Case:
    return Case(name, status, slug, lambda _: parts, method, path, words, pointers)


def upload(data: bytes, **fields: str) -> Parts:
    return {"files": {"image": ("a.png", data)}, "data": fields}


# ------------------------------------------------------------------------------------------------------------- tokens


def bearer(token: str) -> Parts:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def minted(header: Parts | None = None, **claims: Any) -> Callable[[World], Parts]:
    return lambda world: bearer(world.issuer.mint("eve", header=header, **claims))


def forged(forge: Forge, world: World) -> Parts:
    return {"headers": [(b"Authorization", forge(world.issuer))]}


def token_case(name: str, parts: Callable[[World], Parts], slug: str = "token-invalid") -> Case:
    return Case(name, 401, slug, parts, "GET", f"/api/v1/jobs/{UNKNOWN_ID}")


TWO = [("Authorization", "Bearer a.b.c"), ("Authorization", "Bearer d")]
TOKENS = [  # one of each family; test_hostile_tokens.py sends all of them
    token_case("two tokens", lambda _: {"headers": TWO}),
    *(
        token_case(name, partial(forged, forges[0]), "token-missing" if name == "another scheme" else "token-invalid")
        for name, forges in FAMILIES.items()
    ),
]

# ------------------------------------------------------------------------------------------------------------- bodies

URL = "http://example.com/a.png"
JSON = {"Content-Type": "application/json"}
KEY = "Idempotency-Key"
STATUS = "/api/v1/jobs/status"
BODIES = [
    case("no body", 415, "body-type-unsupported"),
    case("text", 415, "body-type-unsupported", content=b"x", headers={"Content-Type": "text/plain"}),
    case("a bare image", 415, "body-type-unsupported", content=PICTURE, headers={"Content-Type": "image/png"}),
    case("a plain form", 415, "body-type-unsupported", data={"image_url": URL}),
    case(
        "compressed",
        415,
        "body-type-unsupported",
        content=gzip.compress(b"{}"),
        headers={**JSON, "Content-Encoding": "gzip"},
    ),
    case("a JSON list", 400, "body-invalid", json=[URL]),
    case("not UTF-8", 400, "body-invalid", content=b'{"a":"\xff"}', headers=JSON),
    case("long JSON", 413, "body-too-large", json={"image_url": URL, "params": {"a": "x" * 70_000}}),
    case("an unknown field", 400, "body-invalid", json={"image_url": URL, "imgae": 1}),
    case("a URL that is no text", 400, "body-invalid", json={"image_url": 5}),
    case("parameters that are no object", 400, "body-invalid", json={"image_url": URL, "params": [1]}),
    case("a model that is no text", 400, "body-invalid", json={"image_url": URL, "model": {}}),
    case("an unknown model", 404, "model-unknown", json={"image_url": URL, "model": "no-such"}),
    case("an unknown parameter", 422, "params-invalid", **upload(PICTURE, params='{"no_such": 1}')),
    case("parameters that are no JSON", 400, "body-invalid", **upload(PICTURE, params="a=1")),
    case("a form without boundary", 400, "body-invalid", content=b"x", headers={"Content-Type": "multipart/form-data"}),
    case("a form without parts", 400, "body-invalid", content=b"x", headers=FORM),
    case("a form that ends early", 400, "body-invalid", content=HEAD + PICTURE[:20], headers=FORM, words="ends early"),
    case("endless part headers", 400, "body-invalid", content=b"--b\r\nX: " + b"x" * 100_000, headers=FORM),
    case(
        "a part without name",
        400,
        "body-invalid",
        content=b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
        headers=FORM,
    ),
    case("an unknown form field", 400, "body-invalid", **upload(PICTURE, colour="red")),
    case("a file of another name", 400, "body-invalid", files={"picture": ("a.png", PICTURE)}),
    case("two images", 400, "body-invalid", files=[("image", ("a", PICTURE)), ("image", ("b", PICTURE))]),
    case(
        "a field twice",
        400,
        "body-invalid",
        content=b"".join(b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx\r\n' for _ in range(2))
        + b"--b--",
        headers=FORM,
    ),
    *(
        case(
            f"a form in {codec}",  # whatever it is said to be in: its text is UTF-8 (RFC 7578 section 5.1.2) or refused
            400,
            "body-invalid",
            content=b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n\\ud800\xff-\r\n--b--',
            headers={"Content-Type": f"multipart/form-data; boundary=b; charset={codec}"},
        )
        for codec in ("undefined", "punycode", "raw_unicode_escape", "cp037")
    ),
    case("many fields", 400, "body-invalid", **upload(PICTURE, a="1", b="2", c="3", d="4", e="5")),
    case(
        "a length of too many digits",
        413,
        "body-too-large",
        content=b"--b--",
        headers={**FORM, "Content-Length": "9" * 5000},
    ),
    case(
        "a length of many zeros",
        400,
        "body-invalid",
        content=b"x",
        headers={**FORM, "Content-Length": "0" * 5000 + "1"},
    ),
    case("a long field", 400, "body-invalid", **upload(PICTURE, params='{"a":"' + "x" * 70_000 + '"}')),
    case("image and URL", 400, "image-missing", **upload(PICTURE, image_url=URL)),
    case("neither image nor URL", 400, "image-missing", json={}),
    case("nulls", 400, "image-missing", path="/api/v1/inference", json={"image_url": None, "image": None}),
    case("an image that is no file", 400, "image-missing", files={"image": (None, "text")}),
    case("an image for a model without", 400, "body-invalid", **upload(PICTURE, model="words")),
    case("a parameter is missing", 422, "params-invalid", json={"model": "words"}),
    case(
        "parameters of another type and name",
        422,
        "params-invalid",
        json={"model": "words", "params": {"text": 5, "a/b~c": 1}},
        pointers=("/params/a~1b~0c", "/params/text"),
    ),
    case(
        "parameters too large for a record",
        422,
        "params-invalid",
        json={"model": "words", "params": {"text": "x" * 17_000}},
        pointers=("/params",),
    ),
    *(
        case(f"the idempotency key {key[:10]!r}", 400, "idempotency-key-invalid", **upload(PICTURE), headers={KEY: key})
        for key in ("", "two words", "x" * 256, '"open')
    ),
    case("a status without id", 400, "body-invalid", path=STATUS, json={}),
    case("a status of a number", 400, "body-invalid", path=STATUS, json={"job_id": 5}),
    case("a result of nothing", 400, "body-invalid", path="/api/v1/jobs/results", json={"job_id": None}),
    case("a status of a form", 415, "body-type-unsupported", path=STATUS, data={"job_id": UNKNOWN_ID}),
]


def unreadable(words: str, body: bytes, status: int = 400, slug: str = "body-invalid") -> Case:
    """A form that is refused with the reason."""
    return case(f"{words}: {body[-40:]!r}", status, slug, content=body, headers=FORM, words=words)


def encoded(encoding: str) -> bytes:
    return part('form-data; name="image"; filename="a.png"', b"iVBORw0KGgo=", f"Content-Transfer-Encoding: {encoding}")


SAID = '{"text": "Größe"}'
MODEL = part('form-data; name="model"', b"words")
REASONS = [
    unreadable("lines end with CR LF", IMAGE.replace(b"\r\n", b"\n") + b"--b--\n"),
    unreadable("the boundary of its Content-Type", (IMAGE + END).replace(b"--b", b"--c")),
    unreadable("ends early", IMAGE),
    unreadable("invalid character 32 in header", IMAGE.replace(b"; filename", b";\r\n filename") + END),
    unreadable("Maximum number of files is 1", IMAGE + IMAGE + END),
    unreadable("filename", part('form-data; name="image"', PICTURE) + END),
    unreadable("filename", part('form-data; name="image"', PICTURE + bytes(100_000)) + END),
    unreadable("UTF-16", MODEL + part('form-data; name="params"', SAID.encode("utf-16")) + END),
    unreadable("UTF-32", MODEL + part('form-data; name="params"', SAID.encode("utf-32-be")) + END),
    unreadable("UTF-8", MODEL + part('form-data; name="params"', SAID.encode("latin-1")) + END),
    *(
        unreadable(charset, MODEL + body + END, 415, "body-type-unsupported")
        for charset, body in (
            ("utf-7", part('form-data; name="params"', b"{}", "Content-Type: text/plain; charset=utf-7")),
            ("shift_jis", part('form-data; name="_charset_"', b"shift_jis")),
        )
    ),
    *(
        unreadable(encoding.lower(), encoded(encoding) + END, 415, "body-type-unsupported")
        for encoding in ("base64", "Quoted-Printable", "x-uuencode")
    ),
    *(
        case(
            f"the boundary {ending[-4:]!r}",
            400,
            "body-invalid",
            content=IMAGE + END,
            headers={"Content-Type": f"multipart/form-data{ending}"},
        )
        for ending in ("", "; boundary=", "; boundary=" + "b" * 71)
    ),
    *(
        case(f"JSON, {words}", 400, "body-invalid", content=text.encode(), headers=JSON, words=words)
        for text, words in (
            ('{"model": "words",}', "line 1 column 19"),
            ('{"params": {"text": NaN}}', "NaN is not JSON"),
            ('{"params": {"text": -1e999}}', "larger than any"),
            ('{"params": {"text": %s}}' % ("9" * 5000), "4300 digits"),
            ('{"params": {"text": "\\ud800"}}', "half a surrogate pair"),
            ('{"params": %s' % ('{"a":' * 5000), "nested too deeply"),
            ('{"model": "words", "model": "sem-classifier"}', "'model' twice"),
            ('{"model": "words", "params": {"text": "a", "te\\u0078t": "b"}}', "'text' twice"),
        )
    ),
]

# ----------------------------------------------------------------------------- batches, lists and what admins decide


def batch_case(name: str, status: int, slug: str, **parts: Any) -> Case:
    return case(name, status, slug, "/api/v1/batches", **parts)


BATCHES = [
    batch_case("no items", 400, "body-invalid", json={"items": []}),
    batch_case("too many items", 400, "body-invalid", json={"items": [{}] * 201}),
    batch_case("items that are no list", 400, "body-invalid", json={"items": {}}),
    batch_case("an unknown field", 400, "body-invalid", json={"items": [{}], "modle": 1}),
    batch_case("an unknown model", 404, "model-unknown", json={"items": [{}], "model": "no-such"}),
    batch_case("long JSON", 413, "body-too-large", json={"items": [{"image_url": "x" * 1_100_000}]}),
    batch_case("too many files", 400, "body-invalid", files=[("image", ("a.png", PICTURE))] * 201),
    batch_case("a file of another name", 400, "body-invalid", files=[("picture", ("a.png", PICTURE))]),
    batch_case("images for a model without", 422, "params-invalid", **upload(PICTURE, model="words")),
    batch_case("parameters that are no object", 400, "body-invalid", **upload(PICTURE, params="[]")),
    batch_case("a plain form", 415, "body-type-unsupported", data={"model": "words"}),
]


def query_case(path: str, query: str, status: int = 400, slug: str = "query-invalid") -> Case:
    return case(f"{path}?{query}", status, slug, f"{path}?{query}", "GET")


DEAD = "/api/v1/admin/dead"
QUERIES = [
    *(
        query_case("/api/v1/jobs", query)
        for query in (
            *("limit=0", "limit=201", "limit=x", "cursor=", "cursor=x", "cursor=%C3%A9", "cursor=MTo"),
            *("status=pending", "since=yesterday", "model=", "offset=1", "limit=1&limit=2"),
        )
    ),
    *(
        query_case("/api/v1/jobs", f"cursor={base64.urlsafe_b64encode(text).decode()}")
        for text in (b"1:-5", b"2:5", b"1:1e9", b"1:" + b"9" * 17)
    ),
    *(
        query_case(DEAD, query)
        for query in (
            *("limit=0", "limit=101", "limit=ten", "cursor=", "cursor=1-2", f"cursor={'9' * 400}-{UNKNOWN_ID}"),
            *("owner=ada", "limit=1&limit=2"),
        )
    ),
    query_case(DEAD, "model=no-such", 404, "model-unknown"),
]


def admin_case(name: str, pointer: str, body: dict[str, Any]) -> Case:
    return case(f"{name} {body}", 400, "body-invalid", f"/api/v1/admin/{name}", json=body, pointers=(pointer,))


NOBODY = "0" * 32
FOR_TEST = {"principal_id": NOBODY, "reason": "x"}
SAYS = {"message": "Beam line maintenance until noon."}
DECISIONS = [
    admin_case("blocks", "/reason", {"principal_id": NOBODY}),
    admin_case("blocks", "/reason", {"principal_id": NOBODY, "reason": " \x00\x1b"}),
    admin_case("blocks", "/principal_id", {"principal_id": "ada", "reason": "x"}),
    admin_case("blocks", "/principal_id", {"principal_id": NOBODY + "\n", "reason": "x"}),
    admin_case("blocks", "/until", {**FOR_TEST, "until": "tomorrow"}),
    admin_case("overrides", "", FOR_TEST),
    admin_case("overrides", "/reads_per_s", {**FOR_TEST, "reads_per_s": 0}),
    admin_case("overrides", "/reads_per_s", {**FOR_TEST, "reads_per_s": 1e300}),
    admin_case("overrides", "/submits_per_day", {**FOR_TEST, "submits_per_day": -1}),
    admin_case("overrides", "/submits_per_day", {**FOR_TEST, "submits_per_day": 1.5}),
    admin_case("overrides", "/submits_per_s", {**FOR_TEST, "submits_per_s": "20"}),
    admin_case("stops", "/message", {}),
    admin_case("stops", "/message", {"message": " \x00"}),
    admin_case("stops", "/what", {**SAYS, "what": "everything"}),
    admin_case("stops", "", {**SAYS, "what": "work"}),
    admin_case("stops", "/retry_after_s", {**SAYS, "retry_after_s": 0}),
    admin_case("stops", "/retry_after_s", {**SAYS, "retry_after_s": 86_401}),
    admin_case("stops", "/until", {**SAYS, "until": "noon"}),
    case(
        "stops of no model",
        404,
        "model-unknown",
        "/api/v1/admin/stops",
        json={**SAYS, "model": "no-such"},
        pointers=(),
    ),
]

# ------------------------------------------------------------------------------------------------------------- images


def image_case(name: str, status: int, slug: str, data: bytes) -> Case:
    return case(name, status, slug, "/api/v1/inference", **upload(data))


TYPES = [image_case(name, 415, "image-type-unsupported", data) for name, data in UNSUPPORTED.items()]
SIZES = [
    *(image_case(name, 413, "image-too-large", data) for name, data in TOO_LARGE.items()),
    *(
        image_case(name, 422, "image-unreadable", data)
        for name, data in UNREADABLE.items()
        if len(data) < IMAGE_MAX_BYTES
    ),
    image_case("a large file", 413, "image-too-large", PICTURE + bytes(IMAGE_MAX_BYTES)),
    image_case("a large body", 413, "body-too-large", PICTURE + bytes(IMAGE_MAX_BYTES + 1_100_000)),
]


def url_case(name: str, slug: str, url: str) -> Case:
    return case(name, 422, slug, "/api/v1/inference", json={"image_url": url})


def hosted_case(name: str, status: int, slug: str, path: str) -> Case:
    return Case(name, status, slug, lambda world: world.hosted(path), path="/api/v1/inference")


URLS = [
    url_case("empty", "image-url-invalid", ""),
    url_case("a path", "image-url-invalid", "/etc/passwd"),
    url_case("a file", "image-url-invalid", "file:///etc/passwd"),
    url_case("another protocol", "image-url-invalid", "gopher://example.com/"),
    url_case("no host", "image-url-invalid", "http://"),
    url_case("a password", "image-url-invalid", "http://user:secret@example.com/a.png"),
    url_case("spaces", "image-url-invalid", "http://exa mple.com/"),
    url_case("too long", "image-url-invalid", "http://example.com/" + "x" * 5000),
    url_case("one number", "image-url-invalid", "http://2130706433/"),
    url_case("this machine", "image-url-forbidden", "http://127.0.0.1/a.png"),
    url_case("this machine's name", "image-url-forbidden", "http://localhost/a.png"),
    url_case("this machine, version 6", "image-url-forbidden", "http://[::1]/a.png"),
    url_case("mapped", "image-url-forbidden", "http://[::ffff:10.0.0.1]/a.png"),
    url_case("cloud metadata", "image-url-forbidden", "http://169.254.169.254/latest/meta-data"),
    url_case("a private network", "image-url-forbidden", "https://10.1.2.3/a.png"),
    url_case("a cluster name", "image-url-forbidden", "http://redis.default.svc.cluster.local/"),
    url_case("another port", "image-url-forbidden", "http://93.184.216.34:22/"),
    hosted_case("a redirect inside", 422, "image-url-forbidden", "redirect"),
    hosted_case("not there", 422, "image-url-failed", "missing"),
    hosted_case("a page", 422, "image-url-failed", "page"),
    hosted_case("a hang-up", 422, "image-url-failed", "hang-up"),
    hosted_case("a large file behind a URL", 413, "image-too-large", "large"),
    hosted_case("text behind a URL", 415, "image-type-unsupported", "text"),
]


def id_case(name: str, job_id: str) -> Case:
    return case(name, 404, "job-unknown", f"/api/v1/jobs/{job_id}", "GET")


IDS = [
    id_case("unknown", UNKNOWN_ID),
    id_case("no UUID", "job-1"),
    id_case("upper case", UNKNOWN_ID.upper()),
    id_case("of the right length", "0" * 36),
    id_case("a line's end", "job%0a"),
    id_case("another letter", "%C3%A9"),
    id_case("a pattern", "*"),
    id_case("control characters", "%00%0d%0a"),
    id_case("a long one", "x" * 4000),
    id_case("a key of the store", f"blob:{UNKNOWN_ID}"),
]
CASES = {
    f"{kind}: {one.name}": one
    for kind, cases in (
        ("token", TOKENS),
        ("body", BODIES),
        ("type", TYPES),
        ("size", SIZES),
        ("url", URLS),
        ("id", IDS),
        ("reason", REASONS),
        ("batch", BATCHES),
        ("query", QUERIES),
        ("decision", DECISIONS),
    )
    for one in cases
}

PAGES = {
    b"/redirect": b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    b"/page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
    b"/large": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99999999\r\n\r\n",
    b"/text": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 12\r\n\r\nnot an image",
    b"/hang-up": b"",
    b"/picture": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b"
    % (len(PICTURE), PICTURE),
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    writer.write(PAGES.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
    await writer.drain()
    writer.close()


@pytest.fixture
async def world(settings: Settings, authority: DevIssuerServer) -> AsyncIterator[World]:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    changes: Parts = {"image_max_bytes": IMAGE_MAX_BYTES, "image_url_private_hosts": (f"127.0.0.1:{port}",)}
    changes |= {"rate_submits_per_s": 1000.0, "rate_house_submits_per_s": 1000.0}  # the cases come quickly
    async with running_gateway(settings, authority, **changes) as gateway:
        yield World(gateway, port)
    server.close()
    await server.wait_closed()


async def send(world: World, one: Case) -> httpx2.Response:
    parts = one.parts(world)
    headers = parts.pop("headers", {})
    if one not in TOKENS:
        headers = {**headers, **world.gateway.bearer("eve", **(ADMIN if "/admin/" in one.path else {}))}
    return await world.gateway.client.request(one.method, one.path, headers=headers, **parts)


def documented(one: Case) -> set[str]:
    """The problem types that the route table promises for the case's route."""
    path = one.path.partition("?")[0]
    path = path if path in PATHS else "/api/v1/jobs/{job_id}"
    (route,) = (route for route in ROUTES if (route.method, route.path) == (one.method, path))
    return {error.slug for error in (*route.problems, *EVERY_ROUTE, *EVERY_AUTHENTICATED_ROUTE)}


async def test_each_kind_has_its_cases_and_each_case_its_problem(world: World) -> None:
    """One gateway for all cases, because a gateway must outlive every one of them."""
    wrong = []
    for name, one in CASES.items():
        answer = await send(world, one)
        problem = answer.json()
        found = (answer.status_code, problem.get("type"), answer.headers["content-type"])
        if found != (one.status, f"/problems/{one.slug}", "application/problem+json"):
            wrong.append(f"{name}: {found} {problem}")
        pointers = sorted(fault["pointer"] for fault in problem.get("errors", []))
        if one.words not in problem.get("detail", "") or one.pointers not in (None, tuple(pointers)):
            wrong.append(f"{name}: it says {problem.get('detail')!r} and points at {pointers}")
        if not problem.get("detail") or one.slug not in documented(one):
            wrong.append(f"{name}: {one.slug} is not documented for this route, or has no reason")
        if left := await world.gateway.keys():
            wrong.append(f"{name}: left {left} in Redis")
            await world.gateway.redis.delete(*left)
    assert wrong == []
    assert world.gateway.model.tasks == []
    counts = {"auth": len(TOKENS), "body": len(BODIES), "type": len(TYPES), "size": len(SIZES), "url": len(URLS)}
    assert counts["auth"] >= 12
    assert counts["body"] >= 10
    assert min(counts["type"], counts["size"], counts["url"]) >= 8
    # Whoever had a good token is in the usage record, and nobody else.
    assert len(await world.gateway.usage()) == len(CASES) - len(TOKENS)


async def test_the_same_requests_without_the_fault_are_accepted(world: World) -> None:
    """What refuses the cases is their fault, not the way they are sent."""
    gateway = world.gateway
    for parts in (upload(PICTURE), upload(PICTURE, params="{}", model="sem-classifier"), world.hosted("picture")):
        answer = await gateway.client.post("/api/v1/jobs", headers=gateway.bearer(), **parts)
        assert answer.status_code == 202, answer.text
        assert (await gateway.ended(answer.json()["job_id"]))["status"] == "COMPLETED"
    for token in (minted(), minted(header={"typ": "JWT"}), minted(exp=int(time.time()) - 10)):
        answer = await gateway.client.get(f"/api/v1/jobs/{UNKNOWN_ID}", **token(world))
        assert answer.status_code == 404


async def test_a_refused_token_is_not_repeated_and_its_challenge_says_why(world: World) -> None:
    token = world.issuer.mint("eve", exp=int(time.time()) - 60)
    answer = await world.gateway.client.get("/api/v1/models", **bearer(token))
    assert token[-20:] not in answer.text
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert "expired" in answer.headers["www-authenticate"]
    missing = await world.gateway.client.get("/api/v1/models")
    assert missing.headers["www-authenticate"] == 'Bearer realm="sem-image-classifier"'
