"""A version of the classifier that nobody should have released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.models.sem_classifier import SemClassifier


class RaisingClassifier(SemClassifier):
    """Loads well, and raises at every image."""

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        raise RuntimeError("this version is broken")
