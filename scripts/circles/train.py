"""Fits the score of the model `circles` on generated scenes: boosted symmetric trees, squared error..

    PYTHONPATH=.:scripts python -m circles.train [--scenes 600] [--trees 200]

writes `serve_app/models/circle_trees.safetensors` and prints how well boxes of other scenes are told apart. The same
versions of OpenCV and numpy give the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from circles.scenes import Scene, coins, spheres
from serve_app.models import circle_score, circle_search
from serve_app.models.circle_features import SIDE, boxes_of

DEPTH: Final = 4
RATE: Final = 0.06
BINS: Final = 64
RIDGE: Final = 5.0
PART: Final = 40
"""Scenes at once."""
NEGATIVES: Final = 30
"""Most candidates of a scene that lie on nothing, and are learned from."""
Numbers = NDArray[np.float64]


def scenes(first: int, count: int) -> Iterator[Scene]:
    """Three quarters coins, one quarter spheres."""
    for seed in range(first, first + count):
        yield spheres(seed) if seed % 4 == 3 else coins(seed)


def rows(first: int, count: int) -> tuple[Numbers, Numbers]:
    """Features of the candidates of scenes, and how well each fits a true object, from 0 (IoU 0.4) to 1 (0.95)."""
    random = np.random.default_rng(first)
    features, targets = [], []
    for scene in scenes(first, count):
        pixels = circle_search.without_bar(scene.pixels)
        rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        found, values = circle_search.proposals(circle_search.resized(rgb, SIDE, enlarge=True))
        if not len(found):
            continue
        best = _best_overlap(found, scene.boxes, (pixels.shape[1], pixels.shape[0]))
        nothing = np.flatnonzero(best < 0.3)
        left_out = random.permutation(nothing)[NEGATIVES:]
        keep = np.setdiff1d(np.arange(len(found)), left_out)
        features.append(values[keep])
        targets.append(np.clip((best[keep] - 0.4) / 0.55, 0, 1))
    return np.concatenate(features), np.concatenate(targets)


def _best_overlap(found: Numbers, truth: Numbers, size: tuple[int, int]) -> Numbers:
    if not len(truth):
        return np.zeros(len(found))
    boxes = np.clip(boxes_of(found) + 0.5, 0, size * 2)
    union = circle_search.overlaps(np.concatenate([boxes, truth]))[0]
    best: Numbers = union[: len(boxes), len(boxes) :].max(axis=1)
    return best


def fit(features: Numbers, targets: Numbers, count: int) -> dict[str, NDArray[Any]]:
    """Trees whose nodes of one level share one question, so that a leaf's number is made of DEPTH bits."""
    quantiles = np.quantile(features, np.linspace(0, 1, BINS + 1)[1:-1], axis=0).astype(np.float32)
    binned = np.stack([np.searchsorted(quantiles[:, at], column, "left") for at, column in enumerate(features.T)], 1)
    places = binned + np.arange(features.shape[1]) * BINS
    score = np.full(len(targets), targets.mean())
    asked, limits, leaves = [], [], []
    for _ in range(count):
        rest = targets - score
        leaf, questions = np.zeros(len(rest), np.int64), []
        for _level in range(DEPTH):
            feature, cut = _best_question(places, leaf, rest, features.shape[1])
            leaf = leaf * 2 + (binned[:, feature] > cut)
            questions.append((feature, float(quantiles[min(cut, BINS - 2), feature])))
        sums, counts = (np.bincount(leaf, weight, 1 << DEPTH) for weight in (rest, np.ones(len(rest))))
        values = RATE * sums / (counts + RIDGE)
        score += values[leaf]
        asked.append([feature for feature, _ in questions])
        limits.append([limit for _, limit in questions])
        leaves.append(values)
    return {
        "features": np.array(asked, np.int32),
        "limits": np.array(limits, np.float32),
        "leaves": np.array(leaves, np.float32),
        "start": np.array([targets.mean()], np.float32),
    }


def _best_question(places: Any, leaf: Any, rest: Any, features: int) -> tuple[int, int]:
    """The feature and bin whose split lowers the squared error most, in all leaves together."""
    groups = int(leaf.max()) + 1
    index = (places + (leaf * features * BINS)[:, None]).ravel()
    shape = (groups, features, BINS)
    sums = np.bincount(index, np.repeat(rest, features), groups * features * BINS).reshape(shape).cumsum(axis=2)
    counts = np.bincount(index, minlength=groups * features * BINS).reshape(shape).cumsum(axis=2)
    above, more = sums[..., -1:] - sums, counts[..., -1:] - counts
    gain = (sums**2 / (counts + RIDGE) + above**2 / (more + RIDGE)).sum(axis=0)[:, :-1]
    feature, cut = np.unravel_index(int(gain.argmax()), gain.shape)
    return int(feature), int(cut)


def main() -> None:
    """Generates, fits, writes, and measures on scenes that were not learned from."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scenes", type=int, default=600)
    arguments.add_argument("--trees", type=int, default=200)
    chosen = arguments.parse_args()
    parts = [rows(first, PART) for first in range(10_000, 10_000 + chosen.scenes, PART)]
    features, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    trees = fit(features, targets, chosen.trees)
    save_file(trees, Path(circle_score.TREES))
    others, truth = rows(90_000, 2 * PART)
    error = float(np.sqrt(((circle_score.evaluate(trees, others) - truth) ** 2).mean()))
    print(f"{len(features)} candidates of {len(parts) * PART} scenes; error on {len(others)} others {error:.4f}")


if __name__ == "__main__":
    main()
