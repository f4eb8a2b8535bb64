"""Ellipses from edges: chains of edge pixels are split into arcs, arcs of one circle are joined, an ellipse is fitted.

The edges are those of OpenCV's EdgeDrawing. Its own `detectEllipses` is not used: in OpenCV 5.0 it corrupts the heap.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ellipses = NDArray[np.float64]

STEP: Final = 5
"""Pixels along a chain over which its direction is measured."""
CORNER: Final = np.deg2rad(50)
STRAIGHT: Final = 0.04
"""Mean turn over STEP pixels, in radians, below which a chain counts as straight."""
SMOOTHING: Final = 5
SHORTEST: Final = 12
LONGEST_RADIUS: Final = 280.0
SMALLEST_RADIUS: Final = 6.0
ARCS_MOST: Final = 160
PAIRS_MOST: Final = 60
GROUPS_MOST: Final = 200
ALONE_LEAST: Final = 0.25
"""Share of the circle that an arc must cover to be fitted alone."""
POINTS: Final = 64
BINS: Final = 36
FARTHEST: Final = 1e4

_IN_ELLIPSE: Final = np.array([[0, 0, 0.5], [0, -1, 0], [0.5, 0, 0]])
"""Inverse of the constraint matrix of Halíř and Flusser's direct fit."""


def edge_chains(grey: NDArray[np.uint8]) -> list[Any]:
    """Chains of edge pixels, (pixels, 2) each."""
    import cv2

    drawing = cv2.ximgproc.createEdgeDrawing()
    settings = cv2.ximgproc.EdgeDrawing.Params()
    settings.Sigma = 1.0
    settings.GradientThresholdValue = 10
    settings.AnchorThresholdValue = 1
    settings.MinPathLength = 15
    settings.NFAValidation = True
    settings.PFmode = False
    drawing.setParams(settings)
    drawing.detectEdges(grey)
    return [chain.reshape(-1, 2) for chain in map(np.asarray, drawing.getSegments()) if len(chain) > 2 * STEP]


def ellipses(chains: list[Any]) -> Ellipses:
    """Ellipses that arcs of the chains lie on, the best covered first."""
    if not chains:
        return np.zeros((0, 5))
    points, starts = _split(chains)
    points, starts, circles = _round_arcs(points, starts)
    if not len(circles):
        return np.zeros((0, 5))
    arcs, counts = _groups(circles, np.diff(starts))
    return _fitted(_samples(points, starts, arcs, counts)) if len(counts) else np.zeros((0, 5))


def _split(chains: list[Any]) -> tuple[Any, Any]:
    """Points and the bounds of arcs: chains without corners and without changes of the side they curve to."""
    points = np.concatenate(chains).astype(np.float64)
    chain = np.repeat(np.arange(len(chains)), [len(one) for one in chains])
    turn = np.zeros(len(points))
    ahead, behind = points[2 * STEP :] - points[STEP:-STEP], points[STEP:-STEP] - points[: -2 * STEP]
    cross = behind[:, 0] * ahead[:, 1] - behind[:, 1] * ahead[:, 0]
    whole = chain[2 * STEP :] == chain[: -2 * STEP]
    turn[STEP:-STEP] = np.where(whole, np.arctan2(cross, (ahead * behind).sum(axis=1)), 0)
    window = np.ones(2 * SMOOTHING + 1) / (2 * SMOOTHING + 1)
    mean = np.convolve(np.clip(turn, -1, 1), window, "same")
    side = np.where(mean > STRAIGHT, 1, np.where(mean < -STRAIGHT, -1, 0))
    known = np.maximum.accumulate(np.where((side != 0) | (np.diff(chain, prepend=-1) != 0), np.arange(len(side)), 0))
    side = side[known]
    corner = np.abs(turn) > CORNER
    breaks = np.diff(chain, prepend=-1) != 0
    breaks[1:] |= (side[1:] * side[:-1] < 0) | (corner[1:] != corner[:-1])
    bounds = np.append(np.flatnonzero(breaks), len(points))
    return _kept(points, bounds, (np.diff(bounds) >= SHORTEST) & ~corner[bounds[:-1]])


def _kept(points: Any, bounds: Any, wanted: Any) -> tuple[Any, Any]:
    lengths = np.diff(bounds)
    return points[np.repeat(wanted, lengths)], np.concatenate([[0], np.cumsum(lengths[wanted])])


def _round_arcs(points: Any, starts: Any) -> tuple[Any, Any, Any]:
    """The arcs that a circle fits, and those circles (x, y, radius). An arc that none fits is tried again in halves."""
    kept_points, kept_lengths, kept_circles = [], [], []
    for _ in range(3):
        if len(starts) < 2:
            break
        circles, rms = _circles(points, starts)
        radius = circles[:, 2]
        fits = (rms < np.maximum(1.2, 0.06 * radius)) & (radius < LONGEST_RADIUS) & (radius > SMALLEST_RADIUS)
        good, bounds = _kept(points, starts, fits)
        kept_points.append(good)
        kept_lengths.append(np.diff(bounds))
        kept_circles.append(circles[fits])
        points, starts = _kept(points, starts, ~fits & (np.diff(starts) >= 2 * SHORTEST) & (radius > SMALLEST_RADIUS))
        starts = np.unique(np.concatenate([starts, (starts[:-1] + starts[1:]) // 2]))
    lengths, found = np.concatenate([[0], *kept_lengths]), np.concatenate([np.zeros((0, 3)), *kept_circles])
    return np.concatenate([np.zeros((0, 2)), *kept_points]), np.cumsum(lengths).astype(int), found


def _circles(points: Any, starts: Any) -> tuple[Any, Any]:
    """Least-squares circle of each arc (Kåsa), and the root mean square of the distances from it."""
    lengths = np.diff(starts)
    middle = np.add.reduceat(points, starts[:-1]) / lengths[:, None]
    local = points - np.repeat(middle, lengths, axis=0)
    x, y = local.T
    square = x * x + y * y
    sums = np.add.reduceat(np.stack([x * x, x * y, y * y, x * square, y * square, square], 1), starts[:-1])
    xx, xy, yy, xs, ys, s = sums.T
    determinant = np.maximum(xx * yy - xy * xy, 1e-6)
    centre = np.stack([xs * yy - ys * xy, ys * xx - xs * xy], 1) / (2 * determinant[:, None])
    radius = np.sqrt((centre**2).sum(axis=1) + s / lengths)
    off = np.hypot(*(local - np.repeat(centre, lengths, axis=0)).T) - np.repeat(radius, lengths)
    rms = np.sqrt(np.add.reduceat(off * off, starts[:-1]) / lengths)
    return np.column_stack([centre + middle, radius]), rms


def _groups(circles: Any, lengths: Any) -> tuple[Any, Any]:
    """Sets of arcs that may belong to one ellipse (alone, two, or all that agree with one of them): the arcs of the
    first, then of the second and so on, and how many each has."""
    covered = lengths / (2 * np.pi * circles[:, 2])
    best = np.argsort(-covered * np.sqrt(lengths), kind="stable")[:ARCS_MOST]
    some, part = circles[best], covered[best]
    apart = np.hypot(some[:, None, 0] - some[:, 0], some[:, None, 1] - some[:, 1])
    smaller = np.minimum(some[:, None, 2], some[None, :, 2])
    larger = np.maximum(some[:, None, 2], some[None, :, 2])
    close = (apart < 0.3 * smaller) & (larger < 1.35 * smaller)
    first, second = np.nonzero(np.triu((apart < 0.6 * larger) & (larger < 2 * smaller), 1))
    together = np.minimum(part[first] + part[second], 1) - apart[first, second] / larger[first, second]
    pairs = np.argsort(-together, kind="stable")[:PAIRS_MOST]
    two = np.zeros((len(pairs), len(best)), bool)
    two[np.arange(len(pairs)), first[pairs]] = two[np.arange(len(pairs)), second[pairs]] = True
    members = np.concatenate([np.eye(len(best), dtype=bool)[part > ALONE_LEAST], close, two])
    members = members[np.unique(np.packbits(members, axis=1), axis=0, return_index=True)[1]]
    reach = members @ part
    members = members[np.argsort(-reach, kind="stable")[:GROUPS_MOST]]
    return best[np.nonzero(members)[1]], members.sum(axis=1)


def _samples(points: Any, starts: Any, arcs: Any, counts: Any) -> Any:
    """POINTS points of the arcs of each group, evenly along them."""
    lengths = np.diff(starts)[arcs]
    before = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.cumsum(counts)
    first, last = before[ends - counts], before[ends]
    along = (first[:, None] + (last - first)[:, None] * ((np.arange(POINTS) + 0.5) / POINTS)).astype(int)
    arc = np.searchsorted(before, along, "right") - 1
    return points[starts[arcs[arc]] + along - before[arc]]


def _fitted(samples: Any) -> Ellipses:
    """Direct least-squares ellipses (Halíř and Flusser), fitted again without the points that lie off; only those that
    follow their points closely and far enough around."""
    weight = np.ones(samples.shape[:2])
    for _ in range(3):
        found = _direct(samples, weight)
        off, turn = _in_frame(samples, found)
        size = np.nan_to_num(np.sqrt(found[:, 2] * found[:, 3]), nan=1.0)
        tolerance = np.clip(1 / np.maximum(size, 1), 0.02, 0.2)[:, None]
        weight = 1 / (1 + np.minimum(np.abs(off) / tolerance, 100) ** 2) ** 2
    near = np.abs(off) < 0.05
    bins = ((turn + np.pi) / (2 * np.pi) * BINS).astype(int) % BINS
    covered = np.zeros((len(samples), BINS), bool)
    rows = np.broadcast_to(np.arange(len(samples))[:, None], bins.shape)
    covered[rows[near], bins[near]] = True
    share = covered.mean(axis=1)
    sound = np.isfinite(found).all(axis=1) & (share > 0.25) & (near.mean(axis=1) > 0.5)
    with np.errstate(invalid="ignore"):
        sound &= (
            (found[:, 3] > SMALLEST_RADIUS / 2) & (found[:, 2] < LONGEST_RADIUS) & (found[:, 2] < 3.5 * found[:, 3])
        )
    order = np.argsort(-share * near.mean(axis=1), kind="stable")
    kept: Ellipses = found[order[sound[order]]]
    return kept


def _direct(samples: Any, weight: Any) -> Ellipses:
    total = weight.sum(axis=1)[:, None]
    middle = (samples * weight[..., None]).sum(axis=1) / total
    local = samples - middle[:, None]
    scale = np.sqrt((local**2).sum(axis=2) * weight).mean(axis=1) + 1e-6
    x, y = (local / scale[:, None, None]).transpose(2, 0, 1)
    quadratic, linear = np.stack([x * x, x * y, y * y], 2), np.stack([x, y, np.ones_like(x)], 2)
    weighted = np.swapaxes(linear * weight[..., None], 1, 2)
    inner = np.linalg.inv(weighted @ linear + 1e-9 * np.eye(3))
    mixed = weighted @ quadratic
    reduced = np.swapaxes(quadratic * weight[..., None], 1, 2) @ quadratic - np.swapaxes(mixed, 1, 2) @ inner @ mixed
    _, vectors = np.linalg.eig(_IN_ELLIPSE @ reduced)
    vectors = vectors.real
    elliptic = 4 * vectors[:, 0] * vectors[:, 2] - vectors[:, 1] ** 2
    conic = np.take_along_axis(vectors, elliptic.argmax(axis=1)[:, None, None], 2)[:, :, 0]
    rest = -(inner @ mixed @ conic[:, :, None])[:, :, 0]
    return _from_conic(conic, rest, middle, scale)


def _from_conic(conic: Any, rest: Any, middle: Any, scale: Any) -> Ellipses:
    """Centre, half axes and angle of a x² + b xy + c y² + d x + e y + f = 0; NaN where that is no ellipse."""
    a, b, c = conic.T
    d, e, f = rest.T
    with np.errstate(all="ignore"):
        below = 4 * a * c - b * b
        x, y = (b * e - 2 * c * d) / below, (b * d - 2 * a * e) / below
        level = -(f + (d * x + e * y) / 2)
        spread = np.hypot(a - c, b)
        one, other = np.sqrt(2 * level / (a + c - spread)), np.sqrt(2 * level / (a + c + spread))
        long, short = np.fmax(one, other), np.fmin(one, other)
        angle = 0.5 * np.arctan2(b, a - c) + np.where(one >= other, np.pi / 2, 0)
    both = np.where(np.isfinite(one + other), 1, np.nan) * scale
    found = [x * scale + middle[:, 0], y * scale + middle[:, 1], long * both, short * both, angle]
    bounded: Ellipses = np.clip(np.stack(found, axis=1), -FARTHEST, FARTHEST)
    return bounded


def _in_frame(samples: Any, found: Any) -> tuple[Any, Any]:
    """Distance of points from the ellipse as a share of its radius there, and their angle."""
    x, y, a, b, angle = (column[:, None] for column in np.nan_to_num(found, nan=1e-3).T)
    across, down = samples[..., 0] - x, samples[..., 1] - y
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = (across * cos + down * sin) / np.maximum(a, 1e-3), (down * cos - across * sin) / np.maximum(b, 1e-3)
    return np.hypot(u, v) - 1, np.arctan2(v, u)
