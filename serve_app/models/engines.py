"""What runs the forward pass of an image classifier, chosen by ENGINE: PyTorch, the reference, or OpenVINO."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models.preprocessing import Inputs
from serve_app.settings import Settings

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Logits (n, classes) to scores."""
TOLERANCE = 1e-4
"""Largest difference allowed between a score and torch's; the order of float32 sums changes their last bits."""
CHECKED_IMAGES = 8


class Engine(Protocol):
    """A loaded network. Used by one thread, the one that loaded it."""

    device: str

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """One row of class logits per image, from what the image processor made of n images: usually `pixel_values`,
        float32 (n, channels, height, width)."""
        ...

    def describe(self) -> Json:
        """`engine`, `precision` and, except for the reference, how closely it agrees with the reference."""
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
    """The engine that ENGINE names, for a network of `checkpoint.load_network`.

    `shape` is (channels, height, width) of every input, None if they vary; `score` turns logits into scores. Raises
    `ModelUnready` with what to install or set.
    """
    threads = settings.inference_threads or processors()
    if settings.engine == "openvino":
        return OpenvinoEngine(network, shape, score, threads)
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


class TorchEngine:
    def __init__(self, network: Any, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # Full float32 products, so that scores do not depend on the accelerator's reduced precision.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._network = network.to(self.device)

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array).to(self.device) for name, array in inputs.items()}
            answer: NDArray[np.float32] = self._network(**tensors).logits.cpu().numpy()
        return answer

    def describe(self) -> Json:
        return {"engine": "torch", "precision": "fp32"}


class OpenvinoEngine:
    device = "cpu"

    def __init__(self, network: Any, shape: tuple[int, ...] | None, score: Score, threads: int) -> None:
        # Importing OpenVINO's converter sends telemetry over the network; without this module it works and sends none.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what the import system allows
        if shape is None:
            raise ModelUnready("ENGINE=openvino needs a model whose inputs all have one shape. Set ENGINE=torch.")
        if find_spec("openvino") is None:
            raise ModelUnready(
                "ENGINE=openvino needs the extra: pip install 'sem-image-classifier[openvino]', or set ENGINE=torch."
            )
        import torch

        torch.set_num_threads(threads)
        batch = calibration_batch(shape)
        with torch.inference_mode():
            expected = network(torch.from_numpy(batch)).logits.numpy()
            try:
                self._compiled = _compile(network, batch, threads)
            except Exception as error:  # OpenVINO lets the exceptions of its front ends and plugins through
                raise ModelUnready(f"OpenVINO cannot run this model ({error}). Set ENGINE=torch.") from error
        self._agreement = float(np.abs(score(expected) - score(self.logits({"pixel_values": batch}))).max())
        if not self._agreement <= TOLERANCE:
            raise ModelUnready(
                f"OpenVINO differs from torch by {self._agreement:.1e} in a score (allowed: {TOLERANCE:.0e}). "
                "Set ENGINE=torch."
            )

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = np.array(self._compiled(inputs["pixel_values"])["logits"])
        return answer

    def describe(self) -> Json:
        return {
            "engine": "openvino",
            "precision": "fp32",
            "agreement": {"reference": "torch fp32", "images": CHECKED_IMAGES, "largest_difference": self._agreement},
        }


def _compile(network: Any, batch: NDArray[np.float32], threads: int) -> Any:
    import openvino
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter still uses torch.jit, which torch deprecates
        converted = openvino.convert_model(network, example_input=torch.from_numpy(batch[:1]))
    converted.reshape([-1, *batch.shape[1:]])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(converted, "CPU", options)


def calibration_batch(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The same few images every time, already normalised: noise of several grain sizes on a gradient."""
    source = np.random.default_rng(20_240_607)
    _, height, width = shape
    slope = np.linspace(-1, 1, width, dtype=np.float32)
    batch = np.empty((CHECKED_IMAGES, *shape), dtype=np.float32)
    for index, place in enumerate(batch):
        grain = 1 << (index % 4 * 2)
        coarse = source.standard_normal((height // grain + 1, width // grain + 1), dtype=np.float32)
        place[:] = np.clip(np.kron(coarse, np.ones((grain, grain), np.float32))[:height, :width] / 2 + slope, -1, 1)
    return batch
