"""The fast way gives the output of the checkpoint's own processor bit for bit, or is not taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.errors import ModelRejected, ModelUnready
from serve_app.models import preprocessing
from serve_app.models.preprocessing import Fast, Own, OwnProcessor, choose

VIT: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
}
DEFAULTS = {"image_processor_type": "DeiTImageProcessor"}
OLD = {name: value for name, value in VIT.items() if name != "image_processor_type"}
OLD |= {"feature_extractor_type": "ViTFeatureExtractor"}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor"}
CROP = {"do_center_crop": True, "crop_size": {"height": 30, "width": 27}}


def made_of(folder: Path, config: dict[str, Any], channels: int = 3, **files: Any) -> preprocessing.Preprocessing:
    """What `choose` makes of this preprocessor_config.json in the folder of a ViT."""
    content = {"config.json": {"model_type": "vit"}, "preprocessor_config.json": config, **files}
    for name, values in content.items():
        (folder / name).write_text(json.dumps(values))
    return choose(folder, channels)


def inputs_of(way: preprocessing.Preprocessing, pixels: list[np.ndarray]) -> np.ndarray:
    [(places, inputs)] = way.batches([way.preparation.item(one) for one in pixels])
    assert places == list(range(len(pixels)))
    return inputs["pixel_values"]


def test_grey_and_colour_share_a_batch(tmp_path: Path):
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    colour = np.stack([grey, 255 - grey, np.zeros_like(grey)], axis=2)
    batch = inputs_of(made_of(tmp_path, VIT | {"size": {"height": 4, "width": 4}}), [grey, colour])
    assert batch.shape == (2, 3, 4, 4)
    assert batch.dtype == np.float32
    expected = grey / 255 * 2 - 1
    for channel in range(3):
        np.testing.assert_allclose(batch[0, channel], expected, atol=1e-6)
    np.testing.assert_allclose(batch[1, 1], -expected, atol=1e-6)
    np.testing.assert_array_equal(batch[1, 2], -1)


def test_each_channel_has_its_own_mean_and_deviation(tmp_path: Path):
    config = VIT | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    batch = inputs_of(made_of(tmp_path, config), [np.full((4, 4), 255, np.uint8)])
    np.testing.assert_allclose(batch[0, :, 0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], 1e-6)


def test_steps_switched_off_are_not_done(tmp_path: Path):
    batch = inputs_of(
        made_of(tmp_path, VIT | {"do_normalize": False, "do_rescale": False}), [np.full((4, 4), 200, np.uint8)]
    )
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, 200)


@pytest.mark.parametrize(
    ("config", "way", "done"),
    [
        (VIT, Fast, "32x32, bilinear"),
        (VIT | {"size": 32}, Fast, "32x32, bilinear"),
        (VIT | {"size": {"height": 24, "width": 40}}, Fast, "40x24, bilinear"),
        (VIT | {"resample": 3}, Fast, "32x32, bicubic"),
        (VIT | {"resample": 1}, Fast, "32x32, lanczos"),
        (VIT | {"resample": 0}, Fast, "32x32, nearest"),
        (VIT | CROP, Fast, "32x32, bilinear, centre 27x30"),
        (VIT | CROP | {"size": {"shortest_edge": 35}}, Fast, "shortest edge 35, bilinear, centre 27x30"),
        (VIT | {"image_mean": 0.4, "image_std": 0.3}, Fast, "32x32, bilinear"),
        (VIT | {"do_rescale": False}, Fast, "32x32, bilinear"),
        (VIT | {"do_normalize": False}, Fast, "32x32, bilinear"),
        (VIT | {"rescale_factor": 1 / 127.5}, Fast, "32x32, bilinear"),
        (VIT | {"image_processor_type": "ViTImageProcessorFast"}, Fast, "32x32, bilinear"),
        (OLD, Fast, "32x32, bilinear"),
        ({"size": 32}, Fast, "32x32, bilinear"),
        (DEFAULTS, Fast, "256x256, bicubic, centre 224x224"),
        ({"image_processor_type": "CLIPImageProcessor"}, Fast, "shortest edge 224, bicubic, centre 224x224"),
        (CONVNEXT | {"size": {"shortest_edge": 64}}, Fast, "shortest edge 73, bicubic, centre 64x64"),
        (CONVNEXT | {"size": {"shortest_edge": 384}}, Fast, "384x384, bicubic"),
        ({"image_processor_type": "BeitImageProcessor"}, Fast, "224x224, bicubic"),
        # What is more than resize, crop and arithmetic per level is left to the processor itself.
        (VIT | CROP | {"size": {"height": 20, "width": 20}}, Own, "ViTImageProcessorPil"),
        (VIT | {"do_pad": True, "pad_size": {"height": 40, "width": 40}}, Own, "ViTImageProcessorPil"),
        (VIT | {"resample": "bicubic"}, Own, "ViTImageProcessorPil"),
        (VIT | {"do_resize": False}, Own, "ViTImageProcessorPil"),
        (VIT | {"size": {"shortest_edge": 32}}, Own, "ViTImageProcessorPil"),
        (VIT | {"size": {"shortest_edge": 32, "longest_edge": 40}}, Own, "ViTImageProcessorPil"),
        ({"image_processor_type": "MobileViTImageProcessor"}, Own, "MobileViTImageProcessorPil"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, Own, "EfficientNetImageProcessorPil"),
        ({"image_processor_type": "LevitImageProcessor"}, Own, "LevitImageProcessorPil"),
        ({"image_processor_type": "PoolFormerImageProcessor"}, Own, "PoolFormerImageProcessorPil"),
        ({"image_processor_type": "PerceiverImageProcessor"}, Own, "PerceiverImageProcessorPil"),
    ],
)
def test_every_kind_of_processor_is_followed_bit_for_bit(tmp_path: Path, config: dict[str, Any], way: type, done: str):
    chosen = made_of(tmp_path, config)
    assert type(chosen) is way
    assert done in chosen.preparation.describe()
    own = OwnProcessor(tmp_path, 3, needs_torch=False)
    source = np.random.default_rng(1)
    for shape in ((200, 150), (70, 90, 3), (33, 29)):
        pixels = source.integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(inputs_of(chosen, [pixels])[0], own.item(pixels)["pixel_values"])


@pytest.mark.parametrize("mean", [[0.3], 0.3])
def test_a_model_of_one_channel_gets_grey(tmp_path: Path, mean: object):
    chosen = made_of(tmp_path, VIT | {"image_mean": mean, "image_std": [0.5]}, channels=1)
    assert type(chosen) is Fast
    colour = np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8)
    batch = inputs_of(chosen, [colour, colour[:, :, 0]])
    assert batch.shape == (2, 1, 32, 32)
    own = OwnProcessor(tmp_path, 1, needs_torch=False)
    np.testing.assert_array_equal(batch[0], own.item(colour)["pixel_values"])


def test_a_processor_saved_inside_processor_config_is_read(tmp_path: Path):
    nested = {"image_processor": VIT | {"resample": 3}, "processor_class": "CLIPProcessor"}
    chosen = made_of(tmp_path, VIT, **{"processor_config.json": nested})
    assert chosen.preparation.describe() == "32x32, bicubic"


def test_a_plan_that_differs_from_the_processor_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preprocessing, "_table", lambda processor, channels: np.zeros((channels, 256), np.float32))
    assert type(made_of(tmp_path, VIT)) is Own


def test_images_of_several_shapes_go_in_batches_of_one_shape_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    way = made_of(tmp_path, VIT | {"do_resize": False})
    pixels = [np.full(shape, 7, np.uint8) for shape in ((20, 30), (30, 20), (20, 30), (20, 30))]
    items = [way.preparation.item(one) for one in pixels]
    batches = way.batches(items)
    assert [places for places, _ in batches] == [[0, 2, 3], [1]]
    assert [inputs["pixel_values"].shape for _, inputs in batches] == [(3, 3, 20, 30), (1, 3, 30, 20)]
    monkeypatch.setattr(preprocessing, "MAX_VALUES", 2 * 3 * 20 * 30)
    assert [places for places, _ in way.batches(items)] == [[0, 2], [3], [1]]
    with pytest.raises(ModelRejected, match="at most 3600"):
        way.preparation.item(np.zeros((50, 60), np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        {"image_processor_type": "NoSuchImageProcessor"},
        {"size": "large"},
        {"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "mine.Mine"}},
    ],
)
def test_a_processor_that_cannot_be_loaded_says_so_and_code_of_the_checkpoint_is_not_run(
    tmp_path: Path, change: dict[str, Any]
):
    (tmp_path / "mine.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ModelUnready, match="cannot be loaded"):
        made_of(tmp_path, VIT | change)
