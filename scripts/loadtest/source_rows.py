"""`make rows`: what the source systems could do, tried on a running service; prints `row N ok|short` for each.

    make rows ARGS='--server http://localhost:8080 --token "$TOKEN" --other-token "$OTHER"'

The numbers are those of the checklist that the service was planned by: circle detection (58-68, 74-81), other models
(90), thumbnails (91-94, 96, 97, 100), text, layout and tables (113-115). Pictures are drawn here. The exit status is 1
when a row is short; a row that cannot be tried over HTTP is skipped, with the test that holds it.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFont

WAIT_S: Final = 120.0
"""Longest wait for one job: the model may have to be started."""
SEMAPI: Final = str(Path(sys.executable).with_name("semapi"))
SECRET: Final = re.compile(r"password|secret|token|credential", re.IGNORECASE)


class Skipped(Exception):
    """A row that cannot be tried here; the text says why."""


@dataclass(frozen=True)
class Service:
    """A running service, and two of its users."""

    url: str
    client: httpx2.Client
    other: httpx2.Client
    token: str

    def job(self, model: str, picture: bytes, name: str = "picture.png", **params: Any) -> dict[str, Any]:
        """The ended job of one picture. Raises AssertionError if it does not end COMPLETED."""
        files = {"image": (name, picture)}
        answer = self.client.post("/api/v1/jobs", files=files, data={"model": model, "params": json.dumps(params)})
        assert answer.status_code == 202, answer.text
        deadline = time.monotonic() + WAIT_S
        while (job := self.client.get(answer.headers["Location"], headers={"Prefer": "wait=30"}).json())["status"] in (
            "PENDING",
            "PROCESSING",
        ):
            assert time.monotonic() < deadline, f"{model}: no end within {WAIT_S:g} s"
        assert job["status"] == "COMPLETED", job
        return dict(job)

    def detect(self, picture: bytes) -> tuple[str, dict[str, Any]]:
        """The id and the detection of a picture in the images API, whose model may have to be started first."""
        answer = self.client.post("/api/v1/images/", files={"file": ("coins.png", picture)})
        assert answer.status_code in (200, 202), answer.text
        image_id = answer.json()["image_id"]
        deadline = time.monotonic() + WAIT_S
        while answer.status_code == 202 or answer.json().get("detection") is None:
            assert time.monotonic() < deadline, f"no detection within {WAIT_S:g} s: {answer.text}"
            time.sleep(0.5)
            answer = self.client.get(f"/api/v1/images/{image_id}")
        return image_id, answer.json()["detection"]


@contextmanager
def reached(url: str, token: str, other: str) -> Iterator[Service]:
    """The service at this address, for the users of two tokens."""
    with _client(url, token) as one, _client(url, other) as two:
        yield Service(url, one, two, token)


def _client(url: str, token: str) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def coins(seed: int = 0) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Three bright discs on a dark ground, and their boxes. Another seed is another picture."""
    source = np.random.default_rng(seed)
    image = Image.fromarray(source.integers(40, 60, (480, 640, 3), dtype=np.uint8))
    draw, boxes = ImageDraw.Draw(image), []
    for number in range(3):
        radius = int(source.integers(45, 70))
        x, y = 130 + 190 * number + int(source.integers(-15, 15)), 240 + int(source.integers(-90, 90))
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=(215, 200, 150), outline=(250, 240, 200), width=4)
        boxes.append(box)
    return image, boxes


def page() -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A page with a heading, a line of text and a table of three columns, and the table's box."""
    image = Image.new("RGB", (1000, 900), "white")
    draw = ImageDraw.Draw(image)
    draw.text((60, 40), "Annual report", fill="black", font=ImageFont.load_default(48))
    draw.text((60, 150), "The samples were measured on three days.", fill="black", font=ImageFont.load_default(28))
    rows = [("Sample", "Width", "Height"), ("alpha", "12.5", "48"), ("beta", "13.1", "51"), ("gamma", "11.9", "47")]
    left, top, width, height = 60, 300, 280, 70
    for number, row in enumerate(rows):
        for column, text in enumerate(row):
            x, y = left + column * width, top + number * height
            draw.rectangle((x, y, x + width, y + height), outline="black", width=3)
            draw.text((x + 20, y + 16), text, fill="black", font=ImageFont.load_default(30))
    return image, (left, top, left + 3 * width, top + len(rows) * height)


# Circle detection


def row_58(service: Service) -> None:
    """An upload answers with the sha256 of its bytes and what was found."""
    image, boxes = coins(int(time.time()))
    image_id, detection = service.detect(png(image))
    assert re.fullmatch(r"[a-f0-9]{64}", image_id)
    assert detection["count"] == len(detection["detections"]) == len(boxes), detection


def row_59(service: Service) -> None:
    """The same picture again is a conflict that names it."""
    picture = png(coins(int(time.time()) + 1)[0])
    image_id, _ = service.detect(picture)
    again = service.client.post("/api/v1/images/", files={"file": ("again.png", picture)})
    assert again.status_code == 409, again.text
    assert image_id in again.text
    assert again.headers["Location"].endswith(image_id)


def row_60(service: Service) -> None:
    """No bytes, no image, too many bytes."""
    limit = service.client.get("/config").json()["max_upload_size"]
    for data, statuses in ((b"", {400}), (b"no picture", {415, 422}), (b"\x89PNG" + bytes(limit), {413})):
        answer = service.client.post("/api/v1/images/", files={"file": ("x.png", data)})
        assert answer.status_code in statuses, answer.text


def _stored(service: Service) -> tuple[str, list[dict[str, Any]]]:
    image_id, _ = service.detect(png(coins(time.time_ns() % 2**32)[0]))
    answer = service.client.get(f"/api/v1/images/{image_id}/objects").json()
    assert answer["count"] == len(answer["objects"]) > 0, answer
    return image_id, answer["objects"]


def row_61(service: Service) -> None:
    """The list of an image's objects, with integer boxes."""
    _, objects = _stored(service)
    assert all(isinstance(side, int) for one in objects for side in one["bbox"])


def row_62(service: Service) -> None:
    """One object: box, centroid, radius."""
    image_id, objects = _stored(service)
    one = service.client.get(f"/api/v1/images/{image_id}/objects/{objects[0]['object_id']}").json()
    assert one["radius"] > 0
    assert len(one["centroid"]) == 2


def row_63(service: Service) -> None:
    """Unknown image, unknown object, no uuid, another user's image."""
    image_id, objects = _stored(service)
    paths = ["0" * 64 + "/objects", f"{image_id}/objects/{uuid.uuid4()}", f"{image_id}/objects/no-uuid"]
    assert {service.client.get(f"/api/v1/images/{path}").status_code for path in paths} == {404}
    foreign = service.other.get(f"/api/v1/images/{image_id}/objects/{objects[0]['object_id']}")
    assert foreign.status_code == 404


def row_64(service: Service) -> None:
    """The score is in the answer."""
    _, detection = service.detect(png(coins(time.time_ns() % 2**32)[0]))
    assert all(0 < one["score"] <= 1 and len(one["bbox"]) == 4 for one in detection["detections"])


def row_65(service: Service) -> None:
    """The description of the routes, for people and for programs."""
    assert service.client.get("/docs").status_code == 200
    assert "/api/v1/images" in service.client.get("/openapi.json").text


def row_66(service: Service) -> None:
    """The stand-in answers one fixed circle."""
    [one] = service.job("dummy-detector", png(coins()[0]))["result"]["detections"]
    assert (one["bbox"], one["radius"]) == ([10, 10, 50, 50], 20)


def row_67(service: Service) -> None:
    """The configuration without secrets."""
    config = service.client.get("/config").json()
    assert {"mode", "model_name", "max_upload_size"} <= config.keys()
    assert not [name for name in config if SECRET.search(name)]


def row_68(service: Service) -> None:
    """A restart keeps images and objects."""
    raise Skipped("needs a restart: tests/services/test_images_api.py")


def row_74(service: Service) -> None:
    """The label is a parameter; its default is coin."""
    picture = png(coins()[0])
    choices: list[dict[str, str]] = [{}, {"label": "button"}]
    labels = [service.job("circles", picture, **params)["result"]["detections"][0]["label"] for params in choices]
    assert labels == ["coin", "button"]


def _predict_v1(service: Service) -> httpx2.Response:
    data = base64.b64encode(png(coins()[0])).decode()
    body = {"instances": [{"image": {"b64": data}}] * 2, "parameters": {"label": "coin"}}
    return service.client.post("/v1/models/aiq-detector:predict", json=body)


def row_75(service: Service) -> None:
    """KServe's first protocol answers all instances, in both forms."""
    answer = _predict_v1(service)
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["predictions"]
    assert first == second
    assert {"bounding_box", "centroid", "radius", "label", "score"} <= first[0].keys()
    data = base64.b64encode(png(coins()[0])).decode()
    answer = service.client.post("/v1/models/aiq-detector:predict", json={"inputs": [{"data": data}]})
    assert answer.status_code == 200, answer.text


def row_76(service: Service) -> None:
    """The latency is in a header."""
    assert float(_predict_v1(service).headers["prediction-time-latency"]) > 0


# Evaluation


def _evaluated(service: Service, *more: str) -> tuple[int, dict[str, Any], list[str]]:
    """Exit status, report and names of the pictures of `semapi evaluate coco` on three drawn scenes."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "data"), Path(name, "out")
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(3):
            image, boxes = coins(number)
            image.save(folder / f"scene{number}.png")
            images.append({"id": number, "file_name": f"scene{number}.png", "width": 640, "height": 480})
            for x0, y0, x1, y1 in boxes:
                box = [x0, y0, x1 - x0, y1 - y0]
                one = {"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box}
                annotations.append({**one, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": 1, "name": "coin"}]
        found = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "_annotations.coco.json").write_text(json.dumps(found))
        command = [SEMAPI, "evaluate", "coco", str(folder), "--model", "circles", "--server", service.url]
        command += ["--folder", str(out), "--out", str(out / "report.json"), *more]
        variables = {**os.environ, "SEMAPI_TOKEN": service.token}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, env=variables)
        written = out / "report.json"
        assert written.exists(), done.stderr
        report = json.loads(written.read_text())
        return done.returncode, report, sorted(path.name for path in out.glob("*_detected.jpg"))


def row_77(service: Service) -> None:
    """The Jaccard index in four forms."""
    _, report, _ = _evaluated(service)
    assert {"simple", "weighted", "min", "max"} <= report["jaccard"].keys()
    assert 0.8 < report["jaccard"]["simple"] <= 1


def row_78(service: Service) -> None:
    """Precision, recall and F1 at four thresholds."""
    _, report, _ = _evaluated(service)
    assert {float(at) for at in report["thresholds"]} == {0.3, 0.5, 0.7, 0.9}
    assert all(one["tp"] + one["fn"] == 9 for one in report["thresholds"].values())


def row_79(service: Service) -> None:
    """Annotated pictures."""
    _, _, pictures = _evaluated(service)
    assert pictures == [f"scene{number}_detected.jpg" for number in range(3)]


def row_80(service: Service) -> None:
    """A report with a row for each image."""
    _, report, _ = _evaluated(service)
    assert len(report["per_image"]) == 3


def row_81(service: Service) -> None:
    """A folder without annotations ends with 1, and so does a requirement that is not met."""
    with tempfile.TemporaryDirectory() as empty:
        command = [SEMAPI, "evaluate", "coco", empty, "--model", "circles"]
        assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 1
    assert _evaluated(service, "--require", "f1@0.5=0.95")[0] == 0
    one_each = ("--params", '{"max_count": 1}', "--require", "recall@0.5=0.95")
    assert _evaluated(service, *one_each)[0] == 1


# Other models and thumbnails


def row_90(service: Service) -> None:
    """Several models, from configuration alone."""
    names = {one["name"] for one in service.client.get("/api/v1/models").json()["models"]}
    assert {"circles", "thumbnail", "ocr", "layout", "table", "document", "dummy-detector"} <= names


def _thumbnail(service: Service, picture: bytes, name: str, **params: Any) -> tuple[Image.Image, dict[str, Any]]:
    job = service.job("thumbnail", picture, name, **params)
    [output] = job["result"]["outputs"]
    assert output["name"].startswith("thumb_")
    file = service.client.get(f"/api/v1/jobs/{job['job_id']}/outputs/{output['name']}")
    return Image.open(io.BytesIO(file.content)), job


def row_91(service: Service) -> None:
    """Upload, job id, progress by id, thumbnail."""
    image, _ = _thumbnail(service, png(coins()[0]), "coins.png")
    assert image.size == (100, 100)


def row_92(service: Service) -> None:
    """100 × 100 from any shape, or with its proportions."""
    wide = png(Image.new("RGB", (900, 100), "red"))
    assert _thumbnail(service, wide, "wide.png")[0].size == (100, 100)
    assert _thumbnail(service, wide, "wide.png", mode="fit")[0].size == (100, 11)


def row_93(service: Service) -> None:
    """PNG, JPEG and GIF; anything else is refused."""
    for kind in ("PNG", "JPEG", "GIF"):
        file = io.BytesIO()
        coins()[0].save(file, kind)
        assert _thumbnail(service, file.getvalue(), f"coins.{kind.lower()}")[0].size == (100, 100)
    text = service.client.post("/api/v1/jobs", files={"image": ("a.txt", b"text")}, data={"model": "thumbnail"})
    assert text.status_code == 415, text.text


def row_94(service: Service) -> None:
    """The four states have one name each here."""
    assert service.job("thumbnail", png(coins()[0]))["status"] == "COMPLETED"


def row_96(service: Service) -> None:
    """A temporary address of the file, for an hour, without a token."""
    _, job = _thumbnail(service, png(coins()[0]), "coins.png")
    name = job["result"]["outputs"][0]["name"]
    answer = service.client.post(f"/api/v1/jobs/{job['job_id']}/outputs/{name}/url").json()
    assert answer["expires_in"] == 3600
    url = httpx2.URL(service.url).join(answer["url"])
    assert httpx2.get(url, trust_env=False).status_code == 200
    broken = str(url)[:-1] + ("0" if str(url)[-1] != "0" else "1")
    assert httpx2.get(broken, trust_env=False).status_code in (403, 410)


def row_97(service: Service) -> None:
    """Three tries, then dead with the reason."""
    raise Skipped("needs a model that fails: tests/services/test_jobs_dispatcher.py")


def row_100(service: Service) -> None:
    """A TIFF of 20,000 × 20,000 pixels, read in steps."""
    file = io.BytesIO()
    tile = np.full((512, 512), 128, np.uint8)
    shape = (20_000, 20_000)
    tifffile.imwrite(
        file, (tile for _ in range(40 * 40)), shape=shape, dtype=np.uint8, tile=(512, 512), compression="zlib"
    )
    assert _thumbnail(service, file.getvalue(), "large.tif")[0].size == (100, 100)


# Text, layout, tables


def row_113(service: Service) -> None:
    """The synchronous route of the text reader."""
    answer = _patient(lambda: service.client.post("/predict", files={"file": ("page.png", png(page()[0]))}))
    assert {"request_id", "text", "confidence", "latency_ms", "boxes"} <= answer.keys()
    assert "three days" in answer["text"]
    assert {"x1", "y1", "x2", "y2", "text", "conf"} <= answer["boxes"][0].keys()


def _table(service: Service, bboxes: str) -> httpx2.Response:
    files = {"file": ("page.png", png(page()[0]))}
    return service.client.post("/api/v1/models/table/predict", files=files, data={"table_bboxes": bboxes})


def row_114(service: Service) -> None:
    """The cells of a table, and a refusal of what is no box."""
    answer = _patient(lambda: _table(service, json.dumps([page()[1]])))
    [table] = answer["tables"]
    assert (table["num_rows"], table["num_cols"]) == (4, 3), table
    assert {"bbox", "row_span", "col_span", "column_header", "text"} <= table["cells"][0].keys()
    assert _table(service, "[[1, 2]]").status_code == 400


def row_115(service: Service) -> None:
    """Layout, then tables, in one job."""
    files = {"file": ("page.png", png(page()[0]))}
    answer = _patient(lambda: service.client.post("/api/v1/models/table/predict", files=files))
    assert answer["tables"], answer
    outputs = service.job("document", png(page()[0]))["result"]["outputs"]
    assert {one["name"] for one in outputs} >= {"document.json", "document.md"}


def _patient(call: Callable[[], httpx2.Response]) -> dict[str, Any]:
    """The answer of a call that waits; 202 and 504 mean that the model still starts."""
    deadline = time.monotonic() + WAIT_S
    while (answer := call()).status_code in (202, 504) and time.monotonic() < deadline:
        pass
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


ROWS: Final = {
    int(name.removeprefix("row_")): row
    for name, row in sorted(globals().items(), key=lambda item: (len(item[0]), item[0]))
    if name.startswith("row_")
}


def walk(service: Service, numbers: list[int]) -> int:
    """Try the rows; print a line for each. Returns how many are short."""
    short = 0
    for number in numbers:
        words = (ROWS[number].__doc__ or "").rstrip(".")
        try:
            ROWS[number](service)
        except Skipped as reason:
            print(f"row {number} skipped  {words} ({reason})", flush=True)
        except Exception as error:  # a row that breaks is short, and the walk goes on
            short += 1
            print(f"row {number} short  {words}: {type(error).__name__}: {str(error)[:400]}", flush=True)
        else:
            print(f"row {number} ok  {words}", flush=True)
    return short


def main() -> int:
    """Read the arguments, walk the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:8080", help="the service's address")
    parser.add_argument("--token", required=True, help="a user's access token")
    parser.add_argument("--other-token", required=True, help="another user's")
    parser.add_argument("rows", nargs="*", type=int, default=list(ROWS), help="these rows only")
    options = parser.parse_args()
    with reached(options.server, options.token, options.other_token) as service:
        return 1 if walk(service, options.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
