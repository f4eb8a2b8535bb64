"""The reference engine: PyTorch, float32, on the accelerator when there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models.snapshot import Snapshot


def load_network(snapshot: Snapshot) -> Any:
    """The snapshot's classifier as a torch module in float32: local safetensors, no foreign code."""
    import torch
    from transformers import AutoModelForImageClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would go into the replica's log
    try:
        network = AutoModelForImageClassification.from_pretrained(
            snapshot.folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:  # transformers raises what its parsers raise; the folder is the cause of all of it
        raise ModelUnready(f"{snapshot.folder} cannot be loaded: {error}") from error
    return network.eval()


class TorchEngine:
    def __init__(self, snapshot: Snapshot, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # Full float32 products: the scores must not depend on the accelerator's rounding shortcuts.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._network = load_network(snapshot).to(self.device)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            answer: NDArray[np.float32] = self._network(torch.from_numpy(batch).to(self.device)).logits.cpu().numpy()
        return answer

    def describe(self) -> Json:
        return {"engine": "torch", "precision": "fp32"}
