"""Pages, tables and data bars drawn with the truth about them, for `make bench-models` and the tests.

The fonts are those of installed packages (Pillow's own, Roboto in Ray's dashboard) and, where the machine has them,
DejaVu's.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]
Place = tuple[int, int, int, int]
"""Rows and columns of a cell: first row, end, first column, end."""

ROBOTO = Path("dashboard", "client", "build", "static", "media")
ROBOTO_STYLES = ("300", "400", "500", "700", "400italic")
DEJAVU = Path("/usr/share/fonts/truetype/dejavu")
DEJAVU_STYLES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")
WORDS: list[str] = re.findall(
    r"\w+",
    "sample image grain surface detector voltage vacuum carbon layer polished section powder mean value"
    " distance beam current crystal edge contrast electron microscope measured heated cleaned coated glass"
    " the and with from under after before between each several small large clear narrow high low first second"
    " particles diameter boundary fracture oxide phase fibre matrix pore width length depth angle tilt scan",
)
UNITS = ("mm", "kV", "nm", "s", "%", "K")
PARAGRAPH = (
    "Images of the powder were taken at low voltage,",
    "because higher voltages charge the grains. Each",
    "grain was measured along its longest axis, and the",
    "mean of three readings was written into the table.",
)


@lru_cache(maxsize=1)
def faces() -> tuple[str, ...]:
    """Files of fonts; the empty name is Pillow's own."""
    ray = find_spec("ray")
    folder = Path(ray.origin).parent / ROBOTO if ray and ray.origin else Path()
    roboto = [next(folder.glob(f"roboto-latin-{style}.*.woff"), None) for style in ROBOTO_STYLES]
    dejavu = [path for style in DEJAVU_STYLES if (path := DEJAVU / f"{style}.ttf").is_file()]
    return "", *(str(path) for path in (*roboto, *dejavu) if path)


def font(face: str, size: int) -> Font:
    """A font of this size."""
    return ImageFont.truetype(face, size) if face else ImageFont.load_default(size)


def png(image: Image.Image) -> bytes:
    """As a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def lines(text: Sequence[str], size: int = 28, width: int = 900) -> Image.Image:
    """Lines below each other, black on white."""
    image = Image.new("L", (width, 40 + len(text) * size * 3 // 2), 255)
    draw = ImageDraw.Draw(image)
    for place, line in enumerate(text):
        draw.text((30, 20 + place * size * 3 // 2), line, fill=0, font=font("", size))
    return image


def noisy(image: Image.Image, source: random.Random, deviation: float) -> Image.Image:
    """With the noise of a scanner."""
    noise = np.random.default_rng(source.getrandbits(32)).normal(0, deviation, (image.height, image.width))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


# Tables.


@dataclass(frozen=True)
class DrawnTable:
    """A picture, the table's box in it, and the truth."""

    image: Image.Image
    box: Box
    rows: int
    columns: int
    cells: dict[Place, str]


def table(seed: int, lined: bool) -> DrawnTable:
    """A table with lines around every cell, or one without lines between columns."""
    source = random.Random(seed * 2 + lined)
    columns, body = source.randint(2, 6), source.randint(3, 9)
    cells = _headings(source, columns)
    heading = max(place[1] for place in cells)
    cells |= _body(source, columns, heading, body, lined)
    return _drawn(source, cells, heading + body, columns, lined)


def _headings(source: random.Random, columns: int) -> dict[Place, str]:
    """One row, or two with a heading over several columns."""
    if columns < 4 or source.random() < 0.6:
        return {(0, 1, at, at + 1): _heading(source) for at in range(columns)}
    first = source.randint(1, columns - 2)
    end = source.randint(first + 2, columns)
    cells = {(0, 1, first, end): _heading(source)}
    cells |= {(1, 2, at, at + 1): _heading(source) for at in range(first, end)}
    outside = [at for at in range(columns) if not first <= at < end]
    return cells | {(0, 1, at, at + 1): "" for at in outside} | {(1, 2, at, at + 1): _heading(source) for at in outside}


def _body(source: random.Random, columns: int, start: int, body: int, lined: bool) -> dict[Place, str]:
    cells: dict[Place, str] = {}
    grouped = source.random() < 0.3
    row = start
    while row < start + body:
        span = min(source.choice((1, 2, 3)) if grouped and (lined or columns > 2) else 1, start + body - row)
        cells[row, row + span, 0, 1] = _name(source)
        row += span
    for row in range(start, start + body):
        for at in range(1, columns):
            empty = at > 1 and source.random() < 0.05
            cells[row, row + 1, at, at + 1] = "" if empty else _figure(source, at)
    return cells


def _heading(source: random.Random) -> str:
    return source.choice(WORDS).capitalize()


def _name(source: random.Random) -> str:
    return " ".join(source.choice(WORDS) for _ in range(source.randint(1, 3))).capitalize()


def _figure(source: random.Random, column: int) -> str:
    if column % 3 == 2:
        return source.choice(WORDS)
    number = f"{source.uniform(0, 10 ** source.randint(1, 4)):.{source.randint(0, 2)}f}"
    return f"{number} {UNITS[column % len(UNITS)]}" if column % 2 else number


def _drawn(source: random.Random, cells: dict[Place, str], rows: int, columns: int, lined: bool) -> DrawnTable:
    size = source.randint(18, 26)
    face = font(source.choice(faces()), size)
    pad = size * 2 // 3 if lined else size
    widths = [0.0] * columns
    for (_, _, first, end), text in sorted(cells.items(), key=lambda cell: cell[0][3] - cell[0][2]):
        lacking = face.getlength(text) + 2 * pad - sum(widths[first:end])
        if lacking > 0:
            for at in range(first, end):
                widths[at] += lacking / (end - first)
    height = size * source.uniform(1.7, 2.4)
    xs = np.cumsum([40.0, *widths])
    ys = 40 + height * np.arange(rows + 1)
    image = Image.new("L", (int(xs[-1]) + 40, int(ys[-1]) + 40), 255)
    draw = ImageDraw.Draw(image)
    aligned = ["l", *(source.choice("lmr") for _ in range(1, columns))]
    thick = source.randint(1, 3)
    for (row, row_end, first, end), text in cells.items():
        sides = (xs[first], ys[row], xs[end], ys[row_end])
        if lined:
            draw.rectangle(sides, outline=0, width=thick)
        where = "m" if end - first > 1 else aligned[first]
        x = {"l": sides[0] + pad, "m": (sides[0] + sides[2]) / 2, "r": sides[2] - pad}[where]
        draw.text((x, (sides[1] + sides[3]) / 2), text, fill=0, font=face, anchor=f"{where}m")
    box = float(xs[0]), float(ys[0]), float(xs[-1]), float(ys[-1])
    if not lined and source.random() < 0.5:
        heading = max(row_end for row, row_end, first, end in cells if row < 2 and first == 0 and row_end <= 2)
        for y in (ys[0], ys[1 if (1, 2, 0, 1) not in cells or cells.get((0, 1, 0, 1)) else heading], ys[-1]):
            draw.line((box[0], y, box[2], y), fill=0, width=thick)
    return DrawnTable(noisy(image, source, source.uniform(0, 8)), box, rows, columns, cells)
