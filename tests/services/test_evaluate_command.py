"""`semapi evaluate coco` on drawn images, with the model in the process and with a service."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_parts import Running, failed, listening, running_gateway
from PIL import Image
from typer.testing import CliRunner, Result

from serve_app.cli.main import commands
from serve_app.contracts import Failure, Outcome, Task
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings

DETECTOR = card(ModelConfig(name="detector", implementation="serve_app.models.dummy_detector:DummyDetector"))
ROWS = {
    "one.png": [[10, 10, 40, 40]],  # the dummy detector's circle exactly
    "two.png": [[10, 10, 40, 20], [60, 60, 20, 20]],  # half of it, and an object that it misses
    "none.png": [],
}
BASE = ("evaluate", "coco")
LOCAL = ("--model", "dummy-detector")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "discs"
    folder.mkdir()
    for number, name in enumerate(ROWS):
        Image.fromarray(np.full((100, 120), 200 + number, np.uint8)).save(folder / name)
    write(folder)
    return folder


def write(folder: Path, **changes: Any) -> None:
    images = [{"id": at, "file_name": name, "width": 120, "height": 100} for at, name in enumerate(ROWS)]
    boxes = [
        {"id": at * 10, "image_id": at, "category_id": 1, "bbox": box}
        for at, name in enumerate(ROWS)
        for box in ROWS[name]
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "disc"}], **changes}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(commands, [*BASE, *map(str, arguments)])


def read(file: str) -> Any:
    return json.loads(Path(file).read_text())


def tear(kept: Path) -> int:
    """Add half a line, as a killed run leaves it; how many whole ones there were."""
    text = kept.read_text()
    kept.write_text(text + '{"key": "ab')
    return text.count("\n")


def test_the_report_has_every_image_and_the_figures_worked_out_by_hand(dataset: Path) -> None:
    done = evaluate(dataset, *LOCAL, "--out", "report.json", "--html", "report.html")
    assert done.exit_code == 0, done.output
    report = read("report.json")
    assert [row["file"] for row in report["per_image"]] == ["none.png", "one.png", "two.png"]
    assert [row["jaccard"] for row in report["per_image"]] == [0, 1, pytest.approx(800 / 2000)]
    index = {"simple": 1.4 / 3, "weighted": (1 + 2 * 0.4) / 3, "min": 0, "max": 1}
    assert report["jaccard"] == pytest.approx(index)
    assert (report["images"], report["ground_truth"], report["predictions"], report["failed"]) == (3, 3, 3, {})
    at = report["thresholds"]
    assert at["0.5"] == {"tp": 2, "fp": 1, "fn": 1, "precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(2 / 3)}
    assert (at["0.3"]["tp"], at["0.7"]["tp"], at["0.9"]["tp"]) == (2, 1, 1)
    assert re.search(r"0\.5 +2 +1 +1 +0\.6667 +0\.6667 +0\.6667", done.stdout)
    page = Path("report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert page.index(">none.png") < page.index(">two.png") < page.index(">one.png")
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)


def test_pictures_show_predictions_in_red_and_the_truth_in_green(dataset: Path) -> None:
    assert evaluate(dataset, *LOCAL, "--folder", "made").exit_code == 0
    assert sorted(path.name for path in Path("made").glob("*.jpg")) == [
        f"{name}_detected.jpg" for name in ("none", "one", "two")
    ]
    pixels = np.asarray(Image.open("made/two_detected.jpg").convert("RGB")).astype(int)
    red, green, _ = pixels[40, 11]  # the left side of the prediction, below the true box beside it
    assert red > 150 > 110 > green
    red, green, blue = pixels[70, 61]  # the left side of the missed object
    assert green > 110 > red
    assert green > blue


def test_required_figures_decide_the_exit_status(dataset: Path) -> None:
    reached = ("f1@0.5=0.66", "precision@0.3=0.6", "recall@0.9=0.3", "jaccard=0.46", "jaccard_weighted=0.6")
    done = evaluate(dataset, *LOCAL, *(part for one in reached for part in ("--require", one)))
    assert (done.exit_code, done.stdout.count(" ok\n")) == (0, 5), done.output
    done = evaluate(dataset, *LOCAL, "--require", "jaccard=0.1", "--require", "f1@0.5=0.95")
    assert (done.exit_code, "required f1@0.5 >= 0.95: 0.6667 short" in done.stdout) == (1, True)
    for wrong in ("f1=0.5", "f1@0.4=1", "jaccard@0.5=1", "f1@0.5=1.5", "f1@0.5=nan", "f1@0.5"):
        done = evaluate(dataset, *LOCAL, "--require", wrong)
        assert (done.exit_code, "is none of f1@T=X" in done.stderr) == (1, True)


def test_what_is_wrong_with_a_dataset_is_said_in_one_line(dataset: Path) -> None:
    file, empty = dataset / "_annotations.coco.json", dataset.parent / "empty"
    empty.mkdir()

    def said(place: Path = dataset, *options: str) -> str:
        done = evaluate(place, *LOCAL, *options)
        assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (1, 1, ""), done.output
        return done.stderr

    assert "is neither a folder nor a file" in said(dataset / "nowhere")
    assert "is empty" in said(empty)
    assert "has no annotations of category 7; there are: 1 (disc)" in said(dataset, "--category", "7")
    write(dataset, annotations=[])
    assert "it has no annotations at all" in said()
    write(dataset, images=[])
    assert "lists no images" in said()
    write(dataset, images=[{"id": at, "file_name": "one.png"} for at in range(3)])
    assert "lists an image twice" in said()
    write(dataset, images=[{"id": 1, "file_name": name} for name in ROWS])
    assert "two images with the same id" in said()
    write(dataset, images=[{"id": 0, "file_name": "one.png"}])
    assert "annotations of images that it does not list: image_id 1" in said()
    write(dataset, images=[{"id": at, "file_name": f"../{name}"} for at, name in enumerate(ROWS)])
    assert "is outside" in said()
    write(dataset, annotations=[{"image_id": 0, "category_id": 1, "bbox": [1, 2, -3, 4]}])
    assert "not in COCO format: annotations.0.bbox.2" in said()
    write(dataset, images=[{"id": at, "file_name": name, "width": 100, "height": 120} for at, name in enumerate(ROWS)])
    assert "has 120 x 100 pixels when it is upright, but its annotations are for 100 x 120" in said()
    file.write_text('{"images": [')
    assert "is not JSON" in said()
    file.write_bytes(b"\xff\xfe")
    assert "is not JSON" in said()
    write(dataset)
    (dataset / "one.png").unlink()
    assert "lists images that are not in" in said()
    file.unlink()
    assert "has no _annotations.coco.json" in said()


def test_what_is_wrong_with_a_model_is_said_in_one_line(dataset: Path) -> None:
    def said(*options: str) -> str:
        done = evaluate(dataset, *options)
        assert (done.exit_code, done.stdout) == (1, ""), done.output
        return done.stderr

    assert "there is no model owl; name one of sem-classifier, dummy-detector" in said("--model", "owl")
    assert "no detector: its result has no detections" in said("--model", "tests.toy_files:BrightMask")
    assert "the parameters do not fit dummy-detector" in said(*LOCAL, "--params", '{"depth": 1}')
    assert "--params is not JSON" in said(*LOCAL, "--params", "{")
    assert "takes no image" in said("--model", "tests.toy_model:WordStatistics", "--params", '{"text": "a"}')
    nobody = "http://127.0.0.1:9"
    assert "Is `semapi up` running?" in said(*LOCAL, "--server", nobody, "--issuer", nobody)


def test_an_image_without_an_answer_is_in_no_figure(dataset: Path) -> None:
    (dataset / "two.png").write_bytes((dataset / "two.png").read_bytes()[:60])
    done = evaluate(dataset, *LOCAL, "--out", "report.json")
    assert done.exit_code == 1
    assert "no answer for two.png: " in done.stdout
    report = read("report.json")
    assert (report["images"], report["ground_truth"], list(report["failed"])) == (2, 1, ["two.png"])


async def test_a_broken_run_goes_on_where_it_ended(
    dataset: Path, settings: Settings, authority: DevIssuerServer
) -> None:
    answered = itertools.count()
    circle = {"bbox": [10, 10, 50, 50], "score": 0.75, "label": "coin"}

    def answer(task: Task) -> Outcome:
        if next(answered) == 2:
            return Outcome(task.job_id, failure=Failure("model-rejected", "Not this one."))
        return Outcome(task.job_id, result={"detections": [circle]})

    async with (
        running_gateway(settings, authority, cards=(DETECTOR,)) as gateway,
        listening(gateway.application) as url,
    ):
        env = {"SEMAPI_TOKEN": gateway.issuer.mint("ada"), "SEMAPI_URL": url}
        words = [*BASE, str(dataset), "--model", "detector", "--params", '{"label": "disc"}', "--folder", "made"]

        async def run(*more: str) -> Result:
            return await asyncio.to_thread(CliRunner().invoke, commands, [*words, *more], env=env)

        gateway.model.answer = answer
        done = await run()
        assert done.exit_code == 1, done.output
        lost = re.findall(r"no answer for (\S+): Not this one\.", done.stdout)
        assert (len(lost), tear(Path("made/results.jsonl"))) == (1, 2)

        gateway.model.tasks.clear()
        gateway.model.answer = lambda task: Outcome(task.job_id, result={"detections": [circle]})
        done = await run("--out", "report.json")
        assert done.exit_code == 0, done.output
        assert len(gateway.model.tasks) == len(lost)
        assert all(task.params == {"label": "disc"} for task in gateway.model.tasks)
        report = read("report.json")
        assert [row["detections"] for row in report["per_image"]] == [[circle]] * 3
        assert report["thresholds"]["0.5"]["tp"] == 2

        gateway.model.tasks.clear()
        assert "3 of 3 results are from an earlier run" in (await run()).stderr
        assert not gateway.model.tasks
        assert (await run("--fresh")).exit_code == 0
        assert len(gateway.model.tasks) == 3
        done = await run("--params", '{"label": 1}')
        assert (done.exit_code, "/params/label" in done.stderr) == (1, True)


async def test_a_service_that_fails_every_image_gives_its_reason(dataset: Path, gateway: Running) -> None:
    gateway.model.answer = failed("model-rejected", "Not this one.")
    async with listening(gateway.application) as url:
        env = {"SEMAPI_TOKEN": gateway.issuer.mint("ada")}
        words = [*BASE, str(dataset), "--model", "sem-classifier", "--server", url]
        done = await asyncio.to_thread(CliRunner().invoke, commands, words, env=env)
    assert (done.exit_code, "no image got an answer" in done.stderr) == (1, True)
    assert "Not this one." in done.stderr
