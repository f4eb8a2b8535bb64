"""The fields of a scanning electron microscope's data bar, from the text that was read in it.

Makers write the same fields in three ways: a label and its value (`EHT = 25.00 kV`, `WD: 15.02 mm`), labels in one row
and values in the next (FEI), and values alone (`15.0kV x10.0k 8.4mm`). Each field has its label, its units and its
kind of number, and these also mend what is often misread: µ comes back as u, p or y, and V as v.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from pydantic import Field

from serve_app.models.contract import Schema
from serve_app.models.reading import Piece, Word, rows


class DataBarField(Schema):
    """One field: a number with its unit, or a name."""

    value: float | str
    unit: str | None = Field(default=None, description="None for names, dates and times")
    text: str = Field(description="As it was read")


NUMBER: Final = r"\d{1,3}(?:[ ,]\d{3})+(?![\d.])|\d+(?:[.,]\d+)?"
LENGTHS: Final = {"nm": "nm", "um": "µm", "m": "µm", "pm": "µm", "ym": "µm", "mm": "mm", "cm": "cm", "km": "µm"}
CURRENTS: Final = {"pa": "pA", "na": "nA", "ua": "µA", "ya": "µA"}
VOLTAGES: Final = {"kv": "kV", "v": "V", "ky": "kV"}
TIMES: Final = {"ns": "ns", "us": "µs", "ps": "µs", "ys": "µs", "ms": "ms", "s": "s"}
PRESSURES: Final = {"pa": "Pa", "mbar": "mbar", "torr": "Torr", "kpa": "kPa"}
ANGLES: Final = {"°": "°", "o": "°", "deg": "°", "": "°"}
NO_UNIT: Final = {"": ""}
DETECTORS: Final = (
    r"SE2?\([MULH]{1,2}\)|L[AM]\d*\([A-Z]+\)|(?:HE-)?SE[12]|InLens|ESB|AsB|ETD|TLD|CBS|ABS|DBS|LFD|GAD|vCD|ICD|MD|BSED|"
    r"[SLB]EI|LABE|COMPO|TOPO|BEC|BED-?[CST]?|LED|UED|USD|BSE|SE"
)
DATE: Final = r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{1,2} ?[A-Z][a-z]{2} ?\d{4}"
TIME: Final = r"\d{1,2}:\d{2}(?::\d{2})?(?: ?[AP]M)?"
MAKERS: Final = {
    "zeiss": "ZEISS",
    "jeol": "JEOL",
    "tescan": "TESCAN",
    "hitachi": "Hitachi",
    "thermo": "Thermo Fisher",
    "fei": "FEI",
    "helios": "FEI",
    "quanta": "FEI",
    "nova nanosem": "FEI",
    "magellan": "FEI",
    "verios": "FEI",
    "apreo": "Thermo Fisher",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of a field is written. Without `units` it is a name that `pattern` describes."""

    label: str
    units: dict[str, str] | None = None
    pattern: str = ""
    column: str = ""
    """The label where it stands alone in the row above its value, if that is not `label`."""

    @property
    def value(self) -> str:
        if self.units is None:
            return f"(?P<value>{self.pattern})"
        units = "|".join(re.escape(unit) for unit in sorted(self.units, key=len, reverse=True))
        return rf"(?P<value>{NUMBER})\s*(?P<unit>{units})(?![A-Za-z])"


MAGNIFICATION: Final = rf"(?:[xX×*]\s*(?:{NUMBER})\s*[kK]?|(?:{NUMBER})\s*[kK]?\s*[xX×])(?![A-Za-z\d])"
KINDS: Final = {
    "accelerating_voltage": Kind(r"(?:SEM\s*)?HV|EHT|Acc\.?\s*V(?:oltage)?\.?|Vacc|HT", VOLTAGES),
    "working_distance": Kind(r"WD", dict.fromkeys(("mm", "rnm", "nm"), "mm")),
    "magnification": Kind(r"(?:SEM\s*)?Magn?(?:ification)?\.?", pattern=MAGNIFICATION, column=r"Magn?\W*\w?"),
    "field_width": Kind(r"HFW|View\s*field|FOV|Field of view|Width", LENGTHS),
    "pixel_size": Kind(r"(?:Image\s*)?Pixel\s*Size", {**LENGTHS, "pm": "pm"}),
    "beam_current": Kind(r"curr(?:ent)?|I\s*Probe|Beam\s*(?:current|I)|Probe", CURRENTS),
    "dwell": Kind(r"dwell", TIMES),
    "tilt": Kind(r"(?:Stage\s*at\s*T|tilt)", ANGLES),
    "pressure": Kind(r"pressure|Chamber", PRESSURES),
    "spot": Kind(r"spot(?:\s*size)?", NO_UNIT),
    "detector": Kind(r"Signal\s*[A1]|Det(?:ector)?", pattern=r"[A-Za-z][\w()-]{1,11}"),
    "mode": Kind(r"mode", pattern=r"[A-Za-z][\w()-]{1,11}"),
    "date": Kind(r"Date(?:\s*\(\s*m\s*/\s*d\s*/\s*y\s*\))?", pattern=DATE),
    "time": Kind(r"Time", pattern=TIME),
}
BARE: Final = (
    ("working_distance", rf"WD\s*(?P<value>{NUMBER})(?P<unit>)(?![\w.])"),
    ("working_distance", rf"(?<=kV)\s+(?P<value>{NUMBER})\s*(?P<unit>mm)(?![A-Za-z])"),
    ("accelerating_voltage", KINDS["accelerating_voltage"].value),
    ("magnification", rf"(?P<value>{MAGNIFICATION})"),
    ("date", rf"(?<!\d)(?P<value>{DATE})(?!\d)"),
    ("time", rf"(?<!\d)(?P<value>{TIME})(?!\d)"),
    ("detector", rf"(?<![\w(])(?P<value>{DETECTORS})(?![\w(])"),
    ("scale_bar", rf"(?<![\w.=:])(?P<value>{NUMBER})\s*(?P<unit>nm|um|pm|ym|mm|km|m)(?![A-Za-z])"),
)


def fields_of(pieces: Sequence[Piece]) -> dict[str, DataBarField]:
    """The fields that the pieces hold, by name; the first of each."""
    found: dict[str, DataBarField] = {}
    lines = _lines(pieces)
    for above, below in pairwise(lines):
        for name, field in _columns(above, below):
            found.setdefault(name, field)
    rests = [" ".join(chunk.text for chunk in line if not chunk.used) for line in lines]
    rests = [_take(rest, _labelled(), found) for rest in rests]
    rests = [_take(rest, BARE, found) for rest in rests]
    everything = " ".join(piece.text for piece in pieces).lower()
    for word, maker in MAKERS.items():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", everything):
            found.setdefault("maker", DataBarField(value=maker, text=word))
    return found


@dataclass(slots=True)
class _Chunk:
    """Words close to each other: one label or one value."""

    text: str
    left: float
    right: float
    used: bool = False

    @property
    def centre(self) -> float:
        return (self.left + self.right) / 2


def _lines(pieces: Sequence[Piece]) -> list[list[_Chunk]]:
    if not pieces:
        return []
    boxes = np.array([piece.box for piece in pieces])
    return [
        [chunk for place in line for chunk in _chunks(pieces[place])] for line in rows(boxes, list(range(len(pieces))))
    ]


def _chunks(piece: Piece) -> Iterator[_Chunk]:
    height = piece.box[3] - piece.box[1]
    words = piece.words or (Word(piece.text, piece.box),)
    current: _Chunk | None = None
    for word in words:
        text = mended(word.text)
        if current and word.box[0] - current.right < 0.7 * height:
            current.text, current.right = f"{current.text} {text}", word.box[2]
            continue
        if current:
            yield current
        current = _Chunk(text, word.box[0], word.box[2])
    if current:
        yield current


def mended(text: str) -> str:
    """One spelling of µ, as u, and digits where letters stand between digits."""
    text = unicodedata.normalize("NFKC", text).replace("μ", "u").replace("，", ",").replace("−", "-")
    text = re.sub(r"(?<=\d)[oO](?=[\d.,]|k?[VXx]|\s|$)|(?<=[.,])[oO](?=\d|[kK ]|$)", "0", text)
    return re.sub(r"(?<=\d)[lI|](?=[\d.,])", "1", text)


def _columns(above: list[_Chunk], below: list[_Chunk]) -> Iterator[tuple[str, DataBarField]]:
    """Values below their labels, if the upper row is one of labels."""
    heads = [(name, chunk) for chunk in above for name in _names(chunk.text)]
    if len(heads) < 3:
        return
    for name, head in heads:
        near = [chunk for chunk in below if not chunk.used]
        chunk = min(near, key=lambda chunk: abs(chunk.centre - head.centre), default=None)
        if chunk is None or min(chunk.right, head.right) < max(chunk.left, head.left):
            continue
        match = re.fullmatch(_column_value(name), chunk.text, re.IGNORECASE)
        if match:
            chunk.used = head.used = True
            yield name, _field(name, match, chunk.text)


def _column_value(name: str) -> str:
    """In a column the unit may be missing, as in old FEI bars."""
    if name == "working_distance":
        return rf"(?P<value>{NUMBER})\s*(?P<unit>(?:mm)?)"
    return KINDS[name].value


def _names(text: str) -> list[str]:
    return [name for name, kind in KINDS.items() if re.fullmatch(kind.column or kind.label, text, re.IGNORECASE)][:1]


def _labelled() -> Iterator[tuple[str, str]]:
    for name, kind in KINDS.items():
        yield name, rf"(?<![A-Za-z])(?:{kind.label})\s*[=:;.]?\s*{kind.value}"


def _take(text: str, patterns: Iterable[tuple[str, str]], found: dict[str, DataBarField]) -> str:
    """What is left of the text after each field that was not found yet is taken out of it."""
    for name, pattern in patterns:
        match = re.search(pattern, text, _flags(pattern))
        if match and name not in found:
            found[name] = _field(name, match, match.group().strip())
            text = f"{text[: match.start()]} | {text[match.end() :]}"
    return text


def _flags(pattern: str) -> int:
    return 0 if DETECTORS in pattern else re.IGNORECASE


def _field(name: str, match: re.Match[str], text: str) -> DataBarField:
    value = match["value"].strip()
    if name == "magnification":
        return DataBarField(value=_times(value), unit="x", text=text)
    if name in KINDS and KINDS[name].units is None:
        return DataBarField(value=value, text=text)
    number = _number(value)
    return DataBarField(value=number, unit=_unit(name, match["unit"].lower(), number) or None, text=text)


def _number(text: str) -> float:
    if re.fullmatch(r"\d{1,3}(?:[ ,]\d{3})+", text):
        return float(re.sub(r"[ ,]", "", text))
    return float(text.replace(",", "."))


def _times(text: str) -> float:
    digits = re.search(NUMBER, text)
    thousand = 1000 if "k" in text.lower() else 1
    return round((_number(digits.group()) if digits else 0.0) * thousand, 6)


def _unit(name: str, unit: str, value: float) -> str:
    """The unit as it should read. A pixel of 20 and more picometres is one; a smaller figure is of misread µm."""
    if name == "pixel_size" and unit == "pm" and value < 20:
        return "µm"
    kind = KINDS.get(name)
    units = LENGTHS if kind is None or kind.units is None else kind.units
    return units.get(unit, unit)
