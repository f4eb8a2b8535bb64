"""The report of `semapi evaluate`: as text, as JSON, as one HTML file, and an annotated picture of each image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serve_app.cli.detection_metrics import THRESHOLDS, Box, Counts, Jaccard, summarize
from serve_app.contracts import Json

if TYPE_CHECKING:
    from PIL.Image import Image

HEADLINE: Final = 0.5
"""The threshold of the figures shown for each image."""
RED, GREEN = (255, 0, 0), (0, 160, 0)
LINE: Final = 3
TEXT_MIN: Final = 11
"""Height of the letters in pixels; larger in large images."""
THUMBNAIL: Final = 560
"""Longest side of a picture in the HTML file, in pixels."""


@dataclass(frozen=True, slots=True)
class Found:
    """One predicted object."""

    bbox: Box
    score: float
    label: str


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What was found in one image, and how well it fits."""

    name: str
    width: int
    height: int
    true: Sequence[Box]
    found: Sequence[Found]
    jaccard: float
    counts: Mapping[float, Counts]

    def as_json(self) -> Json:
        return {
            "file": self.name,
            "width": self.width,
            "height": self.height,
            "ground_truth": len(self.true),
            "predictions": len(self.found),
            "jaccard": self.jaccard,
            "thresholds": _table(self.counts),
            "detections": [{"bbox": list(one.bbox), "score": one.score, "label": one.label} for one in self.found],
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of all images. There is at least one row."""

    about: Json
    """Dataset, model, parameters and service."""
    rows: Sequence[ImageRow]
    failed: Mapping[str, str]
    """Images without an answer, with the reason. They are in no figure."""

    @property
    def jaccard(self) -> Jaccard:
        return summarize([row.jaccard for row in self.rows], [len(row.true) for row in self.rows])

    @property
    def counts(self) -> dict[float, Counts]:
        return {at: reduce(Counts.__add__, (row.counts[at] for row in self.rows)) for at in THRESHOLDS}

    def as_json(self) -> Json:
        index = self.jaccard
        return {
            **self.about,
            "images": len(self.rows),
            "ground_truth": sum(len(row.true) for row in self.rows),
            "predictions": sum(len(row.found) for row in self.rows),
            "jaccard": {name: getattr(index, name) for name in ("simple", "weighted", "min", "max")},
            "thresholds": _table(self.counts),
            "failed": dict(self.failed),
            "per_image": [row.as_json() for row in self.rows],
        }

    def as_text(self) -> str:
        report, index = self.as_json(), self.jaccard
        lines = [
            f"{report['model']} on {report['dataset']}: {report['images']} images, {report['ground_truth']} objects, "
            f"{report['predictions']} predictions",
            "",
            "Jaccard index",
            f"  simple    {index.simple:.4f}",
            f"  weighted  {index.weighted:.4f}",
            f"  min       {index.min:.4f}",
            f"  max       {index.max:.4f}",
            "",
            "   IoU     TP     FP     FN  precision  recall      F1",
        ]
        for at, sums in self.counts.items():
            rates = f"{sums.precision:.4f}  {sums.recall:.4f}  {sums.f1:.4f}"
            lines.append(f"   {at:.1f} {sums.tp:6d} {sums.fp:6d} {sums.fn:6d}     {rates}")
        lines += [f"no answer for {name}: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines)


def _table(counts: Mapping[float, Counts]) -> Json:
    return {
        str(at): {
            "tp": one.tp,
            "fp": one.fp,
            "fn": one.fn,
            "precision": one.precision,
            "recall": one.recall,
            "f1": one.f1,
        }
        for at, one in counts.items()
    }


def draw(pixels: Any, row: ImageRow) -> Image:
    """The image with its true objects in green and the predictions, with label and score, in red."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(pixels).convert("RGB")
    pen = ImageDraw.Draw(picture)
    size = max(TEXT_MIN, min(picture.size) // 40)
    for box in row.true:
        left, _, _, bottom = _frame(pen, box, GREEN)
        pen.text((left + LINE + 1, bottom - LINE - 1), "GT", fill=GREEN, font_size=size, anchor="ls")
    for one in row.found:
        left, top, *_ = _frame(pen, one.bbox, RED)
        place = (left, top - 2) if top > size + 2 else (left + LINE + 1, top + LINE + size)
        pen.text(place, f"{one.label}: {one.score:.2f}", fill=RED, font_size=size, anchor="ls")
    return picture


def _frame(pen: Any, box: Box, colour: tuple[int, int, int]) -> Box:
    """Draw the box and return its sides."""
    left, top, right, bottom = box[0], box[1], max(box[0], box[2]), max(box[1], box[3])
    pen.rectangle((left, top, right, bottom), outline=colour, width=LINE)
    return left, top, right, bottom


def picture_names(names: Sequence[str]) -> dict[str, str]:
    """The file of each image's annotated picture: `<stem>_detected.jpg`. Where images share a stem, their whole names
    are in it."""
    stems = [Path(name).stem for name in names]
    whole = {name: name.replace("/", "_") for name in names}
    return {
        name: f"{stem if stems.count(stem) == 1 else whole[name]}_detected.jpg"
        for name, stem in zip(names, stems, strict=True)
    }


STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1f23}
table{border-collapse:collapse;margin:.6rem 0 1.4rem}th,td{padding:.25rem .8rem;border-bottom:1px solid #d8dee4;
text-align:right}th:first-child,td:first-child{text-align:left}.red{color:#c00}.green{color:#080}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1rem}
figure{margin:0;border:1px solid #d8dee4;border-radius:6px;padding:.5rem}img{max-width:100%;height:auto}
"""


def as_html(evaluation: Evaluation, pictures: Mapping[str, Path]) -> str:
    """One page that needs no other file. Images with the lowest Jaccard index come first."""
    report, index = evaluation.as_json(), evaluation.jaccard
    rows = "".join(
        f"<tr><td>{at:.1f}</td><td>{sums.tp}</td><td>{sums.fp}</td><td>{sums.fn}</td><td>{sums.precision:.4f}</td>"
        f"<td>{sums.recall:.4f}</td><td>{sums.f1:.4f}</td></tr>"
        for at, sums in evaluation.counts.items()
    )
    failed = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in evaluation.failed.items())
    cards = "".join(_card(row, pictures[row.name]) for row in sorted(evaluation.rows, key=lambda row: row.jaccard))
    title = escape(f"{report['model']} on {report['dataset']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{report['images']} images, {report['ground_truth']} objects, {report['predictions']} "
        f"predictions; parameters {escape(report['params'])}; {escape(report['service'])}</p>"
        f"<h2>Jaccard index</h2><table><tr><th>simple</th><th>weighted</th><th>min</th><th>max</th></tr><tr>"
        f"<td>{index.simple:.4f}</td><td>{index.weighted:.4f}</td><td>{index.min:.4f}</td><td>{index.max:.4f}</td>"
        f"</tr></table><h2>Precision, recall and F1</h2><table><tr><th>IoU</th><th>TP</th><th>FP</th><th>FN</th>"
        f"<th>precision</th><th>recall</th><th>F1</th></tr>{rows}</table>"
        + (f"<h2>Images without an answer</h2><ul>{failed}</ul>" if failed else "")
        + '<h2>Images</h2><p><span class="red">Red: predictions.</span> <span class="green">Green: true objects.</span>'
        f' The lowest Jaccard index comes first.</p><div class="cards">{cards}</div></html>\n'
    )


def _card(row: ImageRow, picture: Path) -> str:
    from PIL import Image

    with Image.open(picture) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
    data, sums = base64.b64encode(file.getvalue()).decode(), row.counts[HEADLINE]
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption><b>{escape(row.name)}</b><br>Jaccard '
        f"{row.jaccard:.3f}; at {HEADLINE}: {sums.tp} found, {sums.fp} false, {sums.fn} missed</figcaption></figure>"
    )
