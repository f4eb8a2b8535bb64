"""A cat, because sooner or later somebody sends one. Never used in training."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from sem_textures.sheet import Sheet, Size, clouds, ramp


def cat(size: Size = (640, 480)) -> Image.Image:
    """The head of a tabby in front of a blurred room, grey as the model sees it."""
    rng = np.random.default_rng(9)
    x, y = ramp(size)
    sheet = Sheet(size, 0)
    for side in (-1, 1):
        ear = np.array([[0.05, 0.27], [0.19, 0.08], [0.235, 0.33]])
        sheet.polygon(ear * (side, 1) + (0.5, 0), 120)
        sheet.polygon((ear * (0.75, 0.7) + (0.045, 0.085)) * (side, 1) + (0.5, 0), 165)
    sheet.ball(0.5, 0.72, (0.3, 0.24), 0.0, 110)
    sheet.ball(0.5, 0.41, (0.24, 0.2), 0.0, 128)
    for stripe in (-0.09, -0.03, 0.03, 0.09):
        sheet.line(np.array([[0.5 + stripe, 0.22], [0.5 + stripe * 0.8, 0.31]]), 0.014, 70)
    for side in (-1, 1):
        eye = 0.5 + side * 0.095
        sheet.ball(eye, 0.39, (0.048, 0.036), 0.0, 205)
        sheet.ball(eye, 0.39, (0.013, 0.034), 0.0, 16)
        sheet.ball(0.5 + side * 0.035, 0.5, (0.05, 0.04), 0.0, 175)
        for lift in (-0.05, 0.0, 0.05):
            sheet.line(np.array([[0.5 + side * 0.07, 0.5], [0.5 + side * 0.29, 0.5 + lift]]), 0.003, 225)
    sheet.polygon(np.array([[0.475, 0.46], [0.525, 0.46], [0.5, 0.485]]), 60)
    animal = sheet.array()
    room = 120 + 60 * (x - 0.5) + 40 * np.sin(x * 9) * (y < 0.5) + 12 * clouds(rng, size, 0.3, 2)
    fur = animal * (1 + 0.12 * clouds(rng, size, 0.02, 3))
    picture = np.where(animal > 0, fur, room)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(1.2))
