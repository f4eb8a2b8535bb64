"""Models of the benchmark instance."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.models.sem_classifier import SemClassifier
from serve_app.settings import Settings

NAP_S = 600.0


class Sleeper(SemClassifier):
    """Takes jobs and computes nothing, so that accepting can be measured beside an idle model."""

    def load(self, settings: Settings) -> None:
        super().load(settings)
        self.warm_up_item = self.preprocess(*self.warm_up_input(), self.recipe).item

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        if not all(np.array_equal(item, self.warm_up_item) for item in items):
            threading.Event().wait(NAP_S)
        return super().forward(items)
