"""OpenVINO on the CPU, float32: held to torch's answers at every load."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models.engine import Score
from serve_app.models.preprocessing import Inputs

TOLERANCE = 1e-4
"""Largest difference of any score to torch's; the last bits of float32 sums differ with their order."""
CHECKED_IMAGES = 8


class OpenvinoEngine:
    device = "cpu"

    def __init__(self, network: Any, shape: tuple[int, ...] | None, score: Score, threads: int) -> None:
        # Importing its converter reports to its makers over the network. Without the reporter it goes on in silence.
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
            except Exception as error:  # it raises what its front ends and plugins raise
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
        warnings.simplefilter("ignore")  # the converter still uses torch.jit, which torch warns of
        converted = openvino.convert_model(network, example_input=torch.from_numpy(batch[:1]))
    converted.reshape([-1, *batch.shape[1:]])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(converted, "CPU", options)


def calibration_batch(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The same few images every time, already normalised: noise of several grain sizes over a slope."""
    source = np.random.default_rng(20_240_607)
    _, height, width = shape
    slope = np.linspace(-1, 1, width, dtype=np.float32)
    batch = np.empty((CHECKED_IMAGES, *shape), dtype=np.float32)
    for index, place in enumerate(batch):
        grain = 1 << (index % 4 * 2)
        coarse = source.standard_normal((height // grain + 1, width // grain + 1), dtype=np.float32)
        place[:] = np.clip(np.kron(coarse, np.ones((grain, grain), np.float32))[:height, :width] / 2 + slope, -1, 1)
    return batch
