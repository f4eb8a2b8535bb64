"""The toy model at a walking pace, for tests that need work to last."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from toy_model import WordStatistics

PACE_S = 0.5


class PacedWords(WordStatistics):
    def forward(self, items: Sequence[list[str]]) -> list[Any]:
        threading.Event().wait(PACE_S)
        return super().forward(items)
