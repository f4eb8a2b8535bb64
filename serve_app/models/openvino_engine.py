"""OpenVINO on the CPU, float32: twice as fast as torch there, and held to torch's answers at every load."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models.engine import softmax
from serve_app.models.snapshot import Snapshot
from serve_app.models.torch_engine import load_network

TOLERANCE = 1e-4
"""Largest difference of any score to torch's; the last bits of float32 sums differ with their order."""
CHECKED_IMAGES = 8


class OpenvinoEngine:
    device = "cpu"

    def __init__(self, snapshot: Snapshot, size: int, threads: int) -> None:
        # Importing its converter reports to its makers over the network. Without the reporter it goes on in silence.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what the import system allows
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ModelUnready(
                "ENGINE=openvino needs the extra: pip install 'sem-image-classifier[openvino]', or set ENGINE=torch."
            ) from error
        import torch

        torch.set_num_threads(threads)
        network = load_network(snapshot)
        batch = calibration_batch(size)
        with torch.inference_mode():
            expected = network(torch.from_numpy(batch)).logits.numpy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the converter still uses torch.jit, which torch warns of
                converted = openvino.convert_model(network, example_input=torch.from_numpy(batch[:1]))
        converted.reshape([-1, 3, size, size])
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._compiled: Any = openvino.Core().compile_model(converted, "CPU", options)
        self._agreement = float(np.abs(softmax(expected) - softmax(self.logits(batch))).max())
        if not self._agreement <= TOLERANCE:
            raise ModelUnready(
                f"OpenVINO differs from torch by {self._agreement:.1e} in a score (allowed: {TOLERANCE:.0e}). "
                "Set ENGINE=torch."
            )

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = np.array(self._compiled(batch)["logits"])
        return answer

    def describe(self) -> Json:
        return {
            "engine": "openvino",
            "precision": "fp32",
            "agreement": {"reference": "torch fp32", "images": CHECKED_IMAGES, "largest_difference": self._agreement},
        }


def calibration_batch(size: int) -> NDArray[np.float32]:
    """The same few images every time, already normalised: noise of several grain sizes over a slope."""
    source = np.random.default_rng(20_240_607)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    batch = np.empty((CHECKED_IMAGES, 3, size, size), dtype=np.float32)
    for index, place in enumerate(batch):
        grain = 1 << (index % 4 * 2)
        coarse = source.standard_normal((size // grain + 1, size // grain + 1), dtype=np.float32)
        place[:] = np.clip(np.kron(coarse, np.ones((grain, grain), np.float32))[:size, :size] / 2 + slope, -1, 1)
    return batch
