"""Pages with text, lines and tables, drawn for the tests of the models that read them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PARAGRAPH = (
    "Images of the powder were taken at low voltage,",
    "because higher voltages charge the grains. Each",
    "grain was measured along its longest axis, and the",
    "mean of three readings was written into the table.",
)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def lines(text: Sequence[str], size: int = 28, width: int = 900) -> Image.Image:
    image = Image.new("L", (width, 40 + len(text) * size * 3 // 2), 255)
    draw = ImageDraw.Draw(image)
    for place, line in enumerate(text):
        draw.text((30, 20 + place * size * 3 // 2), line, fill=0, font=ImageFont.load_default(size))
    return image


def bar(fields: Sequence[tuple[float, float, str]], size: int = 20) -> Image.Image:
    """A data bar: white on black, each text at its place."""
    image = Image.new("L", (1024, 120), 0)
    draw = ImageDraw.Draw(image)
    for left, top, text in fields:
        draw.text((left, top), text, fill=255, font=ImageFont.load_default(size))
    return image
