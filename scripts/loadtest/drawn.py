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


# Pages.


@dataclass(frozen=True)
class DrawnPage:
    """A picture, its text line by line, and the boxes of its tables."""

    image: Image.Image
    text: tuple[str, ...]
    tables: tuple[Box, ...] = ()


def text_page(seed: int) -> DrawnPage:
    """Lines of one font and size, tilted by up to 5 degrees, with noise."""
    source = random.Random(seed)
    size = source.randint(18, 34)
    face = font(faces()[seed % len(faces())], size)
    text = tuple(_sentence(source, face, 1000) for _ in range(source.randint(8, 16)))
    step = size * source.uniform(1.35, 1.8)
    image = Image.new("L", (1240, int(160 + step * len(text))), 255)
    draw = ImageDraw.Draw(image)
    for place, line in enumerate(text):
        draw.text((100, 80 + place * step), line, fill=source.randint(0, 60), font=face)
    turned = image.rotate(source.uniform(-5, 5), Image.Resampling.BICUBIC, fillcolor=255)
    return DrawnPage(noisy(turned, source, source.uniform(0, 12)), text)


def _sentence(source: random.Random, face: Font, width: int) -> str:
    words = [source.choice(WORDS).capitalize()]
    while face.getlength(" ".join(words)) < width - 160:
        number = f"{source.uniform(0, 500):.1f}"
        words.append(
            number if source.random() < 0.12 else source.choice(WORDS) + ("," if source.random() < 0.1 else "")
        )
    return " ".join(words).rstrip(",") + "."


def report_page(seed: int) -> DrawnPage:
    """A page of a report: title, paragraphs and one or two tables with captions, every second one without lines
    between columns."""
    source = random.Random(seed)
    image = Image.new("L", (1240, 1754), 255)
    draw = ImageDraw.Draw(image)
    face = font(source.choice(faces()), 22)
    draw.text((120, 90), _name(source), fill=0, font=font("", 40))
    y, tables = 190.0, []
    for place in range(source.randint(1, 2)):
        y = _paragraph(source, draw, face, y)
        drawn = table(source.randrange(1000), lined=(seed + place) % 2 == 0)
        shrink = min(1.0, 1000 / drawn.image.width, 430 / drawn.image.height)
        small = drawn.image.resize((int(drawn.image.width * shrink), int(drawn.image.height * shrink)))
        draw.text((120, y), f"Table {place + 1}. {_name(source)} and {_name(source).lower()}", fill=0, font=face)
        image.paste(small, (110, int(y) + 20))
        left, top, right, bottom = (side * shrink for side in drawn.box)
        tables.append((left + 110, top + y + 20, right + 110, bottom + y + 20))
        y += small.height + 50
    _paragraph(source, draw, face, y)
    return DrawnPage(noisy(image, source, 3), (), tuple(tables))


def _paragraph(source: random.Random, draw: ImageDraw.ImageDraw, face: Font, y: float) -> float:
    for _ in range(source.randint(4, 7)):
        draw.text((120, y), _sentence(source, face, 1000), fill=0, font=face)
        y += 32
    return y + 40


# Data bars.

Fields = dict[str, tuple[float | str, str | None]]


@dataclass(frozen=True)
class DrawnBar:
    """The lower strip of a micrograph, and its fields."""

    image: Image.Image
    fields: Fields


MAKERS = ("Zeiss", "FEI", "JEOL", "Hitachi", "Tescan")


def data_bar(seed: int) -> DrawnBar:
    """In the style of one of five makers."""
    source = random.Random(seed)
    maker = MAKERS[seed % len(MAKERS)]
    values = _values(source)
    texts = {"Zeiss": _zeiss, "FEI": _fei, "JEOL": _jeol, "Hitachi": _hitachi, "Tescan": _tescan}[maker](values)
    size = source.randint(16, 22)
    face = font([one for one in faces() if one][seed % (len(faces()) - 1)], size)
    image = Image.new("L", (1280, 200), 90)
    image = noisy(image, source, 30)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 100, 1280, 200), fill=0)
    for left, row, text in texts:
        draw.text((left, 110 + 40 * row), text, fill=255, font=face)
    return DrawnBar(image, _fields_of(maker, values))


Values = dict[str, tuple[float | str, str | None]]


def _values(source: random.Random) -> Values:
    return {
        "accelerating_voltage": (source.choice((1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)), "kV"),
        "working_distance": (round(source.uniform(2, 25), 1), "mm"),
        "magnification": (float(source.choice((50, 120, 500, 1000, 2500, 5000, 10_000, 20_000, 50_000))), "x"),
        "scale_bar": source.choice(
            ((1.0, "µm"), (2.0, "µm"), (10.0, "µm"), (50.0, "µm"), (200.0, "nm"), (500.0, "nm"))
        ),
        "field_width": (round(source.uniform(5, 900), 1), "µm"),
        "pixel_size": (round(source.uniform(2, 90), 2), "nm"),
        "beam_current": (float(source.randint(10, 900)), "pA"),
        "date": (f"{source.randint(10, 28)}/{source.randint(10, 12)}/20{source.randint(10, 25)}", None),
    }


def _amount(value: tuple[float | str, str | None], digits: int = 0, space: str = " ") -> str:
    return f"{value[0]:.{digits}f}{space}{value[1]}"


Texts = list[tuple[int, int, str]]


def _zeiss(values: Values) -> Texts:
    times = float(values["magnification"][0])
    mag = f"{times / 1000:.2f} K X" if times >= 1000 else f"{times:.0f} X"
    return [
        (30, 0, _amount(values["scale_bar"])),
        (240, 0, f"EHT = {_amount(values['accelerating_voltage'], 2)}"),
        (520, 0, "Signal A = InLens"),
        (800, 0, f"Date :{values['date'][0]}"),
        (240, 1, f"WD = {_amount(values['working_distance'], 1)}"),
        (520, 1, f"Mag = {mag}"),
        (800, 1, f"Pixel Size = {_amount(values['pixel_size'], 2)}"),
        (1130, 1, "ZEISS"),
    ]


def _fei(values: Values) -> Texts:
    mag = f"{values['magnification'][0]:,.0f} x".replace(",", " ")
    columns = (
        ("HV", _amount(values["accelerating_voltage"], 2)),
        ("curr", _amount(values["beam_current"])),
        ("mag", mag),
        ("HFW", _amount(values["field_width"], 1)),
        ("mode", "SE"),
        ("det", "TLD"),
        ("WD", _amount(values["working_distance"], 1)),
    )
    texts = [(20 + 130 * place, row, column[row]) for place, column in enumerate(columns) for row in (0, 1)]
    return [*texts, (1060, 0, _amount(values["scale_bar"])), (1060, 1, "Helios")]


def _jeol(values: Values) -> Texts:
    return [
        (30, 0, "JEOL"),
        (160, 0, "SEI"),
        (300, 0, _amount(values["accelerating_voltage"], 1, "")),
        (460, 0, f"X{values['magnification'][0]:,.0f}"),
        (660, 0, f"WD {_amount(values['working_distance'], 1, '')}"),
        (1000, 0, _amount(values["scale_bar"], 0, "")),
    ]


def _hitachi(values: Values) -> Texts:
    times = float(values["magnification"][0])
    mag = f"x{times / 1000:.1f}k" if times >= 1000 else f"x{times:.0f}"
    words = f"{_amount(values['accelerating_voltage'], 1, '')} {_amount(values['working_distance'], 1, '')} {mag} SE(U)"
    scale = _amount(values["scale_bar"], 2, "").replace("µ", "u")
    return [(30, 0, f"S-4800 {words} {values['date'][0]}"), (1000, 0, scale)]


def _tescan(values: Values) -> Texts:
    times = float(values["magnification"][0])
    mag = f"{times / 1000:.2f} kx" if times >= 1000 else f"{times:.0f} x"
    return [
        (30, 0, f"SEM HV: {_amount(values['accelerating_voltage'], 1)}"),
        (330, 0, f"WD: {_amount(values['working_distance'], 2)}"),
        (1000, 0, "VEGA3 TESCAN"),
        (30, 1, f"View field: {_amount(values['field_width'], 1)}"),
        (330, 1, "Det: BSE"),
        (560, 1, f"SEM MAG: {mag}"),
        (800, 1, _amount(values["scale_bar"])),
        (950, 1, f"Date(m/d/y): {values['date'][0]}"),
    ]


def _fields_of(maker: str, values: Values) -> Fields:
    """The fields that a maker's bar shows."""
    more = {
        "Zeiss": (("pixel_size", "date"), {"detector": "InLens", "maker": "ZEISS"}),
        "FEI": (("field_width", "beam_current"), {"detector": "TLD", "mode": "SE", "maker": "FEI"}),
        "JEOL": ((), {"detector": "SEI", "maker": "JEOL"}),
        "Hitachi": (("date",), {"detector": "SE(U)"}),
        "Tescan": (("field_width", "date"), {"detector": "BSE", "maker": "TESCAN"}),
    }[maker]
    names = ("accelerating_voltage", "working_distance", "magnification", "scale_bar", *more[0])
    shown: Fields = {name: values[name] for name in names}
    return shown | {name: (value, None) for name, value in more[1].items()}
