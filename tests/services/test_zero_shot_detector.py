"""The zero-shot detector against transformers' own pipeline on the same small checkpoint. Random weights, made here;
nothing is downloaded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_parts import IMAGE_MODEL, PICTURE, running_gateway
from PIL import Image
from pydantic import ValidationError

from serve_app.errors import ModelRejected, ModelUnready
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.conformance import check
from serve_app.models.detection import Detections
from serve_app.models.registry import ModelConfig, card, make, refusal
from serve_app.models.zero_shot_detector import REVISION, DetectorOptions, ZeroShotDetector, ZeroShotParams
from serve_app.settings import Settings
from tests.pictures import encode
from tests.tiny_detectors import FAMILIES, save

IMPLEMENTATION = "serve_app.models.zero_shot_detector:ZeroShotDetector"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """transformers and its pipeline warn of what is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def block(root: Path, **more: Any) -> ModelConfig:
    settings = {"model_source": "private", "model_id": "org/tiny", "model_cache_dir": str(root), **more}
    return ModelConfig(name="owl", implementation=IMPLEMENTATION, min_replicas=0, settings=settings)


def load(root: Path) -> ZeroShotDetector:
    model = make(block(root))
    model.load(Settings(inference_threads=1))
    assert isinstance(model, ZeroShotDetector)
    return model


def pictures() -> list[bytes]:
    source = np.random.default_rng(5)
    shapes = ((90, 120, 3), (150, 80), (90, 120), (64, 64, 3))
    return [encode(source.integers(0, 256, shape, np.uint8), "PNG") for shape in shapes]


def detect(model: ZeroShotDetector, asked: list[tuple[bytes, ZeroShotParams]]) -> list[Detections]:
    """All in one batch."""
    prepared = [model.preprocess(data, params, model.recipe) for data, params in asked]
    outputs = model.forward([one.item for one in prepared])
    return [
        model.postprocess(output, params, one.notes)
        for output, one, (_, params) in zip(outputs, prepared, asked, strict=True)
    ]


def rows(result: Detections) -> list[tuple[str, tuple[float, ...], float]]:
    return [(one.label, one.bbox, one.score) for one in result.detections]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow(reason="transformers builds a model twice")
def test_objects_are_those_of_the_library_s_own_pipeline(family: str, tmp_path: Path) -> None:
    from transformers import (
        AutoImageProcessor,
        AutoModelForZeroShotObjectDetection,
        AutoTokenizer,
        pipeline,
    )

    folder = save(tmp_path, family)
    model = load(tmp_path)
    own = pipeline(
        "zero-shot-object-detection",
        model=AutoModelForZeroShotObjectDetection.from_pretrained(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    # One batch of different images, labels and thresholds, as jobs of different users come together.
    choices = [
        ZeroShotParams(),
        ZeroShotParams(labels=("coin", "button"), threshold=0.3),
        ZeroShotParams(label="gold ring 7", threshold=0.0),
        ZeroShotParams(labels=("ring", "a", "coin")),
    ]
    asked = list(zip(pictures(), choices, strict=True))
    count = 0
    for (data, params), result in zip(asked, detect(model, asked), strict=True):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        answer = own(image, candidate_labels=list(params.wanted), threshold=params.threshold)
        expected = [
            (one["label"], tuple(one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")), one["score"])
            for one in answer
        ]
        # Of equal boxes of one label, only the best: the first.
        expected = [
            one
            for place, one in enumerate(expected)
            if one[1][0] < one[1][2]
            and one[1][1] < one[1][3]
            and one[:2] not in [other[:2] for other in expected[:place]]
        ]
        found = rows(result)
        assert len(found) == len(expected) == len({one.object_id for one in result.detections})
        assert sorted(one[:2] for one in found) == sorted(one[:2] for one in expected)
        assert [one[2] for one in found] == pytest.approx([one[2] for one in expected], abs=1e-4)
        assert (result.count, result.model["id"], result.image["format"]) == (len(found), "org/tiny", "PNG")
        count += len(found)
    assert count > 20


def test_the_default_checkpoint_is_pinned_and_refused_with_the_command_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    command = f"Get it with: hf download google/owlvit-base-patch32 --revision {REVISION}"
    reason = refusal(card(ModelConfig(name="owl", implementation=IMPLEMENTATION, min_replicas=0)), Settings())
    assert reason is not None
    assert reason.endswith(command)
    with pytest.raises(ModelUnready) as refused:
        ZeroShotDetector().load(Settings())
    assert refused.value.detail == reason
    # The process-wide MODEL_* are those of the classifier.
    private = Settings(model_source="private", model_id="org/tiny", model_cache_dir=tmp_path)
    assert DetectorOptions().over(private).model_id == "google/owlvit-base-patch32"


async def test_a_submit_without_the_checkpoint_gets_the_command(
    tmp_path: Path, settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    owl = card(ModelConfig(name="owl", implementation=IMPLEMENTATION, min_replicas=0))
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL, owl)) as gateway:
        before = await gateway.keys()
        answer = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}, data={"model": "owl"})
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/model-refused")
        assert answer.json()["detail"].endswith(f"hf download google/owlvit-base-patch32 --revision {REVISION}")
        assert await gateway.keys() == before
        assert await gateway.submit(model=IMAGE_MODEL.name)


def test_a_checkpoint_that_lacks_a_part_says_which(tmp_path: Path) -> None:
    folder = save(tmp_path, "OWL-ViT")
    assert refusal(card(block(tmp_path)), Settings()) is None
    (folder / "merges.txt").unlink()
    reason = refusal(card(block(tmp_path)), Settings())
    assert reason is not None
    assert "lacks tokenizer.json" in reason
    assert reason.endswith(f"hf download org/tiny --cache-dir {tmp_path}")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    reason = refusal(card(block(tmp_path)), Settings())
    assert reason is not None
    assert "pickled weights such as pytorch_model.bin are refused" in reason


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    save(tmp_path, "OWLv2")
    model = load(tmp_path)
    inputs = [(data, ZeroShotParams(labels=("coin", "ring"), threshold=0.4)) for data in pictures()]
    assert {promise: fault for promise, fault in check(model, inputs) if fault} == {}


def test_a_label_that_the_network_cannot_take_fails_its_job_alone(tmp_path: Path) -> None:
    save(tmp_path, "OWL-ViT")
    model = load(tmp_path)
    data = pictures()[0]
    asked = [ZeroShotParams(label="x" * 40), ZeroShotParams(threshold=0.0)]
    prepared = [model.preprocess(data, params, model.recipe) for params in asked]
    outputs = model.forward([one.item for one in prepared])
    with pytest.raises(ModelRejected, match="is too long: it has 42 tokens, and this model takes 16"):
        model.postprocess(outputs[0], asked[0], prepared[0].notes)
    assert model.postprocess(outputs[1], asked[1], prepared[1].notes).count > 0


def test_a_result_has_room_for_its_objects(tmp_path: Path) -> None:
    save(tmp_path, "OWL-ViT")
    model = load(tmp_path)
    labels = tuple(f"{'x' * 3}{letter}" for letter in "abcdefghijklmnopqrst")
    [result] = detect(model, [(pictures()[0], ZeroShotParams(labels=labels, threshold=0.0))])
    assert result.count > 200
    assert len(result.model_dump_json()) < 64_000
    scores = [one.score for one in result.detections]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "params",
    [
        {"label": ""},
        {"label": "x" * 101},
        {"label": None, "labels": []},
        {"labels": ["coin", ""]},
        {"labels": ["coin"] * 21},
        {"labels": "coin"},
        {"label": "coin", "labels": ["ring"]},
        {"label": 1},
        {"threshold": -0.1},
        {"threshold": 1.1},
        {"threshold": "nan"},
        {"page": 0},
        {"top_k": 3},
    ],
)
def test_parameters_that_mean_nothing_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ZeroShotParams.model_validate(params)


def test_settings_of_the_block_are_a_checkpoint_and_nothing_else() -> None:
    for wrong in ({"engine": "openvino"}, {"model_id": "org/tiny"}, {"threshold": 0.2}):
        with pytest.raises(ValidationError):
            DetectorOptions.model_validate(wrong)
