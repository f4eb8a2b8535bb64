"""The served classifier, which on request does what no model should: kill its process, or never return."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.models.contract import Prepared
from serve_app.models.sem_classifier import ClassifierParams, Recipe, SemClassifier


class Act(ClassifierParams):
    """What the forward pass does beside classifying."""

    act: Literal["none", "die", "hang"] = "none"


class ActingClassifier(SemClassifier):
    """Takes images as the classifier does; the hostile ones are told by their parameter."""

    Params = Act

    @staticmethod
    def preprocess(data: bytes | None, params: Any, recipe: Recipe) -> Prepared:
        prepared = SemClassifier.preprocess(data, params, recipe)
        return Prepared((params.act, prepared.item), prepared.notes)

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        for act, _ in items:
            if act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if act == "hang":
                threading.Event().wait()
        return super().forward([pixels for _, pixels in items])

    def warm_up_input(self) -> tuple[bytes, Any]:
        return super().warm_up_input()[0], Act()
