"""The fast resize gives what the Hugging Face processor gives, bit for bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from serve_app.errors import ModelRejected
from serve_app.images.decode import read_pixels
from serve_app.images.resize import Geometry
from serve_app.settings import Settings
from tests import pictures

GREY = pictures.texture()
COLOUR = np.dstack([pictures.texture(seed=seed) for seed in range(3)])
FILES = {
    "grey png": pictures.encode(GREY, "PNG"),
    "grey jpeg": pictures.encode(GREY, "JPEG"),
    "colour jpeg": pictures.encode(COLOUR, "JPEG"),
    "colour bmp": pictures.encode(COLOUR[:301, :777], "BMP"),
    "smaller than the model": pictures.encode(GREY[:100, :50], "PNG"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [224, 384])
def test_bit_exact_with_the_processor(name: str, size: int) -> None:
    processor = ViTImageProcessorPil(
        size={"height": size, "width": size}, do_rescale=False, do_normalize=False, resample=Image.Resampling.BILINEAR
    )
    reference = processor(Image.open(io.BytesIO(FILES[name])).convert("RGB"), return_tensors="np")["pixel_values"][0]
    ours = Geometry((size, size)).item(read_pixels(FILES[name], Settings()).array)
    assert ours.dtype == np.uint8
    assert ours.shape == ((size, size) if "colour" not in name else (size, size, 3))
    spread = ours if ours.ndim == 3 else np.dstack([ours] * 3)
    assert np.array_equal(np.moveaxis(reference, 0, 2), spread)


def test_extreme_shapes() -> None:
    for shape in ((1, 5000), (5000, 1), (1, 1)):
        pixels = read_pixels(pictures.encode(np.full(shape, 9, np.uint8), "PNG"), Settings())
        assert (Geometry((224, 224)).item(pixels.array) == 9).all()


def test_an_image_too_narrow_for_its_aspect_ratio_to_be_kept_is_refused() -> None:
    geometry = Geometry(256, crop=(224, 224))
    with pytest.raises(ModelRejected, match="too narrow"):
        geometry.item(np.zeros((2, 50_000), np.uint8))
    assert geometry.item(np.zeros((300, 400), np.uint8)).shape == (224, 224)
