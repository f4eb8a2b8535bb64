"""The promises of a model as checks, and what the model costs: for `semapi model check` and the tests."""

from __future__ import annotations

import json
import math
import pickle
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any, Final

from pydantic import BaseModel

from serve_app.contracts import Json
from serve_app.models import registry
from serve_app.models.contract import Answer, Model, Prepared
from serve_app.settings import Settings

RESULT_MAX_BYTES: Final = 64_000
CLOSE: Final = 1e-3
"""Largest difference, relative or absolute, between a number of a batch's result and that of the item alone."""
HEAVY: Final = ("cv2", "onnxruntime", "openvino", "scipy", "torch", "transformers")
"""Libraries that a model's module must not import: the gateway and all decode workers import it."""
ROUNDS: Final = 20
ROUNDS_S: Final = 2.0
"""Passes that are timed, and seconds after which no further one begins."""
NO_IMAGE: Final = b"this is no image"

Input = tuple[bytes | None, BaseModel]


class Broken(Exception):
    """A promise is not kept; the text says how."""


@dataclass(frozen=True)
class Trial:
    """A loaded model and the inputs on which it is tried: the warm-up input first."""

    model: Model
    inputs: Sequence[Input]

    @cached_property
    def prepared(self) -> list[Prepared]:
        """All inputs, each sent to another process and back as between replica and decode worker."""
        function, recipe = _sent((self.model.preprocess, self.model.recipe))
        return [_sent(function(data, params, recipe)) for data, params in self.inputs]

    @cached_property
    def together(self) -> list[BaseModel]:
        """The results of all inputs in one batch."""
        return self._results(self._forward([one.item for one in self.prepared]))

    @cached_property
    def alone(self) -> list[BaseModel]:
        """The results of all inputs, one by one."""
        return self._results([output for one in self.prepared for output in self._forward([one.item])])

    def _results(self, outputs: Sequence[Any]) -> list[BaseModel]:
        return [
            _listed(self.model.postprocess(output, params, one.notes))
            for output, one, (_, params) in zip(outputs, self.prepared, self.inputs, strict=True)
        ]

    def _forward(self, items: Sequence[Any]) -> Sequence[Any]:
        outputs = self.model.forward(items)
        if len(outputs) != len(items):
            raise Broken(f"{len(outputs)} outputs for {len(items)} items")
        return outputs


def _sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  bytes that were made here


def _listed(answer: BaseModel | Answer) -> BaseModel:
    if isinstance(answer, Answer):
        answer.check(Settings.model_fields["output_max_bytes"].default)
        return answer.listed()
    return answer


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Broken(otherwise)


def _warm_up_input(trial: Trial) -> None:
    data, params = trial.model.warm_up_input()
    layer = trial.model.input_layer
    _require((data is None) == (layer == "none"), f"input_layer is {layer!r}, the input is {type(data).__name__}")
    _require(type(params) is trial.model.Params, f"its parameters are {type(params).__name__}, not Params")


def _params(trial: Trial) -> None:
    for _, params in trial.inputs:
        again = type(params).model_validate(params.model_dump(mode="json"))
        _require(again == params, f"{params!r} became {again!r}")


def _schemas(trial: Trial) -> None:
    for schema in (trial.model.Params, trial.model.Result):
        _require(schema.model_json_schema()["additionalProperties"] is False, f"{schema.__name__} takes any key")


def _picklable(trial: Trial) -> None:
    _require(len(trial.prepared) == len(trial.inputs), "inputs were lost")


def _results(trial: Trial) -> None:
    for result in trial.together:
        kind = trial.model.Result
        _require(isinstance(result, kind), f"a result is {type(result).__name__}, not {kind.__name__}")
        text = json.dumps(result.model_dump(mode="json"), allow_nan=False)
        _require(len(text) < RESULT_MAX_BYTES, f"a result has {len(text)} bytes")
        _require(kind.model_validate_json(text) == result, f"{text[:200]} is another result when it is read again")


def _batch(trial: Trial) -> None:
    for number, (batched, single) in enumerate(zip(trial.together, trial.alone, strict=True), start=1):
        where = _difference(batched.model_dump(mode="json"), single.model_dump(mode="json"))
        _require(where is None, f"input {number} has another {where} in a batch than alone")


def _difference(first: Any, second: Any, path: str = "") -> str | None:
    """The first place where two JSON values differ."""
    if isinstance(first, dict) and isinstance(second, dict) and set(first) == set(second):
        pairs = [(f"{path}.{name}".lstrip("."), first[name], second[name]) for name in first]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = [(f"{path}[{at}]", *values) for at, values in enumerate(zip(first, second, strict=True))]
    else:
        return None if _same(first, second) else path
    return next((where for name, one, other in pairs if (where := _difference(one, other, name))), None)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float | int):
        return math.isclose(first, second, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(first == second)


def _refusal(trial: Trial) -> None:
    if trial.model.input_layer == "none":
        return
    _, params = trial.inputs[0]
    try:
        trial.model.preprocess(NO_IMAGE, params, trial.model.recipe)
    except Exception:  # a decode worker makes every exception the job's error
        return
    raise Broken("preprocess took them")


def _description(trial: Trial) -> None:
    described = trial.model.describe()
    lacking = sorted({"device", "labels", "id", "revision"} - set(described))
    _require(not lacking, f"{', '.join(lacking)} missing")
    json.dumps(described, allow_nan=False)


PROMISES: Final[dict[str, Callable[[Trial], None]]] = {
    "warm_up_input() fits input_layer and Params": _warm_up_input,
    "parameters are the same after JSON": _params,
    "Params and Result refuse unknown keys": _schemas,
    "preprocess, recipe and items can go to another process": _picklable,
    "results are a Result, below 64 kB of JSON": _results,
    "an item has the same result in a batch as alone": _batch,
    "bytes that are no image are refused": _refusal,
    "describe() has device, labels, id and revision": _description,
}


def check(model: Model, inputs: Sequence[Input] = ()) -> Iterator[tuple[str, str]]:
    """Every promise, and how the loaded model breaks it; empty if it is kept. It is tried on its warm-up input and on
    `inputs`."""
    warm_up = model.warm_up_input()
    trial = Trial(model, [warm_up, *(inputs or [warm_up])])
    for promise, look in PROMISES.items():
        try:
            look(trial)
        except Broken as error:
            yield promise, str(error)
        except Exception as error:  # models raise every builtin exception
            yield promise, f"{type(error).__name__}: {error}"
        else:
            yield promise, ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs in a process of its own."""

    heavy: tuple[str, ...]
    """Libraries of HEAVY that its module imports before `load`."""
    cold_start_s: float
    """From the start of the process to the first answer."""
    memory_mib: float
    """At its peak."""
    prepare_ms: float
    alone_ms: float
    """Of a forward pass with one item."""
    batched_ms: float
    """Of a forward pass with a batch, divided by its items."""

    @property
    def gain(self) -> float:
        """How many times faster an item is in a batch."""
        return self.alone_ms / self.batched_ms if self.batched_ms else 1.0


def measure(
    config: registry.ModelConfig, settings: Settings, files: Sequence[bytes], params: Json, batch: int, started: float
) -> Cost:
    """Load the model and time it on the files, or on its warm-up input. To be called in a new process, which began at
    `started` (seconds since the epoch)."""
    kind = registry.load(config.implementation)
    heavy = tuple(name for name in HEAVY if name in sys.modules)
    model = registry.make(config)
    model.load(settings)
    model.prepare_worker(model.recipe)
    inputs: list[Input] = [(data, kind.Params.model_validate(params)) for data in files] or [model.warm_up_input()]
    Trial(model, inputs[:1]).alone  # noqa: B018  the first answer
    cold_start_s = time.time() - started
    prepared, prepare_s = [], []
    for data, chosen in inputs:
        begun = time.perf_counter()
        prepared.append(model.preprocess(data, chosen, model.recipe))
        prepare_s.append(time.perf_counter() - begun)
    items = [one.item for one in islice(cycle(prepared), max(batch, len(prepared)))]
    singles = cycle([[item] for item in items])
    alone_s = _timed(lambda: model.forward(next(singles)))
    batched_s = _timed(lambda: model.forward(items[:batch])) / batch
    return Cost(
        heavy=heavy,
        cold_start_s=cold_start_s,
        memory_mib=_peak_mib(),
        prepare_ms=statistics.median(prepare_s) * 1000,
        alone_ms=alone_s * 1000,
        batched_ms=batched_s * 1000,
    )


def _timed(work: Callable[[], object]) -> float:
    """Median seconds of several calls."""
    end = time.perf_counter() + ROUNDS_S
    seconds: list[float] = []
    while not seconds or (len(seconds) < ROUNDS and time.perf_counter() < end):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2  # kB on Linux, bytes on macOS
