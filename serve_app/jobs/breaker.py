"""A circuit breaker: keeps jobs away from a model that does not work, and decides when to try it again."""

from __future__ import annotations

import random
from typing import Literal

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0


class Breaker:
    """Closed: jobs may go to the model. Half open: one warm-up may. Open: nothing, until `delay` has passed.

    It starts half open, because no model is trusted before its first warm-up.
    """

    def __init__(self) -> None:
        self._state: Literal["closed", "half open", "open"] = "half open"
        self._failures = 0
        self.reason: str | None = None
        """Why it opened; None before the first failure and after a success."""

    @property
    def closed(self) -> bool:
        return self._state == "closed"

    @property
    def delay(self) -> float:
        """Seconds before the next warm-up: doubled by every failure, with jitter so that processes do not retry
        together."""
        if self._state != "open":
            return 0.0
        longest: float = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._failures - 1, 16))
        return longest * random.uniform(0.5, 1.0)

    def open(self, reason: str) -> None:
        """The model failed. Several failures while it is open count once."""
        if self._state != "open":
            self._failures += 1
        self._state = "open"
        self.reason = reason

    def half_open(self) -> None:
        """The delay has passed: try one warm-up."""
        self._state = "half open"

    def require_warm_up(self) -> None:
        """Require a warm-up, without delay, before the model gets more jobs. Changes nothing unless the breaker is
        closed."""
        if self.closed:
            self._state = "half open"

    def close(self) -> None:
        """The warm-up passed."""
        self._state = "closed"
        self.reason = None

    def succeed(self) -> None:
        """A job succeeded: the next failure counts as the first."""
        self._failures = 0
