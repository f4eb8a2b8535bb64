"""`make report-demo`: measure the demo model on held-out pictures (about a minute on two cores).

Writes docs/demo-model.md with its pictures, and the sample images of serve_app/samples.
"""

from __future__ import annotations

import io
import multiprocessing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoModelForImageClassification

from demo_model.pictures import (
    HELD_OUT,
    HELD_OUT_SIZE,
    OUTSIDE,
    TRAINING,
    TRAINING_PICTURES,
    TRAINING_SIZES,
    Conditions,
    held_out,
    render,
    squashed,
)
from demo_model.scenes import LABELS, cat
from demo_model.train import FOLDER, SIDE

DOCS = FOLDER.parents[2] / "docs"
SAMPLES = FOLDER.parents[1] / "samples"
COUNT, COUNT_OUTSIDE = 600, 300
SAMPLE_SEED, SAMPLE_BYTES = 31, 58_000
CELL, MARGIN = 46, 215
TILE = (112, 84)
CONDITIONS = {
    "magnification": "magnification (times the class's own scale)",
    "contrast": "contrast (times the scene's)",
    "brightness": "mean grey level",
    "dose": "electrons per pixel (shot noise)",
    "blur": "blur (thousandths of the field)",
    "tilt": "tilt (degrees)",
    "bar": "data bar (share of the height)",
}
PAGE = """# The demo model

**This is a stand-in.** It was trained on drawn textures, never on a micrograph. It shows that the service works from
token to result where the real model cannot be downloaded; its result for a real sample is meaningless. Every result
has `"demo": true`, and `ENVIRONMENT=prod` refuses the model.
[How to serve the real model](swap-the-model.md).

A vision transformer (1.4 million parameters, input 128 x 128, patches of 16) with the ten classes of
[t0m-R/vit-sem-classification](https://huggingface.co/t0m-R/vit-sem-classification) in the same order. The weights are
stored in half precision and used in single precision; their sha256 is
`{digest}`.

`make train-demo` draws {training:,} pictures and trains the model from fixed seeds. This takes four and a half
minutes on two idle cores (9 core-minutes). Two runs on one machine give the same weights; another processor rounds
differently, so its weights and checksum differ.
`make report-demo` measures the model and writes this page.

## Test pictures

{count} held-out pictures of {width} x {height} pixels. They use other seeds and other conditions than the
training pictures: every held-out range lies between the training ranges. A second, harder set of
{outside_count} pictures (*outside*) lies outside the training ranges in all conditions at once:

| condition | training | held-out | outside |
|---|---|---|---|
{conditions}

Training pictures are smaller ({sizes} pixels wide, because drawing time grows with the number of pixels). During
training they are also cropped, mirrored and varied in scale, contrast, focus and noise, which covers some of
the gaps between the ranges.

## Results

**{accuracy:.1f} %** of the held-out pictures get the correct label. The mean confidence is {confidence:.1f} %, the
expected calibration error {calibration:.1f} points. Label smoothing keeps the model from being overconfident.

On the *outside* set **{outside:.1f} %** are correct, with a mean confidence of {outside_confidence:.1f} %. This
shows how well the model generalises beyond its training conditions.

![Confusion matrix: drawn class by row, predicted class by column](pictures/demo-confusion.png)

| class | correct | mean confidence |
|---|---|---|
{classes}

Ten held-out pictures of each class, one class per row, in the order of the table:

![Contact sheet](pictures/demo-contact-sheet.jpg)

## Pictures of no class

The model has ten labels and none for "something else". A tenth of its training pictures were blank, noise or soft
shapes, with equal probability for all classes as the target, so such pictures get low scores. But the result is
always one of the ten labels ([for users](users.md#the-result)), and not every picture of no class gets a low score. The
training included noise and blank pictures like those below, but no cats.

![A cat, noise, and blank pictures](pictures/demo-strangers.jpg)

| picture | first label | score | second label | score |
|---|---|---|---|---|
{unknown}
"""

Scores = NDArray[np.float64]


class Drawn(NamedTuple):
    """A held-out picture, reduced where it was drawn: whole ones would fill the memory."""

    label: int
    small: Image.Image
    """As large as the model's input, by the service's own resize; the library's then changes nothing."""
    tile: Image.Image


@dataclass(frozen=True)
class Results:
    """Scores (pictures, classes) and the right labels of one set."""

    scores: Scores
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.scores.argmax(1) == self.labels)

    @property
    def confidence(self) -> Scores:
        return np.asarray(self.scores.max(1))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over ten bins of confidence, as a share."""
        bins = np.minimum((self.confidence * 10).astype(int), 9)
        gaps = [abs(self.confidence[bins == place].sum() - self.right[bins == place].sum()) for place in range(10)]
        return float(sum(gaps)) / len(self.labels)


def main() -> None:
    """Draw, measure, write the page, its pictures and the samples."""
    torch.set_num_threads(2)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        drawn = pool.starmap(reduced, [(number, HELD_OUT) for number in range(COUNT)], chunksize=20)
        outside = pool.starmap(reduced, [(number, OUTSIDE) for number in range(COUNT_OUTSIDE)], chunksize=20)
    unknown = unknown_pictures()
    results = measure(drawn)
    pictures = DOCS / "pictures"
    confusion_picture(results).save(pictures / "demo-confusion.png", optimize=True)
    contact_sheet(drawn).save(pictures / "demo-contact-sheet.jpg", quality=72)
    side_by_side(list(unknown.values())).save(pictures / "demo-strangers.jpg", quality=80)
    answers = dict(zip(unknown, classify(list(unknown.values())), strict=True))
    (DOCS / "demo-model.md").write_text(page(results, measure(outside), answers), encoding="utf-8")
    write_samples()


def reduced(number: int, conditions: Conditions) -> Drawn:
    """Held-out picture `number`, as small as it is needed."""
    image, label = held_out(number, conditions)
    return Drawn(label, Image.fromarray(squashed(image, SIDE)), image.resize(TILE, Image.Resampling.BOX))


def measure(drawn: list[Drawn]) -> Results:
    """Classify a set of pictures."""
    return Results(classify([one.small for one in drawn]), np.array([one.label for one in drawn]))


def classify(images: list[Image.Image]) -> Scores:
    """Scores (images, classes), by the library's own loading and preprocessing."""
    processor = AutoImageProcessor.from_pretrained(FOLDER, local_files_only=True)
    model = AutoModelForImageClassification.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32).eval()
    rows = []
    for start in range(0, len(images), 50):
        inputs = processor([image.convert("RGB") for image in images[start : start + 50]], return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).logits.double().softmax(-1).numpy())
    return np.concatenate(rows)


def unknown_pictures() -> dict[str, Image.Image]:
    """Pictures of no class: a cat, noise, and blanks."""
    rng = np.random.default_rng(4)
    width, height = HELD_OUT_SIZE
    noise = rng.integers(0, 256, (height, width), dtype=np.uint8)
    coarse = Image.fromarray(rng.integers(0, 256, (96, 128), dtype=np.uint8))
    return {
        "A cat": cat(),
        "Noise, pixel by pixel": Image.fromarray(noise),
        "Noise, 8-pixel blocks": coarse.resize(HELD_OUT_SIZE, Image.Resampling.NEAREST),
        "Blank, black": Image.new("L", HELD_OUT_SIZE, 0),
        "Blank, mid-grey": Image.new("L", HELD_OUT_SIZE, 128),
        "Blank, white": Image.new("L", HELD_OUT_SIZE, 255),
    }


def page(results: Results, outside: Results, answers: dict[str, Scores]) -> str:
    """The text of docs/demo-model.md."""
    widths = [size[0] for size in TRAINING_SIZES]
    conditions = [
        [words, *(_ranges(getattr(one, name)) for one in (TRAINING, HELD_OUT, OUTSIDE))]
        for name, words in CONDITIONS.items()
    ]
    classes = []
    for index, label in enumerate(LABELS):
        own = results.labels == index
        classes.append([label, f"{results.right[own].mean():.1%}", f"{results.confidence[own].mean():.1%}"])
    unknown = []
    for name, scores in answers.items():
        first, second = np.argsort(-scores)[:2]
        unknown.append([name, LABELS[first], f"{scores[first]:.1%}", LABELS[second], f"{scores[second]:.1%}"])
    return PAGE.format(
        digest=(FOLDER / "model.safetensors.sha256").read_text().split()[0],
        training=TRAINING_PICTURES,
        count=len(results.labels),
        width=HELD_OUT_SIZE[0],
        height=HELD_OUT_SIZE[1],
        outside_count=len(outside.labels),
        conditions=_rows(conditions),
        sizes=f"{min(widths)} to {max(widths)}",
        accuracy=results.right.mean() * 100,
        confidence=results.confidence.mean() * 100,
        calibration=results.calibration_error * 100,
        outside=outside.right.mean() * 100,
        outside_confidence=outside.confidence.mean() * 100,
        classes=_rows(classes),
        unknown=_rows(unknown),
    )


def _rows(table: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _ranges(ranges: tuple[tuple[float, float], ...]) -> str:
    return " or ".join("none" if low == high == 0 else f"{low:g}–{high:g}" for low, high in ranges)


def confusion_picture(results: Results) -> Image.Image:
    """A table of counts, darker where they are higher; wrong answers in red."""
    counts = np.zeros((len(LABELS), len(LABELS)), np.int64)
    np.add.at(counts, (results.labels, results.scores.argmax(1)), 1)
    side = MARGIN + CELL * len(LABELS) + 10
    picture = Image.new("RGB", (side, side), "white")
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


def contact_sheet(drawn: list[Drawn]) -> Image.Image:
    """The first ten pictures of each class, a class per row."""
    sheet = Image.new("L", (10 * TILE[0], len(LABELS) * TILE[1]))
    for row in range(len(LABELS)):
        for column, one in enumerate([one for one in drawn if one.label == row][:10]):
            sheet.paste(one.tile, (column * TILE[0], row * TILE[1]))
    return sheet


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """The images in a row, each with a thin frame, so that the white one is visible."""
    sheet = Image.new("L", (len(images) * 164 + 4, 124), 128)
    for column, image in enumerate(images):
        sheet.paste(image.resize((160, 120), Image.Resampling.BOX), (column * 164 + 2, 2))
    return sheet


def write_samples() -> None:
    """Write one JPEG per class, named after it: held-out conditions, seeds of their own, as good as fits."""
    for index, label in enumerate(LABELS):
        image = render(label, np.random.default_rng((SAMPLE_SEED, index)), HELD_OUT, HELD_OUT_SIZE)
        image = image.resize((800, 600), Image.Resampling.BILINEAR)
        for quality in range(90, 35, -5):  # a picture with much shot noise fits at 40 at the latest
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            if file.tell() <= SAMPLE_BYTES:
                break
        (SAMPLES / f"{label.lower()}.jpg").write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
