"""What runs the forward pass of an image classifier; chosen by ENGINE."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.models.preprocessing import Inputs
from serve_app.settings import Settings

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Logits (n, classes) to scores."""


class Engine(Protocol):
    """A loaded network. Used by one thread, the one that loaded it."""

    device: str

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """Of what the image processor made of n images, mostly `pixel_values` (n, channels, height, width) of float32:
        one row of class logits per image."""
        ...

    def describe(self) -> Json:
        """`engine`, `precision` and, where it is not the reference, how well it agrees with it."""
        ...


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores over all classes, row by row, in float64."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    scores: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return scores


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """One independent score per class, in float64."""
    scores: NDArray[np.float64] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return scores


def load_engine(network: Any, shape: tuple[int, ...] | None, score: Score, settings: Settings) -> Engine:
    """The engine that ENGINE names, for a network of `torch_engine.load_network`.

    `shape` is (channels, height, width) of every input, None where they vary; `score` makes scores of logits. Raises
    `ModelUnready` with what to install or set.
    """
    threads = settings.inference_threads or processors()
    if settings.engine == "openvino":
        from serve_app.models.openvino_engine import OpenvinoEngine

        return OpenvinoEngine(network, shape, score, threads)
    from serve_app.models.torch_engine import TorchEngine

    return TorchEngine(network, threads)


def processors() -> int:
    """Processors this process may use: its affinity, cut to the container's quota (cgroup v2), at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    if quota == "max":
        return count
    return max(1, min(count, math.ceil(int(quota) / int(period))))
