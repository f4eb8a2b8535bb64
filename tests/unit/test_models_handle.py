"""What Ray raises becomes one of the two errors that the dispatcher knows."""

import asyncio

import grpc
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError, WorkerCrashedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from serve_app.errors import ModelUnready, ReplicaLost
from serve_app.models.handle import ServeHandle


class Response:
    """What a deployment handle gives back: awaitable once, and can be cancelled."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.cancelled = False

    def __await__(self):
        if self.answer is None:
            yield from asyncio.Event().wait().__await__()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def cancel(self) -> None:
        self.cancelled = True


class Method:
    def __init__(self, response: Response) -> None:
        self.response = response

    def remote(self, *arguments: object) -> Response:
        return self.response


class Deployment:
    def __init__(self, response: Response) -> None:
        self.predict = self.warm_up = Method(response)


def raised_in_replica(cause: Exception) -> Exception:
    return RayTaskError("predict", "a traceback", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ActorDiedError(), ReplicaLost),
        (ActorUnavailableError("gone", b"\0" * 16), ReplicaLost),
        (WorkerCrashedError(), ReplicaLost),
        (ReplicaUnavailableError("one"), ReplicaLost),
        (RuntimeError("Unexpected error (UNAVAILABLE)"), ReplicaLost),
        (grpc.RpcError(), ReplicaLost),
        (asyncio.CancelledError(), ReplicaLost),
        (raised_in_replica(ReplicaLost("hangs")), ReplicaLost),
        (raised_in_replica(ModelUnready("no weights")), ModelUnready),
        (raised_in_replica(KeyError("a defect")), ModelUnready),
        (raised_in_replica(TimeoutError("inside")), ModelUnready),
        (BackPressureError(1, 1), ModelUnready),
        (DeploymentUnavailableError(DeploymentID(name="words")), ModelUnready),
    ],
)
async def test_errors_are_translated(error: BaseException, expected: type[Exception]):
    handle = ServeHandle(Deployment(Response(error)))
    for call in (handle.predict([]), handle.warm_up()):
        with pytest.raises((ReplicaLost, ModelUnready)) as caught:
            await call
        assert type(caught.value) is expected


async def test_our_sentence_survives_the_way():
    handle = ServeHandle(Deployment(Response(raised_in_replica(ModelUnready("no weights")))))
    with pytest.raises(ModelUnready) as caught:
        await handle.warm_up()
    assert caught.value.detail == "no weights"


async def test_who_stops_waiting_cancels_the_call():
    response = Response(None)
    waiting = asyncio.create_task(ServeHandle(Deployment(response)).predict([]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert response.cancelled


async def test_a_call_has_a_deadline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve_app.models.handle.PREDICT_TIMEOUT_S", 0.01)
    monkeypatch.setattr("serve_app.models.handle.WARM_UP_TIMEOUT_S", 0.01)
    response = Response(None)
    handle = ServeHandle(Deployment(response))
    with pytest.raises(ReplicaLost):
        await handle.predict([])
    assert response.cancelled
    with pytest.raises(ModelUnready):
        await handle.warm_up()


class Unassigned(Response):
    """No replica has taken it; what is cancelled then is what Ray raises."""

    def __init__(self) -> None:
        super().__init__(None)
        self._replica_result_future = asyncio.get_running_loop().create_future()

    def __await__(self):
        try:
            yield from self._replica_result_future.__await__()
        except asyncio.CancelledError:
            raise RequestCancelledError("one") from None

    def cancel(self) -> None:
        super().cancel()
        self._replica_result_future.cancel()


async def test_who_leaves_takes_back_what_no_replica_has():
    handle = ServeHandle(Deployment(Unassigned()))
    waiting = asyncio.create_task(handle.predict([]))
    await asyncio.sleep(0)
    handle.drain()
    with pytest.raises(ModelUnready):
        await waiting
    with pytest.raises(ModelUnready):
        await handle.predict([])


async def test_who_leaves_waits_for_what_a_replica_has():
    response = Unassigned()
    response._replica_result_future.set_result(None)
    handle = ServeHandle(Deployment(response))
    waiting = asyncio.create_task(handle.predict([]))
    await asyncio.sleep(0)
    handle.drain()
    assert not response.cancelled
    await waiting
