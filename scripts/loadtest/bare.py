"""What the service is compared with: bare routes, a bare pipeline, each picture alone, one engine beside the other.

Each runs in a process of its own, `python -m loadtest.bare COMMAND`, and prints JSON on its last line; `engines` is for
people. The functions at the end start the others.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.service import get, script_path, wait_until
from serve_app.contracts import Json
from serve_app.local.process_supervisor import supervised
from serve_app.local.server import free_port
from serve_app.settings import Settings

DEADLINE_S = 300.0
ENGINES = ("torch", "openvino")
ENGINE_RUNS = 7
ENGINE_RUN_S = 2.0
ENGINE_WARM_UP = 5


def routes(port: str) -> None:
    """Serve a no-op route, and one that parses the same upload as the service and answers 202."""
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
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False, loop="uvloop")


def pipeline(snapshot: str, folder: str, batch: str) -> None:
    """Images per second of decode, resize and forward in one process, and of the forward pass alone."""
    import torch
    from transformers import AutoModelForImageClassification

    from serve_app.images.decode import read_pixels
    from serve_app.images.resize import Geometry

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForImageClassification.from_pretrained(snapshot, local_files_only=True).eval()
    files = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
    settings, size = Settings(), int(batch)
    geometry = Geometry((int(model.config.image_size),) * 2)

    def forward(images: list[object]) -> None:
        grey = torch.stack([torch.tensor(image) for image in images])
        pixels = ((grey.float() / 255 - 0.5) / 0.5).unsqueeze(1).expand(-1, 3, -1, -1)
        with torch.inference_mode():
            model(pixel_values=pixels).logits.softmax(-1).tolist()

    def prepare(data: bytes) -> object:
        return geometry.item(read_pixels(data, settings).array)

    ready = [prepare(data) for data in files[:size]]
    forward(ready)
    start = time.perf_counter()
    for at in range(0, len(files), size):
        forward([prepare(data) for data in files[at : at + size]])
    whole = len(files) / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(0, len(files), size):
        forward(ready)
    print(json.dumps({"pipeline": whole, "forward": len(files) / (time.perf_counter() - start)}))


def alone(folder: str) -> None:
    """What the classifier answers to each file of the folder, one at a time: no service, queue or batch."""
    from serve_app.models.sem_classifier import ClassifierParams, SemClassifier

    model = SemClassifier()
    model.load(Settings())
    answers = []
    for path in sorted(Path(folder).iterdir()):
        prepared = model.preprocess(path.read_bytes(), ClassifierParams(), model.recipe)
        [output] = model.forward([prepared.item])
        answers.append(model.postprocess(output, ClassifierParams(), prepared.notes).model_dump(mode="json"))
    print(json.dumps(answers))


def engines() -> None:
    """ENGINE=openvino beside ENGINE=torch: images per second of the forward pass alone, for the model of MODEL_SOURCE.

    Prints the medians of alternating runs and the ratios of neighbours. One thread each, and seconds of processor time,
    so that other work on the machine counts little.
    """
    from serve_app.models.sem_classifier import SemClassifier

    def rate(model: SemClassifier, batch: int) -> float:
        data, params = model.warm_up_input()
        items = [model.preprocess(data, params, model.recipe).item] * batch
        for _ in range(ENGINE_WARM_UP):
            model.forward(items)
        passes, started = 0, time.process_time()
        while (taken := time.process_time() - started) < ENGINE_RUN_S:
            model.forward(items)
            passes += 1
        return passes * batch / taken

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


@contextmanager
def bare_routes() -> Iterator[int]:
    """The port where the bare routes answer."""
    port = free_port()
    family = supervised(_command("routes", str(port)), _environment({}), None)
    try:
        wait_until(lambda: get(f"http://127.0.0.1:{port}/"), DEADLINE_S)
        yield port
    finally:
        family.terminate()
        family.communicate(timeout=30)


def bare_pipeline(snapshot: Path, folder: Path, batch: int) -> dict[str, float]:
    """Images per second of the `pipeline`, and of its `forward` pass alone."""
    return dict(_run({}, "pipeline", str(snapshot), str(folder), str(batch)))


def answers_one_at_a_time(folder: Path, settings: Mapping[str, str]) -> list[Json]:
    """The results for the files of the folder in the order of their names, from the model that these settings name."""
    # One thread: several that wait for each other on processors that others use take a hundred times as long.
    return list(_run({**settings, "INFERENCE_THREADS": "1"}, "alone", str(folder)))


def _run(settings: Mapping[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        _command(*arguments), env=_environment(settings), stdout=subprocess.PIPE, timeout=DEADLINE_S, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtest.bare", *arguments]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": script_path(), **settings}


COMMANDS = {"routes": routes, "pipeline": pipeline, "alone": alone, "engines": engines}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
