"""What every model promises, held against each of ours; and what the classifier's answers are worth."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.errors import ImageUndecodable, ModelRejected, ModelUnready
from serve_app.models.conformance import check
from serve_app.models.contract import Model
from serve_app.models.registry import load
from serve_app.models.sem_classifier import ClassifierParams, SemClassifier
from serve_app.settings import Settings
from tests.tiny_vit import LABELS, SIZE, write_snapshot

IMPLEMENTATIONS = [
    "serve_app.models.dummy_detector:DummyDetector",
    "serve_app.models.example:Example",
    "serve_app.models.sem_classifier:SemClassifier",
    "serve_app.models.circles:Circles",
    "serve_app.models.ocr:Ocr",
    "serve_app.models.layout:Layout",
    "serve_app.models.table:Table",
    "serve_app.models.document:Document",
    "tests.toy_model:WordStatistics",
    "tests.toy_files:BrightMask",
    "serve_app.models.thumbnail:ThumbnailModel",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_snapshot(root)
    return root


def settings_of(cache: Path, **more: object) -> Settings:
    return Settings(model_source="private", model_id="org/tiny", model_cache_dir=cache, inference_threads=1, **more)


@pytest.fixture(scope="module")
def classifier(cache: Path) -> SemClassifier:
    return loaded(SemClassifier(), settings_of(cache))


def loaded(model: Model, settings: Settings) -> Model:
    model.load(settings)
    return model


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(count: int) -> list[bytes]:
    source = np.random.default_rng(3)
    made = []
    for number in range(count):
        shape = (48, 64, 3) if number % 3 == 0 else (60, 80)
        low = number * 200 // count
        made.append(png(source.integers(low, low + 16 + number * 5 % 40, shape, np.uint8)))
    return made


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_model_keeps_the_contract(implementation: str, cache: Path):
    model = loaded(load(implementation)(), settings_of(cache))
    assert {promise: fault for promise, fault in check(model) if fault} == {}


def test_a_batch_scores_as_its_items_alone(classifier: SemClassifier):
    items = [classifier.preprocess(data, ClassifierParams(), classifier.recipe).item for data in pictures(16)]
    together = np.stack(classifier.forward(items))
    alone = np.concatenate([classifier.forward([item]) for item in items])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.ptp(together, axis=0).max() > 0.05, "the images must not all score the same"


def test_the_scores_are_those_of_the_library_s_own_pipeline(classifier: SemClassifier, cache: Path):
    import torch
    from transformers import AutoModelForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = next((cache / "models--org--tiny" / "snapshots").iterdir())
    processor = ViTImageProcessorPil.from_pretrained(folder)
    network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    for data in pictures(6):
        inputs = processor(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt")
        item = classifier.preprocess(data, ClassifierParams(), classifier.recipe).item
        [(_, made)] = classifier._preprocessing.batches([item])
        np.testing.assert_array_equal(made["pixel_values"], inputs["pixel_values"].numpy())
        with torch.inference_mode():
            expected = network(**inputs).logits.softmax(-1)[0].numpy()
        np.testing.assert_allclose(classifier.forward([item])[0], expected, atol=1e-6)


def test_a_result_says_what_answered_and_how_the_image_was_read(classifier: SemClassifier):
    data = png(np.full((30, 50), 77, np.uint8))
    prepared = classifier.preprocess(data, ClassifierParams(), classifier.recipe)
    result = classifier.postprocess(classifier.forward([prepared.item])[0], ClassifierParams(), prepared.notes)
    assert set(result.all_scores) == set(LABELS)
    assert sum(result.all_scores.values()) == pytest.approx(1)
    assert result.confidence == max(result.all_scores.values()) == result.all_scores[result.label]
    assert result.device_used == "cpu"
    assert result.model["id"] == "org/tiny"
    assert result.model["revision"] == "a" * 40
    assert len(result.model["sha256"]) == 64
    assert (result.model["engine"], result.model["precision"], result.model["demo"]) == ("torch", "fp32", False)
    assert (result.image["format"], result.image["width"], result.image["height"]) == ("PNG", 50, 30)
    assert result.image["resized_to"] == f"{SIZE}x{SIZE}, bilinear"


def test_scores_that_are_no_numbers_are_no_result(classifier: SemClassifier):
    with pytest.raises(ModelRejected):
        classifier.postprocess(np.array([np.nan, 0.5, 0.5]), ClassifierParams(), {})


def test_an_image_that_cannot_be_read_is_refused(classifier: SemClassifier):
    with pytest.raises(ImageUndecodable):
        classifier.preprocess(pictures(1)[0][:200], ClassifierParams(), classifier.recipe)


def test_damaged_weights_say_so(tmp_path: Path):
    weights = write_snapshot(tmp_path) / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"\x00" * 64, b"", whole[:-1], whole[: len(whole) // 2], whole[:5]):
        weights.write_bytes(damaged)
        with pytest.raises(ModelUnready, match=rf"\({len(damaged)} bytes\) cannot be loaded: it is cut off or damaged"):
            SemClassifier().load(settings_of(tmp_path))


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="the optional engine is not installed")
def test_openvino_agrees_with_torch(classifier: SemClassifier, cache: Path):
    other = loaded(SemClassifier(), settings_of(cache, engine="openvino"))
    items = [classifier.preprocess(data, ClassifierParams(), classifier.recipe).item for data in pictures(8)]
    np.testing.assert_allclose(np.stack(other.forward(items)), np.stack(classifier.forward(items)), atol=1e-4)
    described = other.describe()
    assert (described["engine"], described["precision"]) == ("openvino", "fp32")
    assert sys.modules["openvino_telemetry"] is None  # nothing is told to anybody
    assert described["agreement"]["largest_difference"] <= 1e-4
    assert described["agreement"]["images"] == 8
