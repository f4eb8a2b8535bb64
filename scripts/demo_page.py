"""The page docs/demo-model.md and its pictures, made from one measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sem_textures.dataset import HELD_OUT_SIZE, LABELS, TRAINING_PICTURES, TRAINING_SIZES
from sem_textures.microscope import HELD_OUT, OUTSIDE, TRAINING, Ranges

Scores = NDArray[np.float64]
Answers = list[tuple[tuple[str, Image.Image], Scores]]
CELL, MARGIN = 46, 215
TILE = (112, 84)

PAGE = """# The demo model

**This is a stand-in.** It was trained on drawn textures, never on a micrograph. It shows that the service works from
token to result where the real model cannot be downloaded; what it says about a real sample means nothing. Every result
it gives carries `"demo": true`, and `ENVIRONMENT=prod` refuses it.
[How to serve the real model](swap-the-model.md).

A vision transformer (1.4 million parameters, input 128 x 128, patches of 16) with the ten classes of
[t0m-R/vit-sem-classification](https://huggingface.co/t0m-R/vit-sem-classification) in the same order. The weights are
stored in half precision and computed in single; their sha256 is
`{digest}`.

`make train-demo` draws {training} and trains it from fixed seeds. That takes four and a half
minutes on two quiet cores (9 core-minutes). Two runs on one machine give the same weights; another processor rounds
differently, so its weights differ in the last bits and their sum with them.
`python scripts/report_demo_model.py` measures it and writes this page.

## What it was tested on

{count} held-out pictures of {width} x {height} pixels. They have other seeds, and every condition is taken from a range
that does not overlap those for training. The held-out ranges lie between the training ranges; a second, harder set of
{outside_count} pictures (*outside*) lies beyond their ends, in all conditions at once:

| condition | training | held-out | outside |
|---|---|---|---|
{conditions}

Training pictures are smaller ({sizes} pixels wide, because drawing costs by the pixel) and are also cut, mirrored and
changed in scale, contrast, focus and noise while learning, which covers a part of the gaps between the ranges.

## How it does

**{accuracy:.1f} %** of the held-out pictures get the right label. Its mean confidence is {confidence:.1f} %, its
expected calibration error {calibration:.1f} points. Smoothed targets keep it from ever being certain.

On the *outside* set it is right in **{outside:.1f} %**, with a mean confidence of {outside_confidence:.1f} %:
that is how far it carries beyond what it was trained for.

![Confusion matrix: drawn class by row, answer by column](pictures/demo-confusion.png)

| class | right | mean confidence |
|---|---|---|
{classes}

Ten held-out pictures of each class, one class per row, in the order of the table:

![Contact sheet](pictures/demo-contact-sheet.jpg)

## What it says to what it cannot know

It has ten words and no eleventh. A tenth of its training pictures were blank, noise or soft shapes, with "all classes
alike" as the right answer, so that a low score says *I do not know*. The noise and the blanks below are new pictures of
kinds it was taught; the cat is of a kind it never saw.

![A cat, noise, and blank pictures](pictures/demo-strangers.jpg)

| picture | first answer | score | second answer | score |
|---|---|---|---|---|
{strangers}
"""


@dataclass(frozen=True)
class Figures:
    """What the model said to the held-out pictures, and what was right."""

    scores: Scores
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.scores.argmax(1) == self.labels)

    @property
    def confidence(self) -> Scores:
        return np.asarray(self.scores.max(1))

    def confusion(self) -> NDArray[np.int64]:
        """Counts: drawn class by row, answer by column."""
        counts = np.zeros((len(LABELS), len(LABELS)), np.int64)
        np.add.at(counts, (self.labels, self.scores.argmax(1)), 1)
        return counts

    def calibration_error(self) -> float:
        """Expected calibration error over ten bins of confidence, as a share."""
        bins = np.minimum((self.confidence * 10).astype(int), 9)
        gaps = [abs(self.confidence[bins == place].sum() - self.right[bins == place].sum()) for place in range(10)]
        return float(sum(gaps)) / len(self.labels)


def write_page(
    docs: Path, digest: str, figures: Figures, outside: Figures, tiles: list[Image.Image], answers: Answers
) -> None:
    """Write the page and its three pictures."""
    pictures = docs / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    confusion_picture(figures.confusion()).save(pictures / "demo-confusion.png", optimize=True)
    contact_sheet(tiles, figures.labels).save(pictures / "demo-contact-sheet.jpg", quality=72)
    strangers_picture([image for (_, image), _ in answers]).save(pictures / "demo-strangers.jpg", quality=80)
    (docs / "demo-model.md").write_text(page(digest, figures, outside, answers), encoding="utf-8")


def page(digest: str, figures: Figures, outside: Figures, answers: Answers) -> str:
    """The page's text."""
    widths = sorted({size[0] for size in TRAINING_SIZES})
    rows = []
    for index, label in enumerate(LABELS):
        own = figures.labels == index
        rows.append(f"| {label} | {figures.right[own].mean():.1%} | {figures.confidence[own].mean():.1%} |")
    return PAGE.format(
        digest=digest,
        outside_count=len(outside.labels),
        outside=outside.right.mean() * 100,
        outside_confidence=outside.confidence.mean() * 100,
        training=f"{TRAINING_PICTURES:,} pictures",
        count=len(figures.labels),
        width=HELD_OUT_SIZE[0],
        height=HELD_OUT_SIZE[1],
        conditions="\n".join(_condition_rows()),
        sizes=f"{widths[0]} to {widths[-1]}",
        accuracy=figures.right.mean() * 100,
        confidence=figures.confidence.mean() * 100,
        calibration=figures.calibration_error() * 100,
        classes="\n".join(rows),
        strangers="\n".join(_stranger_row(name, scores) for (name, _), scores in answers),
    )


def _condition_rows() -> list[str]:
    names = {
        "magnification": "magnification (times the class's own scale)",
        "contrast": "contrast (times the scene's)",
        "brightness": "mean grey level",
        "dose": "electrons per pixel (shot noise)",
        "blur": "blur (thousandths of the field)",
        "tilt": "tilt (degrees)",
        "bar": "data bar (share of the height)",
    }
    rows = []
    for key, words in names.items():
        cells = [_ranges(getattr(conditions, key)) for conditions in (TRAINING, HELD_OUT, OUTSIDE)]
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return rows


def _ranges(ranges: Ranges) -> str:
    return " or ".join("none" if low == high == 0 else f"{low:g}–{high:g}" for low, high in ranges)


def _stranger_row(name: str, scores: Scores) -> str:
    first, second = np.argsort(-scores)[:2]
    return f"| {name} | {LABELS[first]} | {scores[first]:.1%} | {LABELS[second]} | {scores[second]:.1%} |"


def confusion_picture(counts: NDArray[np.int64]) -> Image.Image:
    """A table of counts, darker where there are more; wrong ones in red."""
    side = CELL * len(LABELS)
    picture = Image.new("RGB", (MARGIN + side + 10, MARGIN + side + 10), "white")
    pen = ImageDraw.Draw(picture)
    for row, label in enumerate(LABELS):
        pen.text((MARGIN - 8, MARGIN + (row + 0.5) * CELL), label, "black", anchor="rm", font_size=13)
        name = Image.new("RGB", (MARGIN, CELL), "white")
        ImageDraw.Draw(name).text((8, CELL / 2), label, "black", anchor="lm", font_size=13)
        picture.paste(name.rotate(90, expand=True), (MARGIN + row * CELL, 0))
        for column in range(len(LABELS)):
            share = counts[row, column] / max(1, counts[row].sum())
            corner = (MARGIN + column * CELL, MARGIN + row * CELL)
            full, light = ((31, 84, 150), 1 - share) if row == column else ((190, 40, 40), 1 - min(1.0, share * 5))
            colour = tuple(round(255 * light + part * (1 - light)) for part in full)
            pen.rectangle((*corner, corner[0] + CELL, corner[1] + CELL), colour, (210, 210, 210))
            if counts[row, column]:
                ink = "white" if light < 0.5 else "black"
                middle = (corner[0] + CELL / 2, corner[1] + CELL / 2)
                pen.text(middle, str(counts[row, column]), ink, anchor="mm", font_size=14)
    return picture


def contact_sheet(tiles: list[Image.Image], labels: NDArray[np.int64]) -> Image.Image:
    """The first ten pictures of each class, a class per row."""
    sheet = Image.new("L", (10 * TILE[0], len(LABELS) * TILE[1]))
    for row in range(len(LABELS)):
        own = [tile for tile, label in zip(tiles, labels, strict=True) if label == row][:10]
        for column, tile in enumerate(own):
            sheet.paste(tile, (column * TILE[0], row * TILE[1]))
    return sheet


def strangers_picture(images: list[Image.Image]) -> Image.Image:
    """Side by side, each with a thin frame, so that the white one is seen too."""
    sheet = Image.new("L", (len(images) * 164 + 4, 124), 128)
    for column, image in enumerate(images):
        sheet.paste(image.resize((160, 120), Image.Resampling.BOX), (column * 164 + 2, 2))
    return sheet
