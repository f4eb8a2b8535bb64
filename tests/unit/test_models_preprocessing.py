"""preprocessor_config.json is followed exactly, or refused."""

import numpy as np
import pytest

from serve_app.errors import ModelUnready
from serve_app.models.preprocessing import Preprocessing

VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 4, "width": 4},
}


def test_grey_and_colour_share_a_batch():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    colour = np.stack([grey, 255 - grey, np.zeros_like(grey)], axis=2)
    batch = Preprocessing.from_config(VIT).normalise([grey, colour])
    assert batch.shape == (2, 3, 4, 4)
    assert batch.dtype == np.float32
    expected = grey / 255 * 2 - 1
    for channel in range(3):
        np.testing.assert_allclose(batch[0, channel], expected, atol=1e-6)
    np.testing.assert_allclose(batch[1, 1], -expected, atol=1e-6)
    np.testing.assert_array_equal(batch[1, 2], -1)


def test_each_channel_has_its_own_mean_and_deviation():
    config = VIT | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    batch = Preprocessing.from_config(config).normalise([np.full((4, 4), 255, np.uint8)])
    np.testing.assert_allclose(batch[0, :, 0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], 1e-6)


def test_steps_switched_off_are_not_done():
    config = VIT | {"do_normalize": False, "do_rescale": False}
    batch = Preprocessing.from_config(config).normalise([np.full((4, 4), 200, np.uint8)])
    np.testing.assert_array_equal(batch, 200)


@pytest.mark.parametrize("size", [224, {"height": 224, "width": 224}])
def test_both_ways_to_write_a_size(size: object):
    assert Preprocessing.from_config(VIT | {"size": size}).size == 224


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"do_center_crop": True}, "do_center_crop"),
        ({"resample": 3}, "bilinear"),
        ({"do_resize": False}, "bilinear"),
        ({"size": {"shortest_edge": 224}}, "square"),
        ({"size": {"height": 224, "width": 192}}, "square"),
        ({"size": None}, "square"),
        ({"size": 10**9}, "square"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": "0.5"}, "image_std"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
    ],
)
def test_what_cannot_be_done_exactly_is_refused(change: dict[str, object], reason: str):
    with pytest.raises(ModelUnready, match=reason):
        Preprocessing.from_config(VIT | change)
