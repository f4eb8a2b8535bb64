"""`make bench-models`: how accurate and how quick the models of pages are, on pages drawn with the truth about them.

Writes every figure to build/bench-models.json and prints one line for each: `name value target ok|short`. The exit
status is 1 when one is short.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loadtest import drawn
from loadtest.results import MACHINE, ROOT, report, results, write_record
from serve_app.models.contract import Answer, Model
from serve_app.models.document import Document
from serve_app.models.layout import Layout
from serve_app.models.ocr import Ocr
from serve_app.models.pages import Box
from serve_app.models.regions import overlap
from serve_app.models.table import Table
from serve_app.settings import Settings

BATCHES = {"ocr": 4, "layout": 4, "table": 4, "document": 2}
"""As in serve_app/serve.yaml."""
FOUND = 0.7
"""Least overlap of a table with what the layout says."""
MICROGRAPHS: dict[str, drawn.Fields] = {
    "zeiss-1024x768-palette.tif": {
        "accelerating_voltage": (25.0, "kV"),
        "working_distance": (14.8, "mm"),
        "magnification": (105.0, "x"),
        "scale_bar": (200.0, "µm"),
        "detector": ("HE-SE2", None),
    },
    "fei-helios-512x471-16bit.tif": {
        "accelerating_voltage": (5.0, "kV"),
        "beam_current": (6.3, "pA"),
        "magnification": (120.0, "x"),
        "field_width": (1.73, "mm"),
        "working_distance": (4.0, "mm"),
        "mode": ("SE", None),
        "detector": ("ETD", None),
        "scale_bar": (500.0, "µm"),
    },
}
"""Real files, used where --micrographs names their folder, with what their data bars say."""


@dataclass
class Timed:
    """A loaded model and what it has done so far."""

    model: Model
    batch: int
    pages: int = 0
    passes: int = 0
    seconds: float = 0.0

    def answers(self, images: Sequence[bytes], params: Sequence[dict[str, Any]]) -> list[Any]:
        """The results of all images, in batches."""
        given = [self.model.Params(**one) for one in params]
        made: list[Any] = []
        for start in range(0, len(images), self.batch):
            some = slice(start, start + self.batch)
            began = time.perf_counter()
            prepared = [
                self.model.preprocess(image, one, self.model.recipe)
                for image, one in zip(images[some], given[some], strict=True)
            ]
            outputs = self.model.forward([one.item for one in prepared])
            for output, chosen, one in zip(outputs, given[some], prepared, strict=True):
                answer = self.model.postprocess(output, chosen, one.notes)
                made.append(answer.result if isinstance(answer, Answer) else answer)
            self.seconds += time.perf_counter() - began
            self.pages += len(prepared)
            self.passes += 1
        return made


class Bench:
    """The measurements. `raw` has the figure of each result, `details` what was wrong."""

    def __init__(self, pages: int, tables: int, micrographs: Path | None) -> None:
        self.raw: dict[str, list[float]] = {}
        self.details: dict[str, list[str]] = defaultdict(list)
        self._pages, self._tables, self._micrographs = pages, tables, micrographs

    def measure(self) -> None:
        """One model after the other, so that each has the machine to itself."""
        self._timed("ocr", Ocr(), self._text)
        self._timed("layout", Layout(), self._layout)
        self._timed("table", Table(), self._structure)
        self._timed("document", Document(), self._documents)

    def _timed(self, name: str, model: Model, work: Any) -> None:
        print(f"# {name}", flush=True)
        model.load(Settings())
        timed = Timed(model, BATCHES[name])
        work(timed)
        self.raw[f"{name}_pages_per_s"] = [timed.pages / timed.seconds]
        self.raw[f"{name}_mean_batch"] = [timed.pages / timed.passes]

    def _text(self, ocr: Timed) -> None:
        drawn_pages = [drawn.text_page(seed) for seed in range(self._pages)]
        read = ocr.answers([drawn.png(page.image) for page in drawn_pages], [{}] * len(drawn_pages))
        wrong = total = 0
        for seed, (page, result) in enumerate(zip(drawn_pages, read, strict=True)):
            truth = " ".join(page.text)
            off = distance(truth, " ".join(result.text.split()))
            wrong, total = wrong + off, total + len(truth)
            self.details["ocr_characters"].append(f"page {seed}: {off} of {len(truth)} wrong")
        self.raw["ocr_characters"] = [1 - wrong / total]
        self._bars(ocr)

    def _bars(self, ocr: Timed) -> None:
        bars = [drawn.data_bar(seed) for seed in range(4 * len(drawn.MAKERS))]
        given = [(drawn.png(bar.image), bar.fields) for bar in bars]
        for name, fields in MICROGRAPHS.items():
            path = self._micrographs / name if self._micrographs else None
            if path is None or not path.is_file():
                print(f"# {name} is skipped: it is not in --micrographs, {self._micrographs or 'which is not given'}")
            else:
                given.append((path.read_bytes(), fields))
        read = ocr.answers([file for file, _ in given], [{"data_bar": True}] * len(given))
        right = total = 0
        for place, ((_, fields), result) in enumerate(zip(given, read, strict=True)):
            for name, truth in fields.items():
                field = (result.fields or {}).get(name)
                found = (field.value, field.unit) if field else None
                right, total = right + (found == truth), total + 1
                if found != truth:
                    self.details["data_bar_fields"].append(
                        f"bar {place}: {name} is {truth}, read {found}: {result.text}"
                    )
        self.raw["data_bar_fields"] = [right / total]

    def _layout(self, layout: Timed) -> None:
        drawn_pages = [drawn.report_page(seed) for seed in range(self._pages)]
        found = layout.answers([drawn.png(page.image) for page in drawn_pages], [{}] * len(drawn_pages))
        hits = total = 0
        for seed, (page, result) in enumerate(zip(drawn_pages, found, strict=True)):
            boxes: list[Box] = [(one.x1, one.y1, one.x2, one.y2) for one in result.boxes if one.text == "table"]
            for table in page.tables:
                best = max((overlap(table, box) for box in boxes), default=0.0)
                hits, total = hits + (best >= FOUND), total + 1
                if best < FOUND:
                    self.details["layout_tables"].append(f"page {seed}: {best:.2f} at {table}: {result.text}")
        self.raw["layout_tables"] = [hits / total]

    def _structure(self, table: Timed) -> None:
        for name, lined in (("table_lined", True), ("table_plain", False)):
            tables = [drawn.table(seed, lined) for seed in range(self._tables)]
            params = [{"table_bboxes": [one.box]} for one in tables]
            found = table.answers([drawn.png(one.image) for one in tables], params)
            right = 0
            for seed, (truth, result) in enumerate(zip(tables, found, strict=True)):
                places = {_place(cell) for cell in result.tables[0].cells}
                right += places == set(truth.cells)
                if places != set(truth.cells):
                    self.details[name].append(f"table {seed}: {sorted(places ^ set(truth.cells))}")
            self.raw[name] = [right / len(tables)]

    def _documents(self, document: Timed) -> None:
        images = [drawn.png(drawn.report_page(seed).image) for seed in range(min(10, self._pages))]
        document.answers(images, [{}] * len(images))


def _place(cell: Any) -> tuple[int, int, int, int]:
    return cell.start_row_offset_idx, cell.end_row_offset_idx, cell.start_col_offset_idx, cell.end_col_offset_idx


def distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements that make one text the other."""
    letters = np.array([ord(letter) for letter in other])
    steps = np.arange(len(other) + 1)
    row = steps.copy()
    for place, letter in enumerate(one, 1):
        changed = row[:-1] + (letters != ord(letter))
        best = np.minimum(changed, row[1:] + 1)
        row = np.concatenate([[place], best])
        row = np.minimum.accumulate(row - steps) + steps
    return int(row[-1])


def main() -> int:
    """Measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=40, help="pages for text, and for layout")
    parser.add_argument("--tables", type=int, default=100, help="tables with lines, and without")
    parser.add_argument("--micrographs", type=Path, default=ROOT.parent / "shared" / "data" / "sem")
    options = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    started = time.time()
    print(f"# {MACHINE}, fonts: {', '.join(Path(face).stem or 'of Pillow' for face in drawn.faces())}", flush=True)
    bench = Bench(options.pages, options.tables, options.micrographs)
    bench.measure()
    record = write_record(
        "bench-models",
        started_at=started,
        seconds=time.time() - started,
        options={name: str(value) for name, value in vars(options).items()},
        units="parts of 1, unless the name ends in a unit",
        results=bench.raw,
        details=bench.details,
    )
    return report(results(record["results"], "bench-models"))


if __name__ == "__main__":
    raise SystemExit(main())
