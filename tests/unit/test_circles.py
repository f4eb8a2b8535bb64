"""The model `circles` on generated scenes: what it finds, what its parameters do, and that odd pictures do no harm."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from circles.scenes import Scene, coins, spheres
from PIL import Image
from pydantic import ValidationError

from serve_app.models.circle_search import chosen, overlaps, without_bar
from serve_app.models.circles import Circles
from serve_app.models.contract import Answer
from serve_app.models.detection import Detections, how_many_fit
from serve_app.settings import Settings
from tests.pictures import encode, encode_tiff


@pytest.fixture(scope="module")
def model() -> Circles:
    model = Circles()
    model.load(Settings(inference_threads=1))
    return model


def result(model: Circles, data: bytes, **params: Any) -> Detections:
    answer = whole(model, data, **params)
    assert isinstance(answer, Detections)
    return answer


def whole(model: Circles, data: bytes, **params: Any) -> Detections | Answer:
    chosen_params = model.Params(**params)
    prepared = model.preprocess(data, chosen_params, model.recipe)
    return model.postprocess(model.forward([prepared.item])[0], chosen_params, prepared.notes)


def png(scene: Scene) -> bytes:
    return encode(scene.pixels, "PNG")


def matched(found: Detections, truth: Any, least: float = 0.5) -> int:
    """How many true boxes have an object of their own."""
    if not found.count or not len(truth):
        return 0
    boxes = np.array([entry.bbox for entry in found.detections])
    union = overlaps(np.concatenate([truth, boxes]))[0][: len(truth), len(truth) :]
    return int(((union >= least).sum(axis=1) >= 1).sum())


def totals(model: Circles, scenes: list[Scene], **params: Any) -> tuple[float, float]:
    """Precision and recall."""
    found = [result(model, png(scene), **params) for scene in scenes]
    right = sum(matched(one, scene.boxes) for one, scene in zip(found, scenes, strict=True))
    return right / max(1, sum(one.count for one in found)), right / sum(len(scene.boxes) for scene in scenes)


def test_coins_are_found(model: Circles):
    precision, recall = totals(model, [coins(seed, overlap=0) for seed in range(900, 906)])
    assert precision >= 0.8
    assert recall >= 0.9


def test_spheres_in_micrographs_are_found_and_the_data_bar_is_not_searched(model: Circles):
    scenes = [spheres(seed, noise=6, bar=True) for seed in range(900, 903)]
    precision, recall = totals(model, scenes)
    assert precision >= 0.95
    assert recall >= 0.95
    for scene in scenes:
        found = result(model, png(scene), sensitivity=1)
        assert found.image["data_bar"] == "rows from 384 are a data bar and were not searched"
        assert all(entry.bbox[3] <= 384 for entry in found.detections)
    assert len(without_bar(spheres(900, bar=False).pixels)) == 384


def disc(**more: Any) -> Image.Image:
    """One bright disc of radius 60 at (200, 120)."""
    pixels = np.full((300, 400, 3), (40, 60, 40), np.uint8)
    down, across = np.mgrid[:300, :400] + 0.5
    for x, y, radius in [(200, 120, 60), *more.get("others", [])]:
        pixels[np.hypot(across - x, down - y) < radius] = (210, 190, 120)
    return Image.fromarray(pixels)


def test_an_object_has_its_place_in_pixels_of_the_image_whatever_the_size(model: Circles):
    for scale in (0.5, 1, 6):
        image = disc().resize((round(400 * scale), round(300 * scale)))
        found = result(model, encode(image, "PNG"))
        assert found.count == 1
        [entry] = found.detections
        assert np.allclose(entry.bbox, np.array([140, 60, 260, 180]) * scale, atol=2.5 * max(scale, 1))
        assert (entry.centroid.x, entry.centroid.y) == pytest.approx((200 * scale, 120 * scale), abs=2 * max(scale, 1))
        assert entry.radius == pytest.approx(60 * scale, abs=1.5 * max(scale, 1))
        assert entry.label == "coin"
        assert entry.score >= 0.5
        assert (found.image["width"], found.image["height"]) == image.size


def test_an_image_is_upright_before_it_is_searched(model: Circles):
    image = disc()
    exif = image.getexif()
    exif[274] = 6  # the viewer turns it by a quarter, clockwise
    [entry] = result(model, encode(image, "PNG", exif=exif)).detections
    assert (entry.centroid.x, entry.centroid.y) == pytest.approx((300 - 120, 200), abs=2)


def test_parameters_choose_by_size_count_and_score(model: Circles):
    data = encode(disc(others=[(60, 220, 30), (330, 230, 45)]), "PNG")
    assert [round(entry.radius / 5) * 5 for entry in result(model, data, min_radius=52).detections] == [60]
    assert [round(entry.radius / 5) * 5 for entry in result(model, data, max_radius=38).detections] == [30]
    assert sorted(round(entry.radius / 5) * 5 for entry in result(model, data).detections) == [30, 45, 60]
    most = result(model, data, sensitivity=1).detections
    assert [entry.score for entry in most] == sorted((entry.score for entry in most), reverse=True)
    assert result(model, data, sensitivity=1, max_count=1).detections == most[:1]


def test_a_higher_sensitivity_finds_the_same_objects_and_more(model: Circles):
    for scene in (coins(903), spheres(3)):
        before: set[Any] = set()
        for sensitivity in (0.2, 0.5, 1):
            found = {entry.object_id for entry in result(model, png(scene), sensitivity=sensitivity).detections}
            assert before <= found
            before = found
    assert before


def test_ids_are_those_of_the_object_in_this_image(model: Circles):
    data = png(coins(904, count=4))
    ids = [entry.object_id for entry in result(model, data).detections]
    assert ids
    assert len(set(ids)) == len(ids)
    assert all(one.version == 5 for one in ids)
    again = Circles()
    again.load(Settings(inference_threads=2))
    assert result(again, data) == result(model, data)
    assert not {entry.object_id for entry in result(model, data, label="disc").detections} & set(ids)


def test_the_label_is_carried_through_and_the_result_always_fits(model: Circles):
    assert {entry.label for entry in result(model, encode(disc(), "PNG"), label="Münze").detections} == {"Münze"}
    assert how_many_fit("coin") == 250
    assert how_many_fit("\N{COIN}" * 100) == 42


def test_the_annotated_image_shows_the_objects(model: Circles):
    answer = whole(model, encode(disc().resize((2400, 1800)), "PNG"), annotated=True)
    assert isinstance(answer, Answer)
    image = Image.open(io.BytesIO(answer.outputs["annotated.png"].data))
    assert (image.format, image.size) == ("PNG", (1600, 1200))
    assert sum(count for count, colour in image.getcolors(1 << 24) if colour == (220, 30, 30)) > 2000
    assert answer.result.detections == result(model, encode(disc().resize((2400, 1800)), "PNG")).detections


def flat(height: int, width: int, level: int = 90) -> np.ndarray:
    return np.full((height, width), level, np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [flat(300, 400), flat(1, 1), flat(2, 3), flat(1, 5000), flat(5000, 1), flat(40, 4000), flat(3, 3, 255)],
    ids=lambda pixels: f"{pixels.shape[1]}x{pixels.shape[0]}",
)
def test_a_blank_image_has_no_objects(model: Circles, pixels: np.ndarray):
    assert result(model, encode(pixels, "PNG"), sensitivity=1).count == 0


def test_noise_stripes_and_squares_have_no_objects(model: Circles):
    random = np.random.default_rng(1)
    down, across = np.mgrid[:400, :512]
    for pixels in (
        random.integers(0, 256, (400, 512), np.uint8),
        random.integers(0, 256, (3, 4000, 3), np.uint8),
        (np.sin(across / 3) * 100 + 120).astype(np.uint8),
        ((down // 50 + across // 50) % 2 * 200).astype(np.uint8),
    ):
        assert result(model, encode(pixels, "PNG"), annotated=False).count <= 1


def test_deep_images_are_read_as_by_every_model(model: Circles):
    grey = np.asarray(disc().convert("L")).astype(np.uint16) * 17 + 3000
    found = result(model, encode_tiff(grey))
    assert found.count == 1
    assert found.image["read_as"].startswith("16-bit greyscale")


@pytest.mark.parametrize(
    "params",
    [
        {"label": ""}, {"label": "x" * 101}, {"min_radius": -1}, {"max_radius": 0}, {"max_radius": "nan"},
        {"sensitivity": 1.1}, {"sensitivity": -0.1}, {"max_count": 0}, {"max_count": 251}, {"page": 0},
        {"annotated": "maybe"}, {"radius": 3}, {"min_radius": 10, "max_radius": 5},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(model: Circles, params: dict[str, Any]):
    with pytest.raises(ValidationError):
        model.Params(**params)


def test_of_overlapping_boxes_the_better_one_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [22, 22, 26, 26]], float)
    assert chosen(boxes, np.array([0.5, 0.9, 0.4, 0.3])) == [1, 2]
