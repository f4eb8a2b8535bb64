"""What is measured of a picture and of an ellipse in it: gradients, contrast and rim, and from them a score.

Ellipses are rows `x, y, a, b, angle` in pixels of the working picture; `a` and `b` are the half axes, and the angle of
`a` is in radians. Everything is computed for all ellipses at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ellipses = NDArray[np.float64]

SIDE: Final = 512
"""Longest side of the working picture. Lengths below fit this size."""
RAYS: Final = 72
SECTORS: Final = 8
ANGLES: Final = np.arange(RAYS) * (2 * np.pi / RAYS)
HARMONICS: Final = np.stack(
    [np.ones(RAYS), np.cos(ANGLES), np.sin(ANGLES), np.cos(2 * ANGLES), np.sin(2 * ANGLES)], axis=1
)
REFINE_STEPS: Final = np.linspace(-1, 1, 21)
REFINE_ROUNDS: Final = 4
EDGE_MOST: Final = 12.0
FRAME: Final = 15

RIM: Final = np.array([0.96, 0.98, 1.0, 1.02, 1.04])
INSIDE: Final = np.array([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9])
OUTSIDE: Final = np.array([1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55, 1.6])
DISC: Final = np.array([0.15, 0.35, 0.55])
INNER_RING: Final = np.array([0.72, 0.79, 0.86, 0.93])
OUTER_RING: Final = np.array([1.07, 1.13, 1.19, 1.25])
COARSE_INNER: Final = np.array([0.85, 0.91, 0.97])
COARSE_OUTER: Final = np.array([1.05, 1.1, 1.15])


@dataclass(frozen=True, slots=True)
class Fields:
    """What is computed once for a picture: colours in CIE Lab, blurred colours, and the strongest gradient of the three
    channels at each pixel."""

    lab: Floats
    coarse: Floats
    gradients: Floats
    noise: float
    background: Floats

    @property
    def shape(self) -> tuple[int, int]:
        return self.lab.shape[0], self.lab.shape[1]


def fields(rgb: NDArray[np.uint8]) -> Fields:
    """Measures an RGB picture of the working size."""
    import cv2

    lab = np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.2)
    across = np.asarray(cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32), np.float32)
    down = np.asarray(cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32), np.float32)
    strongest = (across * across + down * down).argmax(axis=2)[..., None]
    gradients = np.concatenate(
        [np.take_along_axis(across, strongest, 2), np.take_along_axis(down, strongest, 2)], axis=2
    )
    frame = np.concatenate([side.reshape(-1, 3) for side in _frame(lab)])
    return Fields(
        lab,
        np.asarray(cv2.GaussianBlur(lab, (0, 0), 3), np.float32),
        np.ascontiguousarray(gradients),
        float(np.median(np.hypot(gradients[..., 0], gradients[..., 1]))),
        np.median(frame, axis=0).astype(np.float32),
    )


def _frame(lab: Floats) -> tuple[Floats, ...]:
    return lab[:FRAME], lab[-FRAME:], lab[:, :FRAME], lab[:, -FRAME:]


def boxes_of(ellipses: Ellipses) -> Ellipses:
    """The upright boxes around ellipses: `left, top, right, bottom`."""
    x, y, a, b, angle = ellipses.T
    cos, sin = np.cos(angle), np.sin(angle)
    half_width, half_height = np.hypot(a * cos, b * sin), np.hypot(a * sin, b * cos)
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def _points(ellipses: Ellipses, factors: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Positions on rays from the centre, (ellipses, factors, rays). `factors` is (steps,) or (ellipses, steps), and 1
    is the ellipse itself."""
    x, y, a, b, angle = (column[:, None, None] for column in ellipses.T)
    scale = factors[None, :, None] if factors.ndim == 1 else factors[:, :, None]
    along, beside = scale * a * np.cos(ANGLES), scale * b * np.sin(ANGLES)
    cos, sin = np.cos(angle), np.sin(angle)
    return (x + along * cos - beside * sin).astype(np.float32), (y + along * sin + beside * cos).astype(np.float32)


def _sample(values: Floats, at: tuple[Floats, Floats]) -> Floats:
    """Values (bilinear) at positions; the last axis is the channel."""
    import cv2

    shape = at[0].shape
    flat = [np.ascontiguousarray(axis.reshape(-1, RAYS)) for axis in at]
    rows = [
        cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for x, y in zip(*(np.array_split(axis, len(axis) // 30_000 + 1) for axis in flat), strict=True)
    ]
    return np.concatenate(rows).reshape(*shape, -1).astype(np.float32, copy=False)


def _seen(field: Fields, at: tuple[Floats, Floats]) -> NDArray[np.bool_]:
    height, width = field.shape
    x, y = at
    seen: NDArray[np.bool_] = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    return seen


def _across(
    field: Fields, ellipses: Ellipses, factors: NDArray[np.float64]
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Gradient along the ellipse's normal (positive: brighter outside), its share of the whole gradient (|cos|), and
    whether the position is inside the picture."""
    at = _points(ellipses, factors)
    gradient = _sample(field.gradients, at)
    _, _, a, b, angle = (column[:, None] for column in ellipses.T)
    along, beside = np.cos(ANGLES) / a, np.sin(ANGLES) / b
    length = np.hypot(along, beside)
    cos, sin = np.cos(angle), np.sin(angle)
    normal_x = ((along * cos - beside * sin) / length).astype(np.float32)[:, None]
    normal_y = ((along * sin + beside * cos) / length).astype(np.float32)[:, None]
    across = gradient[..., 0] * normal_x + gradient[..., 1] * normal_y
    share = np.abs(across) / np.maximum(np.hypot(gradient[..., 0], gradient[..., 1]), 1e-6)
    return across, share, _seen(field, at)


def refined(field: Fields, ellipses: Ellipses, reach: float = 0.08) -> Ellipses:
    """Ellipses moved onto the strongest edges nearby, by a robust fit of centre, size and shape."""
    if not len(ellipses):
        return ellipses
    size = np.sqrt(ellipses[:, 2] * ellipses[:, 3])
    window = np.clip(np.maximum(reach, 1.5 / size), 0, 0.2)
    offsets = window[:, None] * REFINE_STEPS
    across, share, seen = _across(field, ellipses, 1 + offsets)
    strength = np.minimum(np.abs(across) * share * share, EDGE_MOST) * seen
    strength = strength * np.exp(-0.5 * (REFINE_STEPS / 0.6) ** 2)[None, :, None].astype(np.float32)
    best = strength.argmax(axis=1)
    edge = np.take_along_axis(strength, best[:, None], 1)[:, 0].astype(np.float64)
    target = np.take_along_axis(np.broadcast_to(offsets[:, :, None], strength.shape), best[:, None], 1)[:, 0]
    weight = edge / (edge + 2 * field.noise + 0.3)
    tolerance = np.maximum(1 / size, 0.03)[:, None]
    return _moved(ellipses, _robust_fit(target, weight, tolerance))


def _robust_fit(target: Any, weight: Any, tolerance: Any) -> NDArray[np.float64]:
    """Harmonics of `target` over the rays, by iteratively reweighted least squares."""
    robust = np.ones_like(weight)
    ridge = np.diag([1e-3, 1e-2, 1e-2, 5e-2, 5e-2])
    solution = np.zeros((len(target), HARMONICS.shape[1]))
    for _ in range(REFINE_ROUNDS):
        weighted = (weight * robust)[:, :, None] * HARMONICS
        normal = np.swapaxes(weighted, 1, 2) @ HARMONICS + ridge
        solution = np.linalg.solve(normal, (np.swapaxes(weighted, 1, 2) @ target[:, :, None]))[:, :, 0]
        residual = target - solution @ HARMONICS.T
        robust = 1 / (1 + (residual / tolerance) ** 2)
    return solution


def _moved(ellipses: Ellipses, harmonics: NDArray[np.float64]) -> Ellipses:
    """The ellipses after a change of their radius along the rays, measured in the frame where each is a circle."""
    x, y, a, b, angle = ellipses.T
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1)
    mapping = turn * np.stack([a, b], 1)[:, None, :]
    grow, right, down, cos2, sin2 = harmonics.T
    stretch = np.stack([np.stack([1 + grow + cos2, sin2], 1), np.stack([sin2, 1 + grow - cos2], 1)], 1)
    centre = (mapping @ np.stack([right, down], 1)[:, :, None])[:, :, 0]
    axes, sizes, _ = np.linalg.svd(mapping @ stretch)
    return np.stack(
        [x + centre[:, 0], y + centre[:, 1], sizes[:, 0], sizes[:, 1], np.arctan2(axes[:, 1, 0], axes[:, 0, 0])], axis=1
    )


def _mean(values: Any, seen: Any, axis: Any = None) -> Any:
    return (values * seen).sum(axis) / np.maximum(seen.sum(axis), 1)


def _ring(field: Fields, values: Floats, ellipses: Ellipses, factors: NDArray[np.float64]) -> tuple[Any, Any]:
    """Mean colour per ray in a ring, (ellipses, rays, 3), and whether the ray is inside the picture there."""
    at = _points(ellipses, factors)
    seen = _seen(field, at)
    colours = _sample(values, at)
    return _mean(colours, seen[..., None], 1), seen.any(axis=1).astype(np.float32)


def _distance(one: Any, other: Any) -> Any:
    return np.sqrt(((one - other) ** 2).sum(-1))


def _quantile(values: Any, seen: Any, share: float) -> Any:
    """A quantile over the rays inside the picture."""
    ordered = np.sort(np.where(seen > 0, values, np.inf), axis=1)
    count = np.maximum(seen.sum(1), 1)
    place = np.minimum((share * count).astype(int), count.astype(int) - 1)
    found = np.take_along_axis(ordered, place[:, None], 1)[:, 0]
    return np.where(np.isfinite(found), found, 0)


def _longest_gap(supported: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Longest run of rays without support, as a share of the circle."""
    twice = np.concatenate([supported, supported], axis=1)
    places = np.arange(2 * RAYS)
    last = np.maximum.accumulate(np.where(twice, places, -1), axis=1)
    longest: NDArray[np.float64] = np.minimum((places - last).max(axis=1), RAYS) / RAYS
    return longest


FEATURES: Final = (
    "support_weak",
    "support",
    "support_strong",
    "rim_mean",
    "cos_mean",
    "sector_worst",
    "sector_third",
    "gap",
    "visible",
    "sign",
    "ring_mean",
    "ring_20",
    "ring_50",
    "coarse_mean",
    "coarse_20",
    "disc_background",
    "outer_background",
    "outer_background_30",
    "ring_spread",
    "gradient_inside",
    "gradient_outside",
    "gradient_ratio",
    "best_inside",
    "best_outside",
    "rim_to_outside",
    "size",
    "axis_ratio",
    "lightness",
    "noise",
    "agreement",
    "rival_around",
    "rival_inside",
    "chain_rim",
    "chain_gap",
    "chain_near",
    "chain_excess",
    "offset",
    "on_line",
    "on_line_one_side",
)


def features(
    field: Fields, ellipses: Ellipses, agreement: NDArray[np.float64], edges: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """One row of `FEATURES` per ellipse. `agreement` is the number of candidates that were merged into each, `edges` a
    mask of the edge chains."""
    across, share, seen = _across(field, ellipses, np.concatenate([INSIDE, RIM, OUTSIDE]))
    strength = np.abs(across) * seen
    aligned = np.where((share > 0.9) & seen, strength, 0)
    rim, inside, outside = slice(len(INSIDE), len(INSIDE) + len(RIM)), slice(len(INSIDE)), slice(-len(OUTSIDE), None)
    visible = seen[:, rim].any(axis=1)
    edge = aligned[:, rim].max(axis=1)
    strongest = strength[:, rim].argmax(axis=1)[:, None]
    sectors = (edge > 1.6).reshape(len(edge), SECTORS, -1)
    in_sector = _mean(sectors, visible.reshape(sectors.shape), 2)
    in_sector = np.sort(np.where(visible.reshape(sectors.shape).any(2), in_sector, 1), axis=1)
    signs = np.sign(np.take_along_axis(across[:, rim], strongest, 1)[:, 0]) * (edge > 0.8)
    rows = [_mean(edge > least, visible, 1) for least in (0.8, 1.6, 3.2)]
    rows += [
        _mean(np.minimum(edge, EDGE_MOST), visible, 1),
        _mean(np.take_along_axis(share[:, rim], strongest, 1)[:, 0], visible, 1),
        in_sector[:, 0],
        in_sector[:, 2],
        _longest_gap((edge > 0.8) & visible),
        visible.mean(axis=1),
        np.abs(signs.sum(1)) / np.maximum(np.abs(signs).sum(1), 1),
    ]
    rows += _contrasts(field, ellipses)
    calm_inside, calm_outside = (_mean(strength[:, part], seen[:, part], (1, 2)) for part in (inside, outside))
    best_inside, best_outside = (
        _mean(np.minimum(aligned[:, part], EDGE_MOST), seen[:, part], 2).max(axis=1) for part in (inside, outside)
    )
    rows += [
        calm_inside,
        calm_outside,
        np.log((calm_inside + 0.1) / (calm_outside + 0.1)),
        best_inside,
        best_outside,
        rows[3] / (best_outside + 0.2),
        np.sqrt(ellipses[:, 2] * ellipses[:, 3]) / SIDE,
        ellipses[:, 2] / ellipses[:, 3],
        _lightness(field, ellipses),
        np.full(len(ellipses), field.noise),
        np.log1p(agreement),
        *_rivals(ellipses, rows[3]),
        *_on_chains(field, ellipses, edges),
        *_sharpness(field, ellipses),
    ]
    return np.stack([np.asarray(row, np.float64) for row in rows], axis=1)


def _contrasts(field: Fields, ellipses: Ellipses) -> list[Any]:
    inner, inner_seen = _ring(field, field.lab, ellipses, INNER_RING)
    outer, outer_seen = _ring(field, field.lab, ellipses, OUTER_RING)
    both = inner_seen * outer_seen
    ring = _distance(inner, outer)
    coarse_inner, _ = _ring(field, field.coarse, ellipses, COARSE_INNER)
    coarse_outer, coarse_seen = _ring(field, field.coarse, ellipses, COARSE_OUTER)
    coarse = _distance(coarse_inner, coarse_outer)
    disc, disc_seen = _ring(field, field.lab, ellipses, DISC)
    beyond = _distance(outer, field.background)
    mean = _mean(inner, inner_seen[..., None], 1)
    return [
        _mean(ring, both, 1),
        _quantile(ring, both, 0.2),
        _quantile(ring, both, 0.5),
        _mean(coarse, coarse_seen, 1),
        _quantile(coarse, coarse_seen, 0.2),
        _quantile(_distance(disc, field.background), disc_seen, 0.5),
        _quantile(beyond, outer_seen, 0.5),
        _quantile(beyond, outer_seen, 0.3),
        _mean(_distance(inner, mean[:, None]), inner_seen, 1),
    ]


def _lightness(field: Fields, ellipses: Ellipses) -> Any:
    inner, inner_seen = _ring(field, field.lab, ellipses, INNER_RING)
    outer, outer_seen = _ring(field, field.lab, ellipses, OUTER_RING)
    return _mean(inner[..., 0], inner_seen, 1) - _mean(outer[..., 0], outer_seen, 1)


def _rivals(ellipses: Ellipses, support: Any) -> list[Any]:
    """Best support of an ellipse around each, and of one inside it, with nearly the same centre."""
    size = np.sqrt(ellipses[:, 2] * ellipses[:, 3])
    apart = np.hypot(ellipses[:, None, 0] - ellipses[:, 0], ellipses[:, None, 1] - ellipses[:, 1])
    ratio = size[None, :] / size[:, None]
    near = apart < 0.3 * np.minimum(size[:, None], size[None, :])
    around, inside = near & (ratio > 1.05) & (ratio < 1.8), near & (ratio < 1 / 1.05) & (ratio > 0.5)
    return [np.where(around, support, 0).max(axis=1), np.where(inside, support, 0).max(axis=1)]


def _on_chains(field: Fields, ellipses: Ellipses, edges: NDArray[np.uint8]) -> list[Any]:
    """How much of the rim lies on edge chains that run along it, its longest gap, the density of chains around, and how
    much more the rim has."""
    size = np.sqrt(ellipses[:, 2] * ellipses[:, 3])[:, None]
    rim = 1 + np.array([-1.0, 0.0, 1.0]) / size
    _, share, seen = _across(field, ellipses, rim)
    chains = edges.astype(np.float32)
    on = (_sample(chains, _points(ellipses, rim))[..., 0] > 0.4) & seen
    met: Any = (on & (share > 0.9)).any(axis=1)
    visible = seen.any(axis=1)
    near = np.array([0.7, 0.78, 0.86, 1.14, 1.22, 1.3])
    at = _points(ellipses, near)
    around = _mean(_sample(chains, at)[..., 0] > 0.4, _seen(field, at), (1, 2))
    cover = _mean(met, visible, 1)
    return [cover, _longest_gap(met), around, cover - np.minimum(3 * around, 1)]


def _sharpness(field: Fields, ellipses: Ellipses) -> list[Any]:
    """How far the strongest edge of a ray lies from the ellipse, on which share of the rays it lies on it, and on
    which it does so with the same side brighter."""
    size = np.sqrt(ellipses[:, 2] * ellipses[:, 3])
    offsets = np.clip(np.maximum(0.12, 2.5 / size), 0, 0.3)[:, None] * REFINE_STEPS
    across, share, seen = _across(field, ellipses, 1 + offsets)
    strength = np.abs(across) * seen
    best = strength.argmax(axis=1)[:, None]
    off = np.abs(np.take_along_axis(np.broadcast_to(offsets[:, :, None], strength.shape), best, 1)[:, 0])
    off, limit = off * size[:, None], np.maximum(1.0, 0.02 * size)[:, None]
    aligned = np.take_along_axis(share, best, 1)[:, 0] > 0.9
    strong = np.take_along_axis(strength, best, 1)[:, 0] > 0.4
    on = (off <= limit) & aligned & strong
    visible = seen.any(axis=1)
    brighter = np.take_along_axis(across, best, 1)[:, 0] > 0
    one_side = np.maximum((on & brighter).sum(1), (on & ~brighter).sum(1)) / np.maximum(visible.sum(1), 1)
    return [_mean(np.minimum(off / limit, 6), visible, 1), _mean(on, visible, 1), one_side]
