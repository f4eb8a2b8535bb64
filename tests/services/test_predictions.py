"""Routes that wait for their jobs: /predict, KServe V1 and the Open Inference Protocol, before one model."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx2
import pytest
from gateway_parts import (
    FORM,
    IMAGE_MODEL,
    PICTURE,
    RESULT,
    TEXT_MODEL,
    VERSION,
    Running,
    failed,
    listening,
    running_gateway,
    service_of,
    until,
)

from serve_app.contracts import Json, Outcome, Task
from serve_app.gateway.live import WAITS_MAX
from serve_app.gateway.routes.table import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from tests.pictures import encode, gradient

DETECTOR: Final = card(
    ModelConfig(name="dummy-detector", implementation="serve_app.models.dummy_detector:DummyDetector", min_replicas=0)
)
THUMBNAIL: Final = card(
    ModelConfig(name="thumbnail", implementation="serve_app.models.thumbnail:ThumbnailModel", min_replicas=0)
)
TABLE: Final = card(ModelConfig(name="table", implementation="serve_app.models.table:Table", min_replicas=0))
CIRCLE: Final = {
    "object_id": "7f8d2c52-0c43-5b4a-9d0a-000000000000",
    "bbox": [10.0, 10.0, 50.0, 50.0],
    "centroid": {"x": 30.0, "y": 30.0},
    "radius": 20.0,
    "score": 0.75,
    "label": "coin",
}
CIRCLES: Final = {"count": 1, "detections": [CIRCLE], "model": {}, "image": {}, "outputs": []}
WORDS: Final = {"words": 2, "most_common": "a", "mean_length": 1.0}
B64: Final = base64.b64encode(PICTURE).decode()
LARGE: Final = encode(gradient(900, 700), "BMP")
"""Its base64 is decoded beside the loop."""
V1: Final = "/v1/models/dummy-detector:predict"
TABLES: Final = "/api/v1/models/table/predict"
V2: Final = "/v2/models/dummy-detector/infer"
LENGTH: Final = "Inference-Header-Content-Length"


def answer(task: Task) -> Outcome:
    """As its model would: known by what it is asked."""
    if task.input is None:
        return Outcome(task.job_id, result=WORDS)
    if "threshold" in task.params:
        return Outcome(task.job_id, result=RESULT)
    circle = {**CIRCLE, "label": task.params.get("label", "coin")}
    return Outcome(task.job_id, result={**CIRCLES, "detections": [circle]})


@pytest.fixture
async def waiting(settings: Settings, authority: DevIssuerServer) -> AsyncIterator[Running]:
    changes = {"predict_model": "dummy-detector", "detector_model": "dummy-detector", "image_max_bytes": 2_000_000}
    plenty = {"rate_submits_per_s": 1000.0, "rate_house_submits_per_s": 1000.0}
    cards = (IMAGE_MODEL, TEXT_MODEL, DETECTOR, TABLE, THUMBNAIL)
    async with running_gateway(settings, authority, cards=cards, **changes, **plenty) as gateway:
        gateway.model.answer = answer
        yield gateway


@pytest.fixture
async def impatient(settings: Settings, authority: DevIssuerServer) -> AsyncIterator[Running]:
    cards = (IMAGE_MODEL, TEXT_MODEL, DETECTOR)
    async with running_gateway(settings, authority, cards=cards, predict_wait_s=0.2) as gateway:
        gateway.model.answer = answer
        yield gateway


def tensor(*data: str, **more: Any) -> Json:
    return {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": list(data), **more}


def binary(*pictures: bytes, **more: Any) -> dict[str, Any]:
    """A request with the images after the JSON."""
    elements = b"".join(struct.pack("<I", len(one)) + one for one in pictures)
    given = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)]}
    head = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": len(elements)}}], **more}).encode()
    return {"content": head + elements, "headers": {LENGTH: str(len(head))}}


async def send(gateway: Running, path: str, user: str = "ada", **parts: Any) -> httpx2.Response:
    headers = {**gateway.bearer(user), **parts.pop("headers", {})}
    return await gateway.client.post(path, headers=headers, **parts)


async def test_predict_waits_and_answers_in_the_shape_of_the_source(waiting: Running) -> None:
    found = await send(waiting, "/predict", files={"file": ("a.png", PICTURE)}, data={"label": "button"})
    assert found.status_code == 200
    shown = found.json()
    assert shown["request_id"] == found.headers["x-request-id"]
    assert (shown["text"], shown["confidence"], shown["model"]) == ("button", 0.75, "dummy-detector")
    assert shown["boxes"] == [{"x1": 10.0, "y1": 10.0, "x2": 50.0, "y2": 50.0, "text": "button", "conf": 0.75}]
    assert shown["latency_ms"] >= 0
    job = (await waiting.get(f"/api/v1/jobs/{shown['job_id']}")).json()
    assert job["result"] == shown["result"]
    (event,) = [event for event in await waiting.usage() if event["endpoint_type"] == "predict"]
    assert (event["job_id"], event["model"], event["status_code"]) == (shown["job_id"], "dummy-detector", 200)


async def test_a_model_is_named_in_the_path_and_takes_its_parameters_either_way(waiting: Running) -> None:
    path = "/api/v1/models/sem-classifier/predict"
    found = await send(waiting, path, files={"file": ("a.png", PICTURE)}, data={"threshold": "0.5"})
    assert (found.json()["text"], found.json()["confidence"], found.json()["boxes"]) == ("Tips", 0.9, [])
    wrong = await send(waiting, path, files={"file": ("a.png", PICTURE)}, data={"threshold": "2"})
    assert wrong.json()["detail"] == "The parameters of sem-classifier are not valid at /threshold."
    words = await send(waiting, "/api/v1/models/words/predict", files={"params": (None, '{"text": "a b"}')})
    assert words.json()["result"] == WORDS
    thumbnail = "/api/v1/models/thumbnail/predict"
    assert (await send(waiting, thumbnail, files={"file": ("Grün 1.png", PICTURE)}, data={"width": "9"})).is_success
    boxes = {
        "table_bboxes": "[[10, 10, 40, 30]]",
        "iocr_json": json.dumps([["a", 9, 9, 50, 50], *[["b", 0, 0, 9, 9]] * 1000]),
    }
    assert (await send(waiting, TABLES, files={"file": ("a.png", PICTURE)}, data=boxes)).status_code == 200
    assert [task.params for task in waiting.model.tasks] == [
        {"threshold": 0.5},
        {"text": "a b"},
        {"width": 9, "file_name": "Grun_1.png"},
        {"table_bboxes": [[10.0, 10.0, 40.0, 30.0]], "iocr_json": [["a", 9.0, 9.0, 50.0, 50.0]]},
    ]


async def test_the_same_key_finds_the_same_job_with_its_result(waiting: Running) -> None:
    parts = {"files": {"file": ("a.png", PICTURE)}, "headers": {"Idempotency-Key": "k"}}
    first, again = await send(waiting, "/predict", **parts), await send(waiting, "/predict", **parts)
    assert again.headers["idempotent-replayed"] == "true"
    assert first.json() == {**again.json(), "request_id": first.json()["request_id"]}
    other = await send(waiting, "/predict", **{**parts, "files": {"file": ("a.png", encode(gradient(9, 9), "PNG"))}})
    assert other.json()["type"] == "/problems/idempotency-key-reused"
    several = {"json": {"instances": [{"image": {"b64": B64}}] * 2}, "headers": {"Idempotency-Key": "k"}}
    assert (await send(waiting, V1, **several)).json() == (await send(waiting, V1, **several)).json()
    assert len(waiting.model.tasks) == 3


async def test_what_takes_longer_than_the_wait_is_a_job_to_come_back_for(impatient: Running) -> None:
    impatient.model.open.clear()
    path = "/api/v1/models/dummy-detector/predict"
    later = await send(impatient, path, files={"file": ("a.png", PICTURE)})
    assert later.status_code == 202
    for url, parts in ((V1, {"json": {"inputs": [{"data": B64}]}}), (V2, {"json": {"inputs": [tensor(B64)]}})):
        late = await send(impatient, url, **parts)
        assert (late.status_code, late.json()["type"]) == (504, "/problems/prediction-unfinished")
        assert late.headers["location"] == f"/api/v1/jobs/{late.json()['job_id']}"
        assert late.json()["error"] == late.json()["detail"]
        assert (await impatient.get(late.headers["location"])).json()["result"] is None
    impatient.model.open.set()
    assert (await impatient.ended(later.json()["job_id"]))["result"]["count"] == 1
    assert (await impatient.get(later.headers["location"], "bob")).status_code == 404


async def test_without_a_place_to_wait_predict_is_202_and_the_protocols_are_429(waiting: Running) -> None:
    service_of(waiting).watch.waits.taken["others"] = WAITS_MAX
    later = await send(waiting, "/predict", files={"file": ("a.png", PICTURE)})
    assert later.status_code == 202
    refused = await send(waiting, V1, json={"inputs": [{"data": B64}]})
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/rate-limited")
    assert "retry-after" in refused.headers
    assert len((await waiting.get("/api/v1/jobs")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("slug", "status", "problem"),
    [
        ("image-undecodable", 422, "input-rejected"),
        ("model-rejected", 422, "input-rejected"),
        ("job-dead", 503, "prediction-failed"),
        ("model-timeout", 504, "prediction-unfinished"),
    ],
)
async def test_a_failed_job_is_a_problem_with_its_reason(
    waiting: Running, slug: str, status: int, problem: str
) -> None:
    waiting.model.answer = failed(slug, "Because.")
    one = await send(waiting, "/predict", files={"file": ("a.png", PICTURE)})
    assert (one.status_code, one.json()["type"]) == (status, f"/problems/{problem}")
    assert one.json()["detail"] == f"{slug}: Because."
    two = await send(waiting, V2, json={"inputs": [tensor(B64, B64)]})
    assert two.status_code == status
    assert two.json()["error"] == f"Image 1 of 2: {slug}: Because."


async def test_a_job_cancelled_while_its_request_waits_is_409(waiting: Running) -> None:
    waiting.model.open.clear()
    asking = asyncio.create_task(send(waiting, "/predict", files={"file": ("a.png", PICTURE)}))

    async def accepted() -> list[Json]:
        return list((await waiting.get("/api/v1/jobs")).json()["data"])

    (job,) = await until(accepted)
    await waiting.post(job["links"]["cancel"])
    assert (await asking).json()["type"] == "/problems/job-has-no-result"


async def test_kserve_v1_answers_every_instance_in_order(waiting: Running) -> None:
    images = [PICTURE, LARGE, encode(gradient(9, 9), "PNG")]
    body = {"instances": [{"image": {"b64": base64.b64encode(one).decode()}} for one in images]}
    found = await send(waiting, V1, json={**body, "parameters": {"label": "sphere"}})
    assert float(found.headers["prediction-time-latency"]) > 0
    assert [one["detections"][0]["label"] for one in found.json()["predictions"]] == ["sphere"] * 3
    sizes = {task.job_id: task.input.bytes for task in waiting.model.tasks if task.input}
    listed = (await waiting.get("/api/v1/jobs")).json()["data"]
    assert [sizes[job["job_id"]] for job in reversed(listed)] == [len(one) for one in images]
    escaped = json.dumps({"inputs": [{"data": base64.b64encode(LARGE).decode()}]}).replace("/", "\\/")
    php = await send(waiting, V1, content=escaped, headers={"Content-Type": "application/json"})
    assert php.json()["predictions"][0]["count"] == 1
    words = {"instances": [{}], "parameters": {"text": "a b"}}
    assert (await send(waiting, "/v1/models/words:predict", json=words)).json() == {"predictions": [WORDS]}


async def test_aiq_detector_answers_in_the_shape_of_the_source(waiting: Running) -> None:
    circle = {
        "bounding_box": {"xmin": 10.0, "ymin": 10.0, "xmax": 50.0, "ymax": 50.0},
        "centroid": {"x": 30.0, "y": 30.0},
        "radius": {"radius": 20.0},
        "label": "coin",
        "score": 0.75,
    }
    for count, predictions in ((1, [circle]), (2, [[circle], [circle]])):
        body = {"instances": [{"image": {"b64": B64}}] * count, "parameters": {"label": "coin"}}
        found = await send(waiting, "/v1/models/aiq-detector:predict", json=body)
        assert found.json() == {"predictions": predictions}
    assert (await waiting.get("/v1/models/aiq-detector")).json() == {"name": "aiq-detector", "ready": True}
    assert (await waiting.get("/v1/models")).json() == {
        "models": ["sem-classifier", "words", "dummy-detector", "table", "thumbnail"]
    }


async def test_v2_gives_tensors_in_both_forms(waiting: Running) -> None:
    outputs = [{"name": "boxes"}, {"name": "counts"}, {"name": "result"}]
    body = {"id": "mine", "inputs": [tensor(B64, B64)], "outputs": outputs, "parameters": {"label": "coin"}}
    found = (await send(waiting, V2, json=body)).json()
    assert (found["id"], found["model_name"], found["model_version"]) == ("mine", "dummy-detector", VERSION)
    assert found["parameters"]["job_ids"].count(",") == 1
    boxes, counts, result = found["outputs"]
    assert boxes == {"name": "boxes", "datatype": "FP32", "shape": [2, 4], "data": [10.0, 10.0, 50.0, 50.0] * 2}
    assert counts["data"] == [1, 1]
    assert [json.loads(one)["count"] for one in result["data"]] == [1, 1]
    whole = await send(waiting, V2, **binary(LARGE, parameters={"binary_data_output": True}))
    head = json.loads(whole.content[: int(whole.headers[LENGTH])])
    assert [one["name"] for one in head["outputs"]] == ["result", "counts", "labels", "scores", "boxes"]
    assert whole.content.endswith(struct.pack("<f4f", 0.75, 10, 10, 50, 50))
    assert b"\x04\x00\x00\x00coin" in whole.content
    mixed = [{"name": "labels", "parameters": {"binary_data": True}}, {"name": "scores"}]
    path = f"/v2/models/dummy-detector/versions/{VERSION}/infer"
    answered = await send(waiting, path, **binary(PICTURE, outputs=mixed))
    head = json.loads(answered.content[: int(answered.headers[LENGTH])])
    assert head["outputs"][1]["data"] == [0.75]
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 8}


async def test_v2_describes_server_and_models(waiting: Running) -> None:
    async def body(path: str, status: int = 200) -> Any:
        found = await waiting.get(path)
        assert found.status_code == status, found.text
        return found.json()

    assert (await body("/v2"))["extensions"] == ["binary_tensor_data"]
    assert await body("/v2/health/live") == {"live": True}
    assert "ready" in (await waiting.client.get("/v2/health/ready")).json()
    described = await body("/v2/models/dummy-detector")
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [one["name"] for one in described["outputs"]] == ["result", "counts", "labels", "scores", "boxes"]
    assert (await body(f"/v2/models/words/versions/{VERSION}"))["inputs"] == []
    assert (await body("/v2/models/dummy-detector/ready"))["ready"] is True
    assert (await body("/v2/models/sem-classifier/ready", 503))["type"] == "/problems/model-not-ready"
    await waiting.beat("sem-classifier")
    assert (await body("/v1/models/sem-classifier"))["ready"] is True
    for path in ("/v2/models/dummy-detector/versions/7", "/v2/models/no-such/ready", "/v1/models/no-such"):
        assert "error" in await body(path, 404)
    assert "error" in (await waiting.get("/v2/repository/index")).json()


async def test_a_model_says_what_it_takes_and_whether_it_serves(waiting: Running) -> None:
    asleep = (await waiting.get("/api/v1/models/dummy-detector")).json()
    assert (asleep["state"], asleep["reason"], asleep["labels"]) == ("asleep", None, None)
    assert asleep["params_schema"]["properties"]["label"]["default"] == "coin"
    assert (asleep["limits"]["image_bytes"], asleep["limits"]["image_pixels"]) == (2_000_000, 100_000_000)
    assert (await waiting.get("/api/v1/models/thumbnail")).json()["limits"]["image_pixels"] == 500_000_000
    assert (await waiting.get("/api/v1/models/sem-classifier")).json()["state"] == "starting"
    await waiting.beat("sem-classifier", labels=["Tips"], engine="torch", revision="4d00")
    served = (await waiting.get("/api/v1/models/sem-classifier")).json()
    assert (served["state"], served["labels"], served["engine"], served["version"]) == (
        *("serving", ["Tips"]),
        *("torch", "4d00"),
    )
    states = {one["name"]: one["state"] for one in (await waiting.get("/api/v1/models")).json()["models"]}
    sleeping = dict.fromkeys(("dummy-detector", "table", "thumbnail"), "asleep")
    assert states == {"sem-classifier": "serving", "words": "starting", **sleeping}
    assert (await waiting.get("/api/v1/models/no-such")).json()["type"] == "/problems/model-unknown"


async def test_no_job_is_left_of_a_request_that_is_refused_half_way(
    settings: Settings, authority: DevIssuerServer
) -> None:
    cards = (DETECTOR,)
    async with running_gateway(settings, authority, cards=cards, queue_max_jobs=2) as gateway:
        gateway.model.open.clear()
        found = await send(gateway, V1, json={"inputs": [{"data": B64}] * 16})
        assert (found.status_code, found.json()["type"]) == (503, "/problems/queue-full")
        jobs = (await gateway.get("/api/v1/jobs")).json()["data"]
        assert {job["status"] for job in jobs} == {"CANCELLED"}


Case = tuple[str, str, int, str, dict[str, Any]]
JSON: Final = {"Content-Type": "application/json"}
ONE: Final = {"file": ("a.png", PICTURE)}


def predict(name: str, status: int, slug: str, path: str = "/predict", **parts: Any) -> Case:
    return name, path, status, slug, parts


def instances(name: str, status: int, slug: str, path: str = V1, **parts: Any) -> Case:
    return name, path, status, slug, parts


def inputs(name: str, status: int, slug: str, *given: Any, path: str = V2, **more: Any) -> Case:
    return name, path, status, slug, {"json": {"inputs": list(given), **more}}


PREDICT: Final = [
    predict("no body", 415, "body-type-unsupported"),
    predict("JSON", 415, "body-type-unsupported", json={}),
    predict("a plain form", 415, "body-type-unsupported", data={"label": "a"}),
    predict("no file", 400, "image-missing", files={"label": (None, "a")}),
    predict("an empty file", 400, "image-missing", files={"file": ("a.png", b"")}),
    predict("a file that is text", 400, "image-missing", files={"file": (None, "text")}),
    predict("no image", 415, "image-type-unsupported", files={"file": ("a.png", b"not an image")}),
    predict("half a header", 422, "image-unreadable", files={"file": ("a.png", PICTURE[:20])}),
    predict("a large file", 413, "image-too-large", files={"file": ("a.png", PICTURE + bytes(2_000_000))}),
    predict("a large body", 413, "body-too-large", files={"file": ("a.png", PICTURE + bytes(4_000_000))}),
    predict("two files", 400, "body-invalid", files=[("file", ("a", PICTURE)), ("file", ("b", PICTURE))]),
    predict("a file as a parameter", 400, "image-missing", files={"label": ("a.png", PICTURE)}),
    predict("an unknown parameter", 400, "body-invalid", files=ONE, data={"no_such": "1"}),
    predict("a parameter out of range", 400, "body-invalid", files=ONE, data={"label": "x" * 101}),
    predict("params that are no JSON", 400, "body-invalid", files=ONE, data={"params": "a=1"}),
    predict("params that are a list", 400, "body-invalid", files=ONE, data={"params": "[1]"}),
    predict("a parameter twice", 400, "body-invalid", files=ONE, data={"params": '{"label": "a"}', "label": "b"}),
    predict("many fields", 400, "body-invalid", files=ONE, data={f"f{at}": "1" for at in range(70)}),
    predict("a bad key", 400, "idempotency-key-invalid", files=ONE, headers={"Idempotency-Key": "two words"}),
    *(
        predict(f"boxes {boxes}", 400, "body-invalid", TABLES, files=ONE, data={"table_bboxes": boxes})
        for boxes in ("[]", "x", "[[1, 2, 3]]", '[["a", 2, 3, 4]]', "{}", "5")
    ),
    predict("an unknown model", 404, "model-unknown", "/api/v1/models/no-such/predict", files=ONE),
    predict("a file for a model without", 400, "body-invalid", "/api/v1/models/words/predict", files=ONE),
    predict("a form that ends early", 400, "body-invalid", content=b"--b\r\n", headers=FORM),
]
INSTANCES: Final = [
    instances("no body", 415, "body-type-unsupported"),
    instances("a form", 415, "body-type-unsupported", files=ONE),
    instances("no JSON", 400, "body-invalid", content=b"{", headers=JSON),
    instances("a list", 400, "body-invalid", json=[]),
    instances("nothing", 400, "body-invalid", json={}),
    instances("both forms", 400, "body-invalid", json={"instances": [{}], "inputs": [{"data": B64}]}),
    instances("no instances", 400, "body-invalid", json={"instances": []}),
    instances("too many", 400, "body-invalid", json={"inputs": [{"data": B64}] * 17}),
    instances("an instance without image", 400, "image-missing", json={"instances": [{}]}),
    instances("an empty image", 400, "image-missing", json={"inputs": [{"data": ""}]}),
    instances("an image that is a number", 400, "body-invalid", json={"instances": [{"image": {"b64": 5}}]}),
    instances("no base64", 400, "body-invalid", json={"inputs": [{"data": "????"}]}),
    instances("long and no base64", 400, "body-invalid", json={"inputs": [{"data": "?" * 5000}]}),
    instances("very long and no base64", 400, "body-invalid", json={"inputs": [{"data": "A" * 2_000_001}]}),
    instances("padding within", 400, "body-invalid", json={"inputs": [{"data": "A" * 1_048_574 + "==" + B64 * 9}]}),
    instances("a data URL", 400, "body-invalid", json={"inputs": [{"data": f"data:image/png;base64,{B64}"}]}),
    instances("no image in base64", 415, "image-type-unsupported", json={"inputs": [{"data": "QUJD"}]}),
    instances(
        "the second is no image", 415, "image-type-unsupported", json={"inputs": [{"data": B64}, {"data": "QUJD"}]}
    ),
    instances("an unknown field", 400, "body-invalid", json={"inputs": [{"data": B64}], "signature_name": "a"}),
    instances("an unknown parameter", 422, "params-invalid", json={"inputs": [{"data": B64}], "parameters": {"a": 1}}),
    instances(
        "a long parameter", 422, "params-invalid", json={"inputs": [{"data": B64}], "parameters": {"label": "x" * 9000}}
    ),
    instances("parameters that are a list", 400, "body-invalid", json={"inputs": [{"data": B64}], "parameters": [1]}),
    instances("much beside images", 413, "body-too-large", content=b'{"a":[' + b"0," * 90_000 + b"0]}", headers=JSON),
    instances("escapes", 400, "body-invalid", content=b'{"a":"' + b"\\" * 90_000 + b'"}', headers=JSON),
    instances("quotes", 400, "body-invalid", content=b'{"a":"' + b'\\"' * 110_000 + b'"}', headers=JSON),
    instances("a large body", 413, "body-too-large", json={"inputs": [{"data": "A" * 5_000_000}]}),
    instances("an unknown model", 404, "model-unknown", "/v1/models/no-such:predict", json={"inputs": [{"data": B64}]}),
    instances(
        "an image for a model without",
        400,
        "body-invalid",
        "/v1/models/words:predict",
        json={"inputs": [{"data": B64}], "parameters": {"text": "a"}},
    ),
]
INPUTS: Final = [
    inputs("no inputs", 400, "body-invalid"),
    ("no JSON", V2, 400, "body-invalid", {"content": b"{", "headers": JSON}),
    ("a form", V2, 415, "body-type-unsupported", {"files": ONE}),
    (
        "binary without length",
        V2,
        415,
        "body-type-unsupported",
        {"content": b"{}", "headers": {"Content-Type": "application/octet-stream"}},
    ),
    ("a length that is no number", V2, 400, "body-invalid", {"content": b"{}", "headers": {LENGTH: "-1"}}),
    ("a length beyond the body", V2, 400, "body-invalid", {"content": b"{}", "headers": {LENGTH: "9"}}),
    ("bytes left over", V2, 400, "body-invalid", {**binary(PICTURE), "content": binary(PICTURE)["content"] + b"x"}),
    inputs("another name", 400, "body-invalid", tensor(B64, name="pixels")),
    inputs("two tensors", 400, "body-invalid", tensor(B64), tensor(B64)),
    inputs("another type", 400, "body-invalid", tensor(B64, datatype="UINT8")),
    inputs("another shape", 400, "body-invalid", tensor(B64, shape=[2])),
    inputs("a negative shape", 400, "body-invalid", tensor(B64, shape=[-1])),
    inputs("too many", 400, "body-invalid", tensor(*[B64] * 17)),
    inputs("a huge shape", 400, "body-invalid", tensor(B64, shape=[10**9] * 8)),
    inputs("no data", 400, "body-invalid", {"name": "image", "datatype": "BYTES", "shape": [1]}),
    inputs("data that are numbers", 400, "body-invalid", {**tensor(B64), "data": [1]}),
    inputs("data nested deeply", 400, "body-invalid", {**tensor(B64), "data": [[[[[[[[[[B64]]]]]]]]]]}),
    inputs("no base64", 400, "body-invalid", tensor("????")),
    inputs("an empty image", 422, "image-unreadable", tensor("")),
    inputs("another content type", 400, "body-invalid", tensor(B64, parameters={"content_type": "str"})),
    inputs("data and a size", 400, "body-invalid", tensor(B64, parameters={"binary_data_size": 0})),
    inputs("a size that is a text", 400, "body-invalid", tensor(B64, parameters={"binary_data_size": "5"})),
    inputs("no image in base64", 415, "image-type-unsupported", tensor("QUJD")),
    inputs("an unknown output", 400, "body-invalid", tensor(B64), outputs=[{"name": "logits"}]),
    inputs("an output twice", 400, "body-invalid", tensor(B64), outputs=[{"name": "result"}, {"name": "result"}]),
    inputs("no flag", 400, "body-invalid", tensor(B64), parameters={"binary_data_output": 1}),
    inputs("an unknown parameter", 422, "params-invalid", tensor(B64), parameters={"no_such": 1}),
    inputs("an unknown model", 404, "model-unknown", tensor(B64), path="/v2/models/no-such/infer"),
    inputs("another version", 404, "model-unknown", tensor(B64), path="/v2/models/dummy-detector/versions/7/infer"),
    inputs(
        "an image for a model without",
        400,
        "body-invalid",
        tensor(B64),
        path="/v2/models/words/infer",
        parameters={"text": "a"},
    ),
    (
        "an element cut off",
        V2,
        400,
        "body-invalid",
        {
            **binary(PICTURE),
            "content": binary(PICTURE)["content"].replace(struct.pack("<I", len(PICTURE)), b"\xff\xff\xff\xff"),
        },
    ),
]
CASES: Final = [*PREDICT, *INSTANCES, *INPUTS]


def documented(path: str) -> set[str]:
    """The problem types of the route that answers at this path."""
    template = path.replace("dummy-detector", "{model_name}").replace("words", "{model_name}")
    template = template.replace("/table/", "/{model_name}/")
    template = template.replace("no-such", "{model_name}").replace("versions/7", "versions/{version}")
    template = template.replace("/api/v1/models/{model_name}", "/api/v1/models/{model}")
    (route,) = (route for route in ROUTES if (route.method, route.path) == ("POST", template))
    return {error.slug for error in (*route.problems, *EVERY_ROUTE, *EVERY_AUTHENTICATED_ROUTE)}


async def test_bad_input_is_refused_with_a_reason_and_leaves_nothing(waiting: Running) -> None:
    assert min(len(PREDICT), len(INSTANCES), len(INPUTS)) >= 12
    wrong = []
    for name, path, status, slug, parts in CASES:
        found = await send(waiting, path, "eve", **parts)
        problem = found.json()
        media = "application/json" if path[:4] in ("/v1/", "/v2/") else "application/problem+json"
        shown = (found.status_code, problem.get("type"), found.headers["content-type"])
        if shown != (status, f"/problems/{slug}", media) or not problem["detail"]:
            wrong.append(f"{path} {name}: {found.status_code} {problem}")
        if slug not in documented(path) or (path[:4] in ("/v1/", "/v2/") and problem["error"] != problem["detail"]):
            wrong.append(f"{path} {name}: {slug} is not documented, or the protocol's clients do not see it")
        if left := await waiting.keys():
            wrong.append(f"{path} {name}: left {left}")
            await waiting.redis.delete(*left)
    assert wrong == []
    assert waiting.model.tasks == []


@pytest.fixture
def triton() -> Any:
    return pytest.importorskip("tritonclient.http")


async def test_an_unmodified_tritonclient_infers(waiting: Running, triton: Any) -> None:
    async with listening(waiting.application) as url:
        await asyncio.to_thread(_with_triton, triton, url.removeprefix("http://"), waiting.bearer())


def _with_triton(triton: Any, address: str, headers: dict[str, str]) -> None:
    import numpy as np

    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_model_ready("dummy-detector", headers=headers)
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        version = client.get_model_metadata("dummy-detector", headers=headers)["versions"][0]
        images = triton.InferInput("image", [2], "BYTES")
        images.set_data_from_numpy(np.array([PICTURE, PICTURE], dtype=np.object_))
        ask: Callable[..., Any] = client.infer
        every = ask("dummy-detector", [images], headers=dict(headers), request_id="7", parameters={"label": "sphere"})
        assert every.get_response()["id"] == "7"
        assert every.as_numpy("boxes").tolist() == [[10.0, 10.0, 50.0, 50.0]] * 2
        assert every.as_numpy("labels").tolist() == [b"sphere", b"sphere"]
        assert every.as_numpy("scores").tolist() == [0.75, 0.75]
        outputs = [triton.InferRequestedOutput("scores", binary_data=False), triton.InferRequestedOutput("result")]
        some = ask("dummy-detector", [images], model_version=version, headers=dict(headers), outputs=outputs)
        assert some.as_numpy("scores").tolist() == [0.75, 0.75]
        assert json.loads(some.as_numpy("result")[0])["count"] == 1
        with pytest.raises(Exception, match="There is no model of this name"):
            ask("no-such", [images], headers=dict(headers))
