"""Versions of the classifier that nobody should have released."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.models.sem_classifier import SemClassifier

PAUSE_S = 4.0


class RaisingClassifier(SemClassifier):
    """Loads well, and raises at every image."""

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        raise RuntimeError("this version is broken")


class SlowClassifier(SemClassifier):
    """Right, but slow: a backlog before it lasts until other pods have come."""

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        time.sleep(PAUSE_S)  # as if it computed
        return super().forward(items)
