"""The shipped demo model, through the code that serves it: it knows its ten classes and is unsure of the rest."""

import hashlib
import io
import json

import numpy as np
import pytest
from demo_model.pictures import HELD_OUT, HELD_OUT_SIZE, OUTSIDE, TRAINING, Conditions, held_out, training
from demo_model.scenes import LABELS, cat
from PIL import Image

from serve_app.models.sem_classifier import Classification, ClassifierParams, SemClassifier
from serve_app.models.snapshot import DEMO_FOLDER
from serve_app.settings import Settings

SAMPLES = DEMO_FOLDER.parents[1] / "samples"
HELD_OUT_COUNT = 100


@pytest.fixture(scope="module")
def model() -> SemClassifier:
    classifier = SemClassifier()
    classifier.load(Settings(model_source="demo"))
    return classifier


def classify(model: SemClassifier, data: bytes) -> Classification:
    prepared = model.preprocess(data, ClassifierParams(), model.recipe)
    [scores] = model.forward([prepared.item])
    return model.postprocess(scores, ClassifierParams(), prepared.notes)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


def test_the_weights_are_those_that_were_measured() -> None:
    digest, name = (DEMO_FOLDER / "model.safetensors.sha256").read_text().split()
    weights = (DEMO_FOLDER / name).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == digest
    assert digest in (DEMO_FOLDER.parents[2] / "docs" / "demo-model.md").read_text()
    assert len(weights) < 3_500_000


def test_it_says_that_it_is_a_demo(model: SemClassifier) -> None:
    assert model.describe()["demo"] is True
    assert json.loads((DEMO_FOLDER / "config.json").read_text())["demo"] is True
    assert "stand-in" in (DEMO_FOLDER / "README.md").read_text()


def test_its_classes_are_those_of_the_real_model_in_order(model: SemClassifier) -> None:
    assert model.labels == LABELS
    assert LABELS == (
        "Porous_Sponge",
        "Patterned_surface",
        "Particles",
        "Films_Coated_Surface",
        "Powder",
        "Tips",
        "Nanowires",
        "Biological",
        "MEMS_devices_and_electrodes",
        "Fibres",
    )


@pytest.mark.parametrize("held", [HELD_OUT, OUTSIDE], ids=["held-out", "outside"])
@pytest.mark.parametrize("condition", list(Conditions.__dataclass_fields__))
def test_measured_conditions_share_nothing_with_those_of_training(condition: str, held: Conditions) -> None:
    for low, high in getattr(held, condition):
        for trained_low, trained_high in getattr(TRAINING, condition):
            assert high <= trained_low or low >= trained_high


def test_a_picture_depends_on_its_number_alone() -> None:
    assert all(training(number)[0].tobytes() == training(number)[0].tobytes() for number in range(len(LABELS) + 1))


@pytest.mark.fault(reason="the demo model classifies every held-out picture")
def test_held_out_pictures_get_the_right_label(model: SemClassifier) -> None:
    right = 0
    for number in range(HELD_OUT_COUNT):
        image, label = held_out(number)
        assert image.size == HELD_OUT_SIZE
        right += classify(model, encoded(image)).label == LABELS[label]
    assert right >= 0.97 * HELD_OUT_COUNT


@pytest.mark.parametrize("label", LABELS)
def test_samples_are_small_and_recognised(model: SemClassifier, label: str) -> None:
    data = (SAMPLES / f"{label.lower()}.jpg").read_bytes()
    assert len(data) <= 60_000
    assert classify(model, data).label == label


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(cat(), id="cat"),
        pytest.param(
            Image.fromarray(np.random.default_rng(4).integers(0, 256, (768, 1024), dtype=np.uint8)), id="noise"
        ),
        pytest.param(Image.new("L", (1024, 768), 0), id="black"),
        pytest.param(Image.new("L", (1024, 768), 128), id="grey"),
        pytest.param(Image.new("L", (1024, 768), 255), id="white"),
    ],
)
def test_what_it_cannot_know_gets_no_high_score(model: SemClassifier, image: Image.Image) -> None:
    assert classify(model, encoded(image)).confidence < 0.5
