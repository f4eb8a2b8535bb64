"""Reads the text of pages with RapidOCR (PP-OCRv6 on onnxruntime) and puts it in reading order.

Detection finds pieces of lines, one page after the other; recognition reads the pieces of all pages of a batch
together, sorted by width. The weights are files of the installed package; every path is given, because the library
would download what it does not find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.models.pages import Box, Pixels, bgr, silence, version, weights_in

DETECTOR, RECOGNIZER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
DIRECTION: Final = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
PACKAGES: Final = ("rapidocr", "onnxruntime", "cv2")
MOST_PIXELS: Final = 12_000_000
"""Of a page that is read: A4 at 350 dpi."""
LONGEST, SHORTEST = 1600, 736
"""Sides of the picture that lines are looked for in: larger pages are scaled down, smaller ones up."""
LARGEST_ENLARGEMENT: Final = 3.0
FLATTEST: Final = 8
"""Width to height from which a strip is padded, because the network finds nothing in it otherwise."""
BATCH: Final = 8
"""Pieces of one pass of recognition."""
GAP_STEPS: Final = 6
"""Steps without a character that mean a space, whether the network wrote it or not."""
ASKED: Final = 6
"""Pieces of a page that vote on whether its text is upside down."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line, in pixels of its page."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Piece:
    """A line, or a part of one that a wide gap separates from the next."""

    text: str
    conf: float
    corners: Numbers
    """(4, 2), clockwise from the upper left one of the text."""
    words: tuple[Word, ...] = ()

    @property
    def box(self) -> Box:
        (left, top), (right, bottom) = self.corners.min(axis=0), self.corners.max(axis=0)
        return float(left), float(top), float(right), float(bottom)


class Reader:
    """Loaded networks. Used by one thread, the one that made it."""

    def __init__(self, threads: int) -> None:
        silence()
        from rapidocr.ch_ppocr_cls import TextClassifier
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecInput, TextRecognizer
        from rapidocr.main import DEFAULT_CFG_PATH
        from rapidocr.utils.parse_parameters import ParseParams

        silence()  # importing set the levels again
        engine = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        changes: Json = {f"EngineConfig.onnxruntime.{name}": value for name, value in engine.items()}
        changes |= {"Rec.rec_batch_num": BATCH, "Cls.cls_batch_num": ASKED}
        changes |= {"Det.limit_type": "max", "Det.limit_side_len": 10 * LONGEST}  # sizes are chosen here
        for part, name in (("Det", DETECTOR), ("Rec", RECOGNIZER), ("Cls", DIRECTION)):
            changes[f"{part}.model_path"] = str(weights_in("rapidocr", name))
        configuration = ParseParams.update_batch(ParseParams.load(DEFAULT_CFG_PATH), changes)
        for part in (configuration.Det, configuration.Rec, configuration.Cls):
            part.engine_cfg = configuration.EngineConfig.onnxruntime
        configuration.Rec.font_path = None
        self._detector = TextDetector(configuration.Det)
        self._direction = TextClassifier(configuration.Cls)
        self._recognizer = TextRecognizer(configuration.Rec)
        self._input = TextRecInput

    def read(self, pages: Sequence[Pixels]) -> list[list[Piece]]:
        """The pieces of each page with text in them, in no particular order."""
        found = [self._pieces(bgr(page)) for page in pages]
        pictures = [picture for _, cut in found for picture in cut]
        if not pictures:
            return [[] for _ in pages]
        answer = self._recognizer(self._input(img=pictures, return_word_box=True))
        read = iter(zip(answer.txts or (), answer.scores, answer.word_results, strict=True))
        pieces = []
        for corners, _ in found:
            lines = [_piece(one, *next(read)) for one in corners]
            pieces.append([line for line in lines if line.text])
        return pieces

    def _pieces(self, page: Pixels) -> tuple[list[Numbers], list[Pixels]]:
        """The corners of the pieces of a page, and each piece as an upright picture."""
        corners = self._detect(page)
        if not corners:
            return [], []
        height = float(np.median([min(sides(one)) for one in corners]))
        standing = [_stands(one, height) for one in corners]
        corners = [np.roll(one, -1, axis=0) if stands else one for one, stands in zip(corners, standing, strict=True)]
        pictures = [_cut(page, one) for one in corners]
        for stands in (False, True):
            group = [place for place, one in enumerate(standing) if one == stands]
            if self._upside_down([pictures[place] for place in group]):
                for place in group:
                    corners[place] = np.roll(corners[place], -2, axis=0)
                    pictures[place] = np.ascontiguousarray(pictures[place][::-1, ::-1])
        return corners, pictures

    def _detect(self, page: Pixels) -> list[Numbers]:
        import cv2

        height, width = page.shape[:2]
        pad = max(0, -(-width // FLATTEST) - height) // 2
        if pad:
            page = np.pad(page, ((pad, pad), (0, 0), (0, 0)), mode="edge")
        tall = height + 2 * pad
        factor = min(LONGEST / max(tall, width), max(1.0, SHORTEST / min(tall, width)), LARGEST_ENLARGEMENT)
        size = max(1, round(width * factor)), max(1, round(tall * factor))
        filter_ = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        boxes = self._detector(cv2.resize(page, size, interpolation=filter_)).boxes
        if boxes is None:
            return []
        corners = np.asarray(boxes, np.float64) * [width / size[0], tall / size[1]] - [0, pad]
        return list(np.clip(corners, 0, [width, height]))

    def _upside_down(self, pictures: list[Pixels]) -> bool:
        """Whether most of the widest pieces say so: single short ones are often mistaken."""
        widest = sorted(pictures, key=lambda picture: -picture.shape[1] / picture.shape[0])[:ASKED]
        asked = [picture[:, : 4 * picture.shape[0]] for picture in widest]  # the network squeezes longer ones
        if not asked:
            return False
        votes = [label == "180" and score > 0.9 for label, score in self._direction(asked).cls_res or ()]
        return bool(2 * sum(votes) > len(votes))


def describe() -> Json:
    """What reads, for a result."""
    return {"id": "rapidocr PP-OCRv6 small", "revision": version("rapidocr"), "engine": "onnxruntime"}


def sides(corners: Numbers) -> tuple[float, float]:
    """Width and height of the text between four corners."""
    above, right = corners[1] - corners[0], corners[2] - corners[1]
    return float(np.hypot(*above)), float(np.hypot(*right))


def _stands(corners: Numbers, usual: float) -> bool:
    """Whether the text runs upwards or downwards. A single character is higher than wide, too, but not higher than a
    line."""
    width, height = sides(corners)
    return height >= 1.5 * width and height > 2 * usual


def _cut(page: Pixels, corners: Numbers) -> Pixels:
    import cv2

    width, height = (max(2, round(side)) for side in sides(corners))
    goal = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), goal)
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    return cv2.warpPerspective(page, matrix, (width, height), flags=flags, borderMode=border).astype(
        np.uint8, copy=False
    )


def _piece(corners: Numbers, text: str, score: float, words: Any) -> Piece:
    """A piece with its words. The network answers at equal steps along the line; a word reaches from its first step
    to its last, and half way to its neighbours at most."""
    spans = [("".join(word), cols[0], cols[-1] + 1) for word, cols in zip(words.words, words.word_cols, strict=True)]
    steps = max(float(words.line_txt_len), *(end for _, _, end in spans), 1.0) if spans else 1.0
    spans = _joined(text, spans)
    made = []
    for place, (word, first, last) in enumerate(spans):
        before = (spans[place - 1][2] + first) / 2 if place else 0.0
        after = (last + spans[place + 1][1]) / 2 if place + 1 < len(spans) else steps
        made.append(Word(word, _part(corners, max(first - 0.5, before) / steps, min(last + 0.5, after) / steps)))
    return Piece(" ".join(word.text for word in made), float(score), corners, tuple(made))


def _joined(text: str, spans: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The words as the text separates them: the library also cuts between scripts, as in `20µm`."""
    joined: list[tuple[str, int, int]] = []
    rest = text.strip()
    for word, first, last in spans:
        spaced = rest[:1].isspace()
        rest = rest.lstrip()[len(word) :]
        if joined and not spaced and first - joined[-1][2] <= GAP_STEPS:
            before, start, _ = joined.pop()
            word, first = before + word, start
        joined.append((word, first, last))
    return joined


def _part(corners: Numbers, start: float, end: float) -> Box:
    upper, lower = corners[1] - corners[0], corners[2] - corners[3]
    points = np.array(
        [corners[0] + start * upper, corners[0] + end * upper, corners[3] + start * lower, corners[3] + end * lower]
    )
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


# Reading order.


def in_order(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The lines of a page from top to bottom, each with its pieces from left to right; columns of prose one after
    the other. Tilt is measured on the pieces and taken out first."""
    if not pieces:
        return []
    level = _levelled(pieces)
    return [[pieces[place] for place in line] for line in _lines(level, list(range(len(pieces))))]


def _levelled(pieces: Sequence[Piece]) -> Numbers:
    """Box of each piece after turning the page so that its lines are level: (n, 4)."""
    widths = np.array([sides(piece.corners)[0] for piece in pieces])
    directions = np.array([piece.corners[1] - piece.corners[0] for piece in pieces])
    angles = np.arctan2(directions[:, 1], directions[:, 0])
    order = np.argsort(angles)
    half = np.searchsorted(np.cumsum(widths[order]), widths.sum() / 2)
    angle = angles[order][min(int(half), len(pieces) - 1)]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    boxes = []
    for piece in pieces:
        corners = piece.corners @ turn
        boxes.append([*corners.min(axis=0), *corners.max(axis=0)])
    return np.array(boxes)


def _lines(boxes: Numbers, places: list[int]) -> list[list[int]]:
    """Lines of the pieces at `places`, columns first where there are any."""
    for split in (_column_split, _block_split):
        if parts := split(boxes, places):
            return [line for part in parts for line in _lines(boxes, part)]
    return rows(boxes, places)


def _column_split(boxes: Numbers, places: list[int]) -> list[list[int]] | None:
    """Two halves left and right of a gap, if both are columns of prose: several long lines. A table has short ones."""
    heights = boxes[places, 3] - boxes[places, 1]
    usual = float(np.median(heights))
    for gap in _gaps(boxes[places][:, [0, 2]], usual):
        left = [place for place in places if boxes[place, 2] <= gap]
        right = [place for place in places if boxes[place, 2] > gap]
        if all(_is_prose(boxes, part, usual) for part in (left, right)):
            return [left, right]
    return None


def _is_prose(boxes: Numbers, places: list[int], usual: float) -> bool:
    if len(places) < 4:
        return False
    widths = boxes[places, 2] - boxes[places, 0]
    return float(np.median(widths)) >= 8 * usual


def _block_split(boxes: Numbers, places: list[int]) -> list[list[int]] | None:
    """Above and below a gap in height, where a part alone has columns."""
    usual = float(np.median(boxes[places, 3] - boxes[places, 1]))
    gaps = _gaps(boxes[places][:, [1, 3]], 0.1 * usual)
    for gap in gaps:
        above = [place for place in places if boxes[place, 3] <= gap]
        below = [place for place in places if boxes[place, 3] > gap]
        if any(len(part) >= 8 and _column_split(boxes, part) for part in (above, below)):
            return [above, below]
    return None


def _gaps(spans: Numbers, least: float) -> list[float]:
    """Where the spans leave more than `least` free, widest first: the start of each gap."""
    ordered = spans[np.argsort(spans[:, 0])]
    reach = np.maximum.accumulate(ordered[:, 1])
    free = ordered[1:, 0] - reach[:-1]
    return [float(reach[place]) for place in np.argsort(-free) if free[place] > least]


def rows(boxes: Numbers, places: Sequence[int]) -> list[list[int]]:
    """Boxes that stand beside each other, top to bottom and left to right."""
    lines: list[list[int]] = []
    for place in sorted(places, key=lambda place: float(boxes[place, 1] + boxes[place, 3])):
        if lines and _beside(boxes, lines[-1], place):
            lines[-1].append(place)
        else:
            lines.append([place])
    return [sorted(line, key=lambda place: float(boxes[place, 0])) for line in lines]


def _beside(boxes: Numbers, line: list[int], place: int) -> bool:
    """Whether the centre of one is within the other's middle."""
    centres = (boxes[line, 1] + boxes[line, 3]) / 2
    heights = boxes[line, 3] - boxes[line, 1]
    centre, height = (boxes[place, 1] + boxes[place, 3]) / 2, boxes[place, 3] - boxes[place, 1]
    return bool(abs(centre - centres.mean()) < 0.5 * min(float(np.median(heights)), float(height)))


def text_of(lines: Sequence[Sequence[Piece]]) -> str:
    """The lines of `in_order` as text."""
    return "\n".join(" ".join(piece.text for piece in line) for line in lines)


def moved(piece: Piece, factor: float) -> Piece:
    """The piece in pixels of the upright image."""
    words = tuple(Word(word.text, (*(side * factor for side in word.box),)) for word in piece.words)  # type: ignore[arg-type]
    return replace(piece, corners=piece.corners * factor, words=words)


def confidence_of(pieces: Sequence[Piece]) -> float:
    """Mean of the pieces; 0 without any."""
    return round(sum(piece.conf for piece in pieces) / len(pieces), 4) if pieces else 0.0
