"""Checkpoints of AutoModelForImageClassification: the service's way, decode worker and engine, against the library's
own pipeline on the same picture. Random weights, made here; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from serve_app.cli.main import commands
from serve_app.errors import ModelRejected, ModelUnready
from serve_app.models import sem_classifier
from serve_app.models.pool import DecodePool
from serve_app.models.preprocessing import Fast, Own
from serve_app.models.registry import ModelConfig, card, make, refusal
from serve_app.models.sem_classifier import Classification, ClassifierParams, SemClassifier
from serve_app.settings import Settings
from tests.checkpoints import (
    FAMILIES,
    IMAGENET,
    LABELS,
    SQUARE,
    libraries,
    resnet,
    save,
    save_timm,
    save_timm_wrapper,
    vit,
)

VIT = {"image_processor_type": "ViTImageProcessor", "size": SQUARE}
MULTI = {"problem_type": "multi_label_classification"}
MISSING = [name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None]
needs_timm = pytest.mark.skipif(
    bool(MISSING),
    reason=f"{' and '.join(MISSING)} not installed: the CPU build of torch comes without (swap-the-model.md)",
)


def settings_of(root: Path, **more: Any) -> Settings:
    return Settings(model_source="private", model_id="org/tiny", model_cache_dir=root, inference_threads=1, **more)


def load(root: Path, **more: Any) -> SemClassifier:
    model = SemClassifier()
    model.load(settings_of(root, **more))
    return model


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures() -> list[bytes]:
    """Smooth and noisy, grey and in colour, lying and upright."""
    source = np.random.default_rng(5)
    slope = np.linspace(0, 255, 90).astype(np.uint8)
    noise = [
        source.integers(low, high, shape, np.uint8) for low, high, shape in ((0, 256, (70, 50)), (90, 140, (48, 64, 3)))
    ]
    return [png(np.tile(slope, (60, 1))), *(png(one) for one in noise)]


def reference(folder: Path, data: bytes, **options: str) -> dict[str, float]:
    """The scores of transformers' own pipeline for the picture."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    network = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    own = pipeline("image-classification", model=network, image_processor=processor, device="cpu")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return {one["label"]: one["score"] for one in own(image, top_k=99, **options)}


async def classify(model: SemClassifier, data: list[bytes]) -> list[Classification]:
    """As a replica does: images are prepared in a decode worker below its memory limit, then go in one batch."""
    settings = model.recipe.settings.model_copy(update={"decode_memory_mib": 256, "decode_workers": 1})
    pool = DecodePool(settings, SemClassifier.__module__, partial(model.prepare_worker, model.recipe))
    try:
        await pool.start()
        prepared = [await pool.run(model.preprocess, one, ClassifierParams(), model.recipe) for one in data]
    finally:
        await pool.close()
    outputs = model.forward([one.item for one in prepared])
    return [model.postprocess(row, ClassifierParams(), one.notes) for row, one in zip(outputs, prepared, strict=True)]


async def agrees(root: Path, folder: Path, way: type, **more: Any) -> list[Classification]:
    model = load(root, **more)
    assert type(model._preprocessing) is way
    results = await classify(model, pictures())
    for data, result in zip(pictures(), results, strict=True):
        expected = reference(folder, data)
        assert result.all_scores == pytest.approx(expected, abs=1e-6 if not more else 1e-4)
        assert result.label == max(expected, key=expected.__getitem__)
    spread = np.ptp([list(result.all_scores.values()) for result in results], axis=0).max()
    assert spread > 1e-3, "the pictures must not all score the same"
    return results


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow(reason="transformers builds a model twice")
async def test_a_family_scores_as_the_library_s_own_pipeline(tmp_path: Path, family: str):
    network, processor, way = FAMILIES[family]
    folder = save(tmp_path, network(), processor)
    await agrees(tmp_path, folder, {"fast": Fast, "own": Own}[way])


@needs_timm
@pytest.mark.slow(reason="timm is loaded")
async def test_a_checkpoint_of_timm_scores_as_the_library_s_own_pipeline(tmp_path: Path):
    await agrees(tmp_path, save_timm(tmp_path), Own)


SCALES = ("10 um", "100 nm", "1 mm")


async def beside_the_first(tmp_path: Path, second: Path) -> None:
    """Two blocks of one class answer each by its own checkpoint: the first by MODEL_*, the second by its settings."""
    first = save(tmp_path / "first", vit(), VIT)
    own = {"model_source": "private", "model_id": "org/scale", "model_cache_dir": str(second.parents[2])}
    implementation = "serve_app.models.sem_classifier:SemClassifier"
    blocks = [
        ModelConfig(name="sem-classifier", implementation=implementation),
        ModelConfig(name="vit-sem-scale-classifier", implementation=implementation, min_replicas=0, settings=own),
    ]
    assert [refusal(card(block), settings_of(tmp_path / "first")) for block in blocks] == [None, None]
    for block, folder, labels in zip(blocks, (first, second), (LABELS, SCALES), strict=True):
        model = make(block)
        assert isinstance(model, SemClassifier)
        model.load(settings_of(tmp_path / "first"))
        assert model.labels == labels
        for data, result in zip(pictures(), await classify(model, pictures()), strict=True):
            assert result.all_scores == pytest.approx(reference(folder, data), abs=1e-6)
            assert result.model["id"] == ("org/tiny" if folder == first else "org/scale")


@pytest.mark.slow(reason="transformers builds two models")
async def test_two_checkpoints_are_served_side_by_side(tmp_path: Path):
    named = {"id2label": dict(enumerate(SCALES)), "label2id": {label: at for at, label in enumerate(SCALES)}}
    network = vit(patch_size=16, **named)
    await beside_the_first(tmp_path, save(tmp_path / "second", network, VIT | IMAGENET | {"resample": 3}, "org/scale"))


@needs_timm
@pytest.mark.slow(reason="timm is loaded")
async def test_a_wrapped_checkpoint_of_timm_is_served_beside_another(tmp_path: Path):
    await beside_the_first(tmp_path, save_timm_wrapper(tmp_path / "second", "org/scale", SCALES))


async def test_a_model_of_one_channel_scores_as_the_library_does(tmp_path: Path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = save(tmp_path, resnet(num_channels=1), VIT | {"image_mean": [0.4], "image_std": [0.2]})
    model = load(tmp_path)
    results = await classify(model, pictures())
    network = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for data, result in zip(pictures(), results, strict=True):  # the library's pipeline knows colour alone
        inputs = processor(Image.open(io.BytesIO(data)).convert("L"), return_tensors="pt")
        expected = network(**inputs).logits.softmax(-1)[0].tolist()
        assert list(result.all_scores.values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow(reason="transformers builds a model")
async def test_images_in_their_own_sizes_share_a_replica(tmp_path: Path):
    folder = save(tmp_path, resnet(), VIT | IMAGENET | {"do_resize": False})
    await agrees(tmp_path, folder, Own)


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="the optional engine is not installed")
@pytest.mark.parametrize("family", ["DeiT", "ConvNeXT", "ResNet that reads BGR"])
async def test_a_family_scores_alike_in_openvino(tmp_path: Path, family: str):
    network, processor, way = FAMILIES[family]
    folder = save(tmp_path, network(), processor)
    await agrees(tmp_path, folder, {"fast": Fast, "own": Own}[way], engine="openvino")


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="the optional engine is not installed")
def test_openvino_refuses_inputs_of_many_shapes(tmp_path: Path):
    save(tmp_path, resnet(), VIT | {"do_resize": False})
    with pytest.raises(ModelUnready, match="one shape"):
        load(tmp_path, engine="openvino")


@pytest.mark.skipif(not MISSING, reason="timm and torchvision are installed")
def test_a_checkpoint_of_timm_names_the_packages_it_needs(tmp_path: Path):
    folder = save(tmp_path, vit(), {})
    (folder / "preprocessor_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    with pytest.raises(ModelUnready, match=r"of timm and needs .*pip install 'sem-image-classifier\[timm\]'"):
        load(tmp_path)


async def test_independent_labels_are_scored_each_by_itself(tmp_path: Path):
    folder = save(tmp_path, vit(**MULTI), VIT)
    model = load(tmp_path)
    [data, *_] = pictures()
    [result] = await classify(model, [data])
    assert result.all_scores == pytest.approx(reference(folder, data), abs=1e-6)
    assert result.all_scores == pytest.approx(reference(folder, data, function_to_apply="sigmoid"), abs=1e-6)
    assert result.labels == tuple(
        sorted(
            (label for label in LABELS if result.all_scores[label] >= 0.5), key=lambda label: -result.all_scores[label]
        )
    )
    assert Classification.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(
    ("threshold", "labels"), [(None, ("b", "c")), (0.5, ("b", "c")), (0.6, ("b",)), (0.0, ("b", "c", "a")), (1.0, ())]
)
def test_the_threshold_says_which_labels_are_named(threshold: float | None, labels: tuple[str, ...]):
    model = SemClassifier()
    model.labels, model._scores_listed, model._description = ("a", "b", "c"), 3, {}
    model._engine = type("Engine", (), {"device": "cpu"})()
    model.recipe = sem_classifier.Recipe(sem_classifier.Geometry(4), True, Settings())
    result = model.postprocess(np.array([0.1, 0.9, 0.5]), ClassifierParams(threshold=threshold), {})
    assert (result.label, result.confidence, result.labels) == ("b", 0.9, labels)


def test_a_model_of_one_label_refuses_a_threshold_and_names_no_labels(tmp_path: Path):
    save(tmp_path, vit(), VIT)
    model = load(tmp_path)
    [data, *_] = pictures()
    with pytest.raises(ModelRejected, match="threshold"):
        model.preprocess(data, ClassifierParams(threshold=0.5), model.recipe)
    prepared = model.preprocess(data, ClassifierParams(), model.recipe)
    result = model.postprocess(model.forward([prepared.item])[0], ClassifierParams(), prepared.notes)
    assert set(result.model_dump()) == {"label", "confidence", "all_scores", "device_used", "model", "image"}
    assert sum(result.all_scores.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"problem_type": "regression"}, "regression"),
        ({"id2label": {0: "only"}, "label2id": {"only": 0}}, "softmax of one is always 1"),
        ({"num_channels": 4}, "4 channels"),
    ],
)
def test_a_head_that_names_no_class_is_refused(tmp_path: Path, change: dict[str, Any], reason: str):
    save(tmp_path, vit(**change), VIT)
    with pytest.raises(ModelUnready, match=reason):
        load(tmp_path)


async def test_one_independent_label_is_an_answer(tmp_path: Path):
    folder = save(tmp_path, vit(id2label={0: "crack"}, label2id={"crack": 0}, **MULTI), VIT)
    [data, *_] = pictures()
    [result] = await classify(load(tmp_path), [data])
    assert result.all_scores == pytest.approx(reference(folder, data), abs=1e-6)


def test_weights_without_a_head_are_refused_and_not_filled_with_random_numbers(tmp_path: Path):
    folder = save(tmp_path, vit(), VIT)
    vit().vit.save_pretrained(folder)
    with pytest.raises(ModelUnready, match=r"lack classifier\.bias, classifier\.weight: .*no trained head"):
        load(tmp_path)


def test_a_processor_that_does_not_fit_its_network_is_refused_at_load(tmp_path: Path):
    save(tmp_path, vit(), VIT | {"size": {"height": 40, "width": 40}})
    with pytest.raises(ModelUnready, match="does not take what its image processor makes"):
        load(tmp_path)


def test_labels_of_one_name_are_told_apart(tmp_path: Path):
    save(tmp_path, vit(id2label={0: "crane", 1: "tip", 2: "crane"}, label2id={"crane": 2, "tip": 1}), VIT)
    assert load(tmp_path).labels == ("crane [0]", "tip", "crane [2]")


def test_more_classes_than_a_result_holds_are_listed_from_the_best(tmp_path: Path):
    count = 5000
    named = {number: f"a class of some length, number {number}" for number in range(count)}
    save(tmp_path, vit(id2label=named, label2id={label: number for number, label in named.items()}), VIT)
    model = load(tmp_path)
    [data, *_] = pictures()
    prepared = model.preprocess(data, ClassifierParams(), model.recipe)
    [row] = model.forward([prepared.item])
    result = model.postprocess(row, ClassifierParams(), prepared.notes)
    assert 700 < len(result.all_scores) < count
    assert len(result.model_dump_json()) < 64 * 1024
    assert min(result.all_scores.values()) >= np.sort(row)[-len(result.all_scores)]
    assert result.label == max(result.all_scores, key=result.all_scores.__getitem__) == named[int(row.argmax())]


def test_predict_names_the_labels_from_the_threshold_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "models", vit(**MULTI), VIT)
    for name, value in {"SOURCE": "private", "ID": "org/tiny", "CACHE_DIR": str(tmp_path / "models")}.items():
        monkeypatch.setenv(f"MODEL_{name}", value)
    file = tmp_path / "slope.png"
    file.write_bytes(pictures()[0])

    def predict(params: str) -> str:
        done = CliRunner().invoke(commands, ["predict", str(file), "--params", params])
        assert done.exit_code == 0, done.output
        return done.output

    assert "slope.png shows none of the labels" in predict('{"threshold": 1}')
    everything = predict('{"threshold": 0}').split("shows ")[1].split("\n")[0]
    assert sorted(everything.split(", ")) == sorted(LABELS)


@pytest.mark.slow(reason="a decode worker imports torchvision")
async def test_a_decode_worker_loads_libraries_only_for_a_processor_that_needs_them(tmp_path: Path):
    seen = {}
    for family in ("ViT", "ResNet that reads BGR"):
        network, processor, way = FAMILIES[family]
        save(tmp_path / way, network(), processor)
        model = load(tmp_path / way)
        pool = DecodePool(Settings(), SemClassifier.__module__, partial(model.prepare_worker, model.recipe))
        try:
            await pool.start()
            seen[way] = await pool.run(libraries)
        finally:
            await pool.close()
    assert seen == {"fast": {"torch": False, "transformers": False}, "own": {"torch": False, "transformers": True}}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """transformers and its pipeline warn of what is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
