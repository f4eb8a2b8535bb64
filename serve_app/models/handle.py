"""How a gateway calls the replicas of a model. Ray's errors become the two that the dispatcher handles."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from serve_app.contracts import Outcome, Task
from serve_app.errors import ModelUnready, ReplicaLost
from serve_app.library_internals import is_assigned

PREDICT_TIMEOUT_S = 600.0
"""Last resort: a dead replica is noticed at once and a hung forward pass after FORWARD_TIMEOUT_S."""
WARM_UP_TIMEOUT_S = 120.0
"""Long enough for a replica that has to be started first."""

DRAINING = "This gateway is shutting down; another one sends the chunk."

UNREADY = (RayTaskError, BackPressureError, DeploymentUnavailableError)
"""The deployment answered with an error. Any other exception of Ray means that the replica, its node or the connection
is lost, and that the chunk may or may not have run."""


class ServeHandle:
    """`contracts.ModelHandle` on a Serve deployment handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._calls: set[DeploymentResponse[Any]] = set()
        self._draining = False

    async def predict(self, chunk: Sequence[Task]) -> list[Outcome]:
        if self._draining:
            raise ModelUnready(DRAINING)
        call = cast("DeploymentResponse[Any]", self._handle.predict.remote(list(chunk)))
        self._calls.add(call)
        try:
            outcomes: list[Outcome] = await _bounded(call, PREDICT_TIMEOUT_S)
        except TimeoutError as error:
            raise ReplicaLost(f"No answer from the model within {PREDICT_TIMEOUT_S:g} s.") from error
        except ReplicaLost as error:
            if call not in self._calls:
                raise ModelUnready(DRAINING) from error
            raise
        finally:
            self._calls.discard(call)
        return outcomes

    def drain(self) -> None:
        self._draining = True
        for call in [call for call in self._calls if not is_assigned(call)]:
            self._calls.discard(call)  # tells `predict` that it was cancelled here
            call.cancel()

    async def warm_up(self) -> str:
        try:
            version: str = await _bounded(self._handle.warm_up.remote(), WARM_UP_TIMEOUT_S)
        except TimeoutError as error:
            raise ModelUnready(f"No replica of the model answered within {WARM_UP_TIMEOUT_S:g} s.") from error
        return version


async def _bounded(call: Any, timeout_s: float) -> Any:
    """The call's value, or `TimeoutError`. A caller that stops waiting also cancels the call in the replica."""
    response = cast("DeploymentResponse[Any]", call)
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            return await response
    except asyncio.CancelledError:
        response.cancel()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Our caller did not cancel: the replica was stopped while it held the call.
        raise ReplicaLost("The model replica was stopped.") from None
    except Exception as error:
        if deadline.expired():
            response.cancel()
            raise
        raise _translated(error) from error


def _translated(error: Exception) -> ReplicaLost | ModelUnready:
    """Ray returns this service's errors as RayTaskErrors with the replica's traceback; the dispatcher needs the
    originals."""
    if isinstance(error, ReplicaLost):
        return ReplicaLost(error.detail, hung=error.hung)
    if isinstance(error, ModelUnready):
        return ModelUnready(error.detail)
    kind = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(error, UNREADY):
        return ModelUnready(f"The model deployment failed: {type(kind).__name__}.")
    return ReplicaLost(f"The model replica was lost: {type(kind).__name__}.")
