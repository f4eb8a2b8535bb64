"""What programs and people of the field really send over HTTP is read as it was meant, or refused by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx2
import pytest
from gateway_parts import END, IMAGE, PICTURE, UNKNOWN_ID, Running, as_admin, id_of, part

BOM = b"\xef\xbb\xbf"
ORIGIN = "https://portal.example.net"
pytestmark = pytest.mark.gateway(cors_allowed_origins=(ORIGIN,))


KEEP = part('form-data; name="keep"', b"true")


async def send(gateway: Running, body: bytes, kind: str = "multipart/form-data; boundary=b") -> httpx2.Response:
    headers = {**gateway.bearer(), "Content-Type": kind}
    return await gateway.client.post("/api/v1/jobs", headers=headers, content=body)


def problem(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


@pytest.mark.parametrize(
    "body",
    [
        part("form-data; name=\"image\"; filename*=utf-8''Probe_Gr%C3%B6%C3%9Fe.png", PICTURE),
        part("form-data; name=\"image\"; filename*=utf-8''gro%C3%9F.png", PICTURE + bytes(100_000)),
        part("form-data; name=image; FileName*=iso-8859-1'de'gr%F6%DFe.png", PICTURE),
        part("form-data; name=\"image\"; filename*=klingon''%FF.png", PICTURE),
        part("form-data; name=\"image\"; filename*=idna''%FF.png", PICTURE),
        part("form-data; name=\"image\"; filename*=undefined''a.png", PICTURE),
        part("form-data; name=\"image\"; filename*=punycode''%FF%FF.png", PICTURE),
        part("form-data; name=\"image\"; filename*=utf\0''a.png", PICTURE),
        part("form-data; name*=utf-8''image; filename=a.png", PICTURE),
        part('form-data; name="image"; filename*0="a long "; filename*1="name.png"', PICTURE),
        part('form-data; name="image"; filename="Probe_Größe.png"', PICTURE),
        part('form-data; name="image"; filename="a;*b.png"', PICTURE),
        part('form-data; name="image"; filename="a.png"', PICTURE, "Content-Transfer-Encoding: binary"),
        part('form-data; name="image"; filename="a.png"', PICTURE, "Content-Transfer-Encoding: 8BIT"),
    ],
    ids=lambda body: body[:80].decode(errors="replace"),
)
async def test_a_file_is_a_file_however_its_name_is_written(gateway: Running, body: bytes) -> None:
    answer = await send(gateway, body + END)
    assert answer.status_code == 202, answer.text


async def test_the_name_of_a_batch_item_is_the_extended_one_where_both_are_there(gateway: Running) -> None:
    disposition = "form-data; name=image; filename=\"=?utf-8?B?UHJvYmUucG5n?=\"; filename*=utf-8''Gr%C3%B6%C3%9Fe.png"
    headers = {**gateway.bearer(), "Content-Type": "multipart/form-data; boundary=b"}
    content = part(disposition, PICTURE) + END
    answer = await gateway.client.post("/api/v1/batches", headers=headers, content=content)
    assert answer.status_code == 202, answer.text
    assert [item["name"] for item in answer.json()["items"]] == ["Größe.png"]


@pytest.mark.parametrize(
    "body",
    [
        b"This is a multi-part message in MIME format.\r\n" + IMAGE + END,
        b"\r\n" + IMAGE + END,
        b"--bb\r\n--b is not it\r\n" + bytes(200_000) + b"\r\n" + IMAGE + END,
        IMAGE + END + b"an epilogue\r\n--b\r\n",
        IMAGE + b"--b--",
        b"--b  \r\n" + KEEP[5:] + b"--b\t " + IMAGE[3:] + b"--b--  \r\n",
        b"--b" + b" " * 1025 + b"\r\n" + IMAGE + END,
    ],
    ids=["words", "empty line", "long", "epilogue", "no line end", "blanks behind boundaries", "a line of blanks"],
)
async def test_what_stands_around_a_form_means_nothing(gateway: Running, body: bytes) -> None:
    async def in_small_pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 997):
            yield body[at : at + 997]

    assert (await send(gateway, body)).status_code == 202
    assert (await send(gateway, in_small_pieces())).status_code == 202  # type: ignore[arg-type]


async def test_a_boundary_may_be_quoted(gateway: Running) -> None:
    body = (IMAGE + END).replace(b"--b", b"--b (1)")
    assert (await send(gateway, body, 'Multipart/Form-Data; charset=utf-8; boundary="b (1)"')).status_code == 202


PARAMS = {"text": "Größe"}
SAID = json.dumps(PARAMS, ensure_ascii=False)
MODEL = part('form-data; name="model"', b"words")


@pytest.mark.parametrize(
    "body",
    [
        part('form-data; name="params"', BOM + SAID.encode()),
        part('form-data; name="params"', SAID.encode("latin-1"), "Content-Type: text/plain; charset=ISO-8859-1"),
        part('form-data; name="params"', SAID.encode("cp1252"), 'Content-Type: text/plain; charset="windows-1252"'),
        part('form-data; name="_charset_"', b"iso-8859-1") + part('form-data; name="params"', SAID.encode("latin-1")),
    ],
    ids=["BOM", "latin-1", "windows", "_charset_"],
)
async def test_the_text_of_a_form_is_read_in_the_encoding_that_it_names(gateway: Running, body: bytes) -> None:
    answer = await send(gateway, MODEL + body + END)
    assert answer.status_code == 202, answer.text
    assert [task.params for task in gateway.model.tasks if task.job_id == answer.json()["job_id"]] in ([], [PARAMS])
    job = await gateway.ended(answer.json()["job_id"])
    assert job["status"] == "COMPLETED"
    assert [task.params for task in gateway.model.tasks] == [PARAMS]


JSON_ROUTES = (
    ("/api/v1/jobs/status", {"job_id": UNKNOWN_ID}, 200),
    ("/api/v1/jobs/results", {"job_id": UNKNOWN_ID}, 200),
    ("/api/v1/jobs", {"model": "words", "params": {"text": "ein Wört"}}, 202),
    ("/api/v1/batches", {"model": "words", "items": [{"params": {"text": "ein Wört"}}]}, 202),
    ("/api/v1/webhooks", {"url": "https://hooks.example.net/sem"}, 201),
)


@pytest.mark.parametrize(("path", "document", "status"), JSON_ROUTES)
async def test_a_byte_order_mark_is_not_part_of_the_json(
    gateway: Running, path: str, document: dict[str, object], status: int
) -> None:
    text = json.dumps(document, ensure_ascii=False)
    headers = {**gateway.bearer(), "Content-Type": "application/json; charset=utf-8"}
    answer = await gateway.client.post(path, headers=headers, content=BOM + text.encode())
    assert answer.status_code == status, answer.text
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"):
        answer = await gateway.client.post(path, headers=headers, content=text.encode(encoding))
        assert problem(answer) == (400, "/problems/body-invalid")
        assert encoding.upper()[:6] in answer.json()["detail"]
        assert "UTF-8" in answer.json()["detail"]


async def test_ids_in_capitals_and_a_slash_at_the_end_are_the_same_resource(gateway: Running) -> None:
    job_id = await gateway.submit()
    await gateway.ended(job_id)
    for path in (f"/api/v1/jobs/{job_id.upper()}", f"/api/v1/jobs/{job_id}/", f"/api/v1/jobs/{job_id.upper()}/result/"):
        answer = await gateway.get(path)
        assert (answer.status_code, answer.json()["job_id"]) == (200, job_id)
    for path in ("status", "results/"):
        answer = await gateway.post(f"/api/v1/jobs/{path}", json={"job_id": job_id.upper()})
        assert (answer.json()["job_id"], answer.json()["status"]) == (job_id, "COMPLETED")
    assert len((await gateway.get("/api/v1/jobs/")).json()["data"]) == 1
    assert (await gateway.post("/api/v1/jobs/", files={"image": ("a.png", PICTURE)})).status_code == 202
    batch = (
        await gateway.post("/api/v1/batches", json={"model": "words", "items": [{"params": {"text": "a"}}]})
    ).json()
    found = await gateway.get(f"/api/v1/batches/{batch['batch_id'].upper()}/")
    assert found.json()["batch_id"] == batch["batch_id"]
    hook = (await gateway.post("/api/v1/webhooks", json={"url": "https://hooks.example.net/sem"})).json()
    assert (await gateway.get(f"/api/v1/webhooks/{hook['webhook_id'].upper()}")).status_code == 200
    assert (await gateway.get("/nowhere/")).json()["type"] == "/problems/route-unknown"
    assert (await gateway.client.get("/livez/")).status_code == 200


async def test_a_principal_in_capitals_is_the_same_person(gateway: Running) -> None:
    ada = id_of(gateway, "ada").upper()
    own = await gateway.get(f"/api/v1/usage?principal_id={ada}")
    assert problem(own) == (503, "/problems/usage-unavailable")  # without PostgreSQL; a stranger's would be 403
    block = await as_admin(gateway, "POST", "/api/v1/admin/blocks", json={"principal_id": ada, "reason": "A test."})
    assert (block.status_code, block.json()["principal_id"]) == (201, ada.lower())
    assert (await gateway.get("/api/v1/jobs")).status_code == 403
    assert (await as_admin(gateway, "DELETE", f"/api/v1/admin/blocks/{ada}")).status_code == 204


@pytest.mark.parametrize("since", ["2026-10-01T08:00+02:00", "2026-10-01T08:00:00+0200", "2026-10-01 08:00:00.5+0200"])
async def test_a_plus_that_nobody_escaped_is_the_offset_that_was_meant(gateway: Running, since: str) -> None:
    """A query's `+` is a space: httpx2, browsers and curl's -G escape it, a person at a terminal does not."""
    await gateway.submit()
    for escaped in (since.replace(" ", "%20"), quote(since)):
        answer = await gateway.get(f"/api/v1/jobs?since={escaped}&limit=5")
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize("path", ["/api/v1/jobs?since=", "/api/v1/usage?since=", "/api/v1/usage?until="])
async def test_a_plus_that_cannot_be_put_back_is_named(gateway: Running, path: str) -> None:
    for time in ("2026-W40-4T08:00+02:00", "2026-10-01T08:00++02:00"):
        answer = await gateway.get(path + time)
        assert problem(answer) == (400, "/problems/query-invalid")
        assert "%2B" in answer.json()["detail"]
    assert "%2B" not in (await gateway.get(f"{path}yesterday")).json()["detail"]


@pytest.mark.parametrize("timezone", ["Etc/GMT+5", "Etc/GMT%2B5"])
async def test_a_time_zone_with_a_plus_is_found_escaped_or_not(gateway: Running, timezone: str) -> None:
    answer = await gateway.get(f"/api/v1/usage?timezone={timezone}")
    assert problem(answer) == (503, "/problems/usage-unavailable")  # there is no PostgreSQL here: the zone was read


@pytest.mark.parametrize(
    "asked", ["authorization,x-request-id", "traceparent,tracestate", "x-requested-with,content-type"]
)
async def test_a_page_may_send_what_tracing_and_libraries_add(gateway: Running, asked: str) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    for path in ("/api/v1/jobs", "/api/v1/jobs/", "/api/v1/jobs/x/events"):
        assert (await gateway.client.request("OPTIONS", path, headers=headers)).status_code == 200
    headers["Access-Control-Request-Headers"] = "cache-control,last-event-id,authorization"
    headers["Access-Control-Request-Method"] = "GET"
    assert (await gateway.client.request("OPTIONS", "/api/v1/jobs/x/events", headers=headers)).status_code == 200
    headers["Origin"] = "https://other.example.net"
    assert (await gateway.client.request("OPTIONS", "/api/v1/jobs", headers=headers)).status_code == 400
