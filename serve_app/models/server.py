"""A model replica: fetches and decodes a whole chunk, batches, computes, and returns one outcome per task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ray import serve
from ray.serve import metrics

from serve_app.connections import connect_redis
from serve_app.contracts import Failure, Outcome, ReplicaCard, ReplicaReporter, Task
from serve_app.errors import (
    CapacityError,
    InputLost,
    JobError,
    ModelOutage,
    ModelRejected,
    ModelTimeout,
    ModelUnready,
    OutputsUnstored,
    ReplicaLost,
    ServiceError,
    StoreFull,
    TransientFailure,
)
from serve_app.images.bucket_store import open_store
from serve_app.models import registry
from serve_app.models.contract import Answer, Model, Prepared
from serve_app.models.forward import BatchRunner, ExclusiveGate, ForwardThread
from serve_app.models.pool import DecodePool
from serve_app.models.registry import ModelConfig
from serve_app.settings import read_settings
from serve_app.tracing import Kind, make_tracer

T = TypeVar("T")

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
LOAD_TIMEOUT_S = 600.0
BATCH_TIMEOUT_S = 600.0
"""Last resort, equal to the dispatcher's wait for a chunk: a forward pass has a deadline, Serve's queue has none."""
MILLISECONDS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A task whose input is prepared."""

    params: BaseModel
    prepared: Prepared


class ModelServer:
    """The deployment of one model. Ready once a warm-up input has passed all steps."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: ModelConfig, version: str, make_reporter: Callable[[], ReplicaReporter]
    ) -> None:
        """`make_reporter` is called here, in the replica; `version` is what `warm_up` returns."""
        settings = read_settings()
        self._version = version
        self._name = config.name
        self._tracer = make_tracer(settings)
        self._reporter = make_reporter()
        self._images = open_store(connect_redis(settings, max_connections=8), settings)
        self._output_max_bytes = settings.output_max_bytes
        self._gate = ExclusiveGate()
        self._decode_ms, self._forward_ms, self._batch_size = _histograms()
        # Ray estimates a histogram's sum from the middles of its buckets; the mean batch size needs an exact count.
        self._items = metrics.Counter("model_items", "Items that were in a batch.")
        self._model: Model = registry.make(config)
        self._thread = ForwardThread()
        await self._thread.run(self._model.load, settings, deadline_s=LOAD_TIMEOUT_S)
        prepare = partial(self._model.prepare_worker, self._model.recipe)
        self._pool = DecodePool(settings, type(self._model).__module__, prepare)
        await self._pool.start()
        known_good = (await self._prepare(*self._model.warm_up_input())).prepared.item
        self._batch = BatchRunner(self._model, self._thread, known_good, settings.forward_timeout_s)
        self._forward = serve.batch(
            max_batch_size=config.max_batch_size, batch_wait_timeout_s=config.batch_wait_timeout_s
        )(self._run_batch)
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            await self.warm_up()
        self._beats = asyncio.create_task(self._beat(_replica_card(config, version, self._model)))

    async def predict(self, chunk: Sequence[Task]) -> list[Outcome]:
        """One outcome per task, in order. A suspect (`alone`) runs while nothing else does in this replica.

        Raises `ModelUnready` if the fault is not an input's or nothing was started; `ReplicaLost` if the decode workers
        break or the forward thread hangs on the chunk. A job that hangs alone ends FAILED instead. A suspect whose
        lease has expired does not start: its outcome says so, and the tracker ignores it because of the lease's token.
        """
        outcomes: dict[str, Outcome] = {}
        if together := [task for task in chunk if not task.alone]:
            async with self._gate.shared():
                self._refuse_when_hung()
                outcomes.update(await self._process(together))
        for suspect in (task for task in chunk if task.alone):
            async with self._gate.exclusive():
                self._refuse_when_hung()
                outcomes.update(await self._process_suspect(suspect))
        return [outcomes[task.job_id] for task in chunk]

    async def warm_up(self) -> str:
        """Run the warm-up input through decode worker and batch. Returns the version this replica was built for."""
        data, params = self._model.warm_up_input()
        async with self._gate.shared():
            ready = await self._prepare(data, params)
            output = await self._forward(ready.prepared.item)
        if isinstance(output, JobError | TransientFailure):
            raise ModelUnready(f"The model refuses its own warm-up input: {output.detail}")
        self._model.postprocess(output, params, ready.prepared.notes)
        return self._version

    async def check_health(self) -> None:
        """Raises if only a new replica can help; Serve then replaces this one."""
        if self._thread.hung:
            raise ReplicaLost("The forward thread hangs.")

    async def __del__(self) -> None:
        """Serve awaits this while it stops the replica."""
        if beats := getattr(self, "_beats", None):
            beats.cancel()
        if thread := getattr(self, "_thread", None):
            thread.close()
        if images := getattr(self, "_images", None):
            images.close()
        if pool := getattr(self, "_pool", None):
            await pool.close()
        if tracer := getattr(self, "_tracer", None):
            await asyncio.to_thread(tracer.close)

    def _refuse_when_hung(self) -> None:
        """Chunks arrive until Serve has replaced the replica. Their jobs are not the cause: they get no loss and no
        strike."""
        if self._thread.hung:
            raise ModelUnready("The forward thread of this replica hangs.")

    async def _process_suspect(self, task: Task) -> dict[str, Outcome]:
        try:
            ours = await self._reporter.start_alone(task)
        except CapacityError as error:
            raise ModelUnready(f"The start of a suspect could not be reported: {error.detail}") from error
        if not ours:
            return {task.job_id: _failed(task, ReplicaLost("The lease ended before this replica could start."))}
        return await self._process([task])

    async def _process(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        """Process the tasks as a span in the trace of each."""
        name = f"predict {self._name}"
        steps = {task.job_id: self._tracer.step(name, task.traceparent, Kind.CONSUMER) for task in tasks}
        failures: dict[str, str | None] = dict.fromkeys(steps, "the replica could not go on")
        try:
            outcomes = await self._compute(tasks)
            failures = {job_id: one.failure.slug if one.failure else None for job_id, one in outcomes.items()}
            return outcomes
        finally:
            for job_id, step in steps.items():
                step.end({"job.id": job_id, "model": self._name}, failures[job_id])

    async def _compute(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        """Decode all inputs, then batch them: items that arrive together fill batches, which else stay half empty."""
        inputs = await _all(*(self._fetch_and_prepare(task) for task in tasks))
        ready = [one.prepared.item for one in inputs if isinstance(one, _Ready)]
        # A batch cannot be cancelled: a cancelled caller stays until it has ended, or a suspect that waits to run alone
        # would run beside it.
        outputs = await _to_the_end(
            _all(*(self._thread.expect(self._forward(item), BATCH_TIMEOUT_S) for item in ready))
        )
        if len(tasks) > 1 and any(isinstance(output, ModelTimeout) for output in outputs):
            raise ReplicaLost("The forward pass of a job hung, and its chunk had others.", hung=True)
        remaining = iter(outputs)
        ends = [
            self._conclude(task, one, next(remaining) if isinstance(one, _Ready) else None)
            for task, one in zip(tasks, inputs, strict=True)
        ]
        return {outcome.job_id: outcome for outcome in await _all(*ends)}

    async def _fetch_and_prepare(self, task: Task) -> _Ready | ServiceError | TransientFailure:
        """The task's input, prepared, or the error that the input caused. Holds bytes only inside a slot."""
        try:
            params = self._model.Params.model_validate(task.params)
        except ValidationError as error:
            return ModelRejected(f"The parameters do not fit this version of the model: {error.error_count()} errors.")
        started = time.perf_counter()
        try:
            async with self._pool.slot():
                data = None
                if task.input is not None and (data := await self._images.get(task.input.reference)) is None:
                    return InputLost("The stored input is gone; submit it again.")
                return await self._run_preprocess(data, params)
        except CapacityError as error:
            raise ModelUnready(f"The image store cannot be reached: {error.detail}") from error
        except (ServiceError, TransientFailure) as error:
            return error
        finally:
            self._decode_ms.observe((time.perf_counter() - started) * 1000)

    async def _prepare(self, data: bytes | None, params: BaseModel) -> _Ready:
        async with self._pool.slot():
            return await self._run_preprocess(data, params)

    async def _run_preprocess(self, data: bytes | None, params: BaseModel) -> _Ready:
        return _Ready(params, await self._pool.run(self._model.preprocess, data, params, self._model.recipe))

    async def _run_batch(self, items: list[Any]) -> list[Any]:
        started = time.perf_counter()
        try:
            return await self._batch.run(items)
        finally:
            self._batch_size.observe(len(items))
            self._items.inc(len(items))
            self._forward_ms.observe((time.perf_counter() - started) * 1000)

    async def _conclude(self, task: Task, one: _Ready | ServiceError | TransientFailure, output: Any) -> Outcome:
        """The outcome of a task: its result, once its files are stored, or its failure."""
        if not isinstance(one, _Ready):
            return _failed(task, one)
        if isinstance(output, JobError | TransientFailure):
            return _failed(task, output)
        try:
            answer = self._model.postprocess(output, one.params, one.prepared.notes)
            result = await self._store_outputs(task, answer) if isinstance(answer, Answer) else answer
        except StoreFull:  # a failure of this job only: the others end as they do
            return _failed(task, OutputsUnstored("There was no room for the model's files. Retry the job later."))
        except CapacityError as error:
            raise ModelUnready(f"The image store takes no files: {error.detail}") from error
        except (ServiceError, ModelOutage) as error:
            return _failed(task, error)
        except Exception as error:
            log.exception("postprocess failed on job %s", task.job_id)
            return _failed(task, ModelRejected(f"The model's answer could not be read: {type(error).__name__}."))
        return Outcome(task.job_id, result=result.model_dump(mode="json"))

    async def _store_outputs(self, task: Task, answer: Answer) -> BaseModel:
        answer.check(self._output_max_bytes)
        if answer.outputs and not await self._images.put_outputs(task.job_id, task.token, answer.outputs):
            raise ReplicaLost("The lease ended before this replica could store the model's files.")
        return answer.listed()

    async def _beat(self, card: ReplicaCard) -> None:
        """Report to the tracker that this replica runs, for as long as it can compute."""
        while not self._thread.hung:
            try:
                await self._reporter.beat(card)
            except Exception as error:  # no error may end the heartbeat of a working replica
                log.warning("heartbeat failed: %s", error)
            await asyncio.sleep(BEAT_SECONDS)


async def _all(*work: Awaitable[T]) -> list[T]:
    """The values in order, once all of the work has ended: a failing part leaves no other part running.

    Raises the most informative error: a hang before other losses, a loss before all others.
    """
    tasks = [asyncio.ensure_future(one) for one in work]  # `gather` confuses returned and raised errors
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    if errors := [error for task in tasks if (error := task.exception())]:
        raise max(errors, key=lambda error: (isinstance(error, ReplicaLost), getattr(error, "hung", False)))
    return [task.result() for task in tasks]


async def _to_the_end(work: Awaitable[T]) -> T:
    """The work's value. A cancellation takes effect only when the work, which has its own deadlines, has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def _failed(task: Task, error: ServiceError | ModelOutage) -> Outcome:
    is_transient = isinstance(error, TransientFailure)
    return Outcome(task.job_id, failure=Failure(error.slug, error.detail), transient=is_transient)


def _replica_card(config: ModelConfig, version: str, model: Model) -> ReplicaCard:
    description = model.describe()
    replica = serve.get_replica_context().replica_id.unique_id
    return ReplicaCard(config.name, replica, version, str(description.get("device", "cpu")), description)


def _histograms() -> tuple[metrics.Histogram, metrics.Histogram, metrics.Histogram]:
    return (
        metrics.Histogram("model_decode_ms", "Fetching and preparing one input.", boundaries=MILLISECONDS),
        metrics.Histogram("model_forward_ms", "One batch in the forward thread.", boundaries=MILLISECONDS),
        metrics.Histogram("model_batch_size", "Items of one batch.", boundaries=[1, 2, 4, 8, 16, 32, 64, 128, 256]),
    )
