"""One forward pass for many items, in which an item that fails does not fail the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from serve_app.errors import ModelRejected, ModelTimedOut, ModelUnready, ReplicaLost
from serve_app.models.contract import Model
from serve_app.models.forward import ForwardThread

log = logging.getLogger(__name__)


class Batch:
    """Runs batches of one loaded model in its forward thread."""

    def __init__(self, model: Model, thread: ForwardThread, known_good: Any, deadline_s: float) -> None:
        """`known_good` is the prepared warm-up item: where it fails too, the model is at fault and not the input."""
        self._model = model
        self._thread = thread
        self._known_good = known_good
        self._deadline_s = deadline_s

    async def run(self, items: Sequence[Any]) -> list[Any]:
        """One output, or `ModelRejected` or `ModelTimedOut`, per item, in order.

        A single item whose forward pass hangs is the cause (`ModelTimedOut`). Raises `ReplicaLost` with `hung` when one
        with several items hangs, without it when the thread hung before, `ModelUnready` when the model fails on the
        warm-up item too.
        """
        try:
            return await self._forward(items)
        except ReplicaLost as error:
            return self._blamed(items, error)
        except Exception:
            log.exception("a batch of %d failed; its items run one by one", len(items))
        try:
            answers = [await self._single(item) for item in items]
        except ReplicaLost as error:
            return self._blamed(items, error)
        if any(isinstance(answer, ModelRejected) for answer in answers):
            await self._check_model()
        return answers

    def _blamed(self, items: Sequence[Any], error: ReplicaLost) -> list[Any]:
        """The failure of the only item of a pass that hangs; of several none is blamed, and the error is raised."""
        if error.hung and len(items) == 1:
            return [ModelTimedOut(f"The model did not finish this input within {self._deadline_s:g} s.")]
        raise error

    async def _single(self, item: Any) -> Any:
        try:
            return (await self._forward([item]))[0]
        except ReplicaLost:
            raise
        except ModelRejected as error:
            return error
        except Exception as error:
            return ModelRejected(f"The model failed on this input: {type(error).__name__}.")

    async def _check_model(self) -> None:
        try:
            await self._forward([self._known_good])
        except ReplicaLost:
            raise
        except Exception as error:
            raise ModelUnready(f"The model fails on its own warm-up input: {type(error).__name__}: {error}") from error

    async def _forward(self, items: Sequence[Any]) -> list[Any]:
        outputs = list(await self._thread.run(self._model.forward, items, deadline_s=self._deadline_s))
        if len(outputs) != len(items):
            raise ValueError(f"forward gave {len(outputs)} outputs for {len(items)} items")
        return outputs
