"""The reference engine: PyTorch, float32, on the accelerator when there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.models.preprocessing import Inputs


class TorchEngine:
    def __init__(self, network: Any, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # Full float32 products: the scores must not depend on the accelerator's rounding shortcuts.
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
