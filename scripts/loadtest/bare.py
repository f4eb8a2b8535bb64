"""The baselines: bare routes, a bare pipeline, each picture alone. Each runs in a process of its own.

As a program (`make bench-engines`) it compares ENGINE=openvino with ENGINE=torch for the model of MODEL_SOURCE.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from loadtest.service import get, wait_until
from serve_app.contracts import Json
from serve_app.local.server import free_port
from serve_app.settings import Settings

DEADLINE_S = 300.0
ENGINES = ("torch", "openvino")
ENGINE_RUNS = 7
ENGINE_RUN_S = 2.0
ENGINE_WARM_UP = 5

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def bare_routes() -> Iterator[int]:
    """The port of a server with a no-op route and one that parses the same upload as the service."""
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    try:
        wait_until(lambda: get(f"http://127.0.0.1:{port}/"), DEADLINE_S)
        yield port
    finally:
        server.terminate()
        server.join()


def bare_pipeline(snapshot: Path, folder: Path, batch: int) -> dict[str, float]:
    """Images per second of decode, resize and forward pass (`pipeline`), and of the forward pass alone (`forward`)."""
    return _in_process(_pipeline, snapshot, folder, batch)


def answers_one_at_a_time(folder: Path, settings: Mapping[str, str]) -> list[Json]:
    """The model's result for each file of the folder, sorted by name, without service, queue or batch.

    `settings` are environment variables that name the model.
    """
    # With more threads than free processors, the threads wait for each other and take a hundred times as long.
    return _in_process(_alone, folder, {**settings, "INFERENCE_THREADS": "1"})


def _in_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(work, arguments, options).get(DEADLINE_S)


def _serve(port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def nothing(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def accept(request: Request) -> JSONResponse:
        async with request.form() as form:
            data = await form["image"].read()  # type: ignore[union-attr]
        return JSONResponse({"bytes": len(data)}, status_code=202)

    app = Starlette(routes=[Route("/nothing", nothing, methods=["POST"]), Route("/upload", accept, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, loop="uvloop")


def _pipeline(snapshot: Path, folder: Path, batch: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForImageClassification

    from serve_app.images.decode import read_pixels
    from serve_app.images.resize import Geometry

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForImageClassification.from_pretrained(snapshot, local_files_only=True).eval()
    files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    settings, geometry = Settings(), Geometry((int(model.config.image_size),) * 2)

    def forward(images: list[object]) -> None:
        grey = torch.stack([torch.tensor(image) for image in images])
        pixels = ((grey.float() / 255 - 0.5) / 0.5).unsqueeze(1).expand(-1, 3, -1, -1)
        with torch.inference_mode():
            model(pixel_values=pixels).logits.softmax(-1).tolist()

    def prepare(data: bytes) -> object:
        return geometry.item(read_pixels(data, settings).array)

    def rate(work: Callable[[int], object]) -> float:
        start = time.perf_counter()
        for at in range(0, len(files), batch):
            work(at)
        return len(files) / (time.perf_counter() - start)

    ready = [prepare(data) for data in files[:batch]]
    forward(ready)
    return {
        "pipeline": rate(lambda at: forward([prepare(data) for data in files[at : at + batch]])),
        "forward": rate(lambda _: forward(ready)),
    }


def _alone(folder: Path, settings: Mapping[str, str]) -> list[Json]:
    from serve_app.models.sem_classifier import ClassifierParams, SemClassifier

    os.environ.update(settings)
    model = SemClassifier()
    model.load(Settings())
    answers = []
    for path in sorted(folder.iterdir()):
        prepared = model.preprocess(path.read_bytes(), ClassifierParams(), model.recipe)
        [output] = model.forward([prepared.item])
        answers.append(model.postprocess(output, ClassifierParams(), prepared.notes).model_dump(mode="json"))
    return answers


def compare_engines() -> None:
    """Print images per second of the forward pass with each engine, and the ratio, as medians of alternating runs.

    One thread each, and seconds of processor time, so that other work on the machine matters little.
    """
    from serve_app.models.sem_classifier import SemClassifier

    def rate(model: SemClassifier, batch: int) -> float:
        data, params = model.warm_up_input()
        items = [model.preprocess(data, params, model.recipe).item] * batch
        for _ in range(ENGINE_WARM_UP):
            model.forward(items)
        passes, started = 0, time.process_time()
        while (seconds := time.process_time() - started) < ENGINE_RUN_S:
            model.forward(items)
            passes += 1
        return passes * batch / seconds

    models = [SemClassifier() for _ in ENGINES]
    for engine, model in zip(ENGINES, models, strict=True):
        model.load(Settings.model_validate({"engine": engine, "inference_threads": 1}))
    for batch in (1, 8):
        pairs = [[rate(model, batch) for model in models] for _ in range(ENGINE_RUNS)]
        torch, openvino = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(second / first for first, second in pairs)
        print(
            f"batch of {batch}: torch {torch:.0f}/s, openvino {openvino:.0f}/s, ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {ENGINE_RUNS} runs)"
        )


if __name__ == "__main__":
    compare_engines()
