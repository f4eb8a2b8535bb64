"""The model's input size, exactly as the Hugging Face ViT processor makes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.images.decode import Pixels


def to_model_input(pixels: Pixels, size: int) -> NDArray[np.uint8]:
    """`pixels` at (size, size) grey or (size, size, 3) RGB, aspect ratio not kept.

    Pillow's bilinear filter on the grey image gives bit for bit what the processor makes of its RGB copy, at an eighth
    of the cost; scaling and normalisation are the model's.
    """
    image = Image.fromarray(pixels.array)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
