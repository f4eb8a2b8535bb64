"""What runs the forward pass of an image classifier; chosen by ENGINE."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.models.snapshot import Snapshot
from serve_app.settings import Settings

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Engine(Protocol):
    """A loaded network. Used by one thread, the one that loaded it."""

    device: str

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of a normalised batch (n, 3, size, size): one row of class logits per image."""
        ...

    def describe(self) -> Json:
        """`engine`, `precision` and, where it is not the reference, how well it agrees with it."""
        ...


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores over all classes, row by row, in float64."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    scores: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return scores


def load_engine(snapshot: Snapshot, size: int, settings: Settings) -> Engine:
    """The engine that ENGINE names, loaded. Raises `ModelUnready` with what to install or fetch."""
    threads = settings.inference_threads or processors()
    if settings.engine == "openvino":
        from serve_app.models.openvino_engine import OpenvinoEngine

        return OpenvinoEngine(snapshot, size, threads)
    from serve_app.models.torch_engine import TorchEngine

    return TorchEngine(snapshot, threads)


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
