"""What the service is held against: bare routes on uvicorn, and a bare pipeline in one process.

Run as `python -m benchmark.bare routes PORT` or `python -m benchmark.bare pipeline SNAPSHOT FOLDER BATCH`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def routes(port: int) -> None:
    """A no-op route, and one that parses the same upload and answers 202."""
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


def pipeline(snapshot: str, folder: str, batch: int) -> None:
    """Images per second of decode, resize and forward, and of the forward alone; two JSON lines on stdout."""
    import torch
    from transformers import AutoModelForImageClassification

    from serve_app.images.decode import read_pixels
    from serve_app.images.resize import Geometry
    from serve_app.settings import Settings

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForImageClassification.from_pretrained(snapshot, local_files_only=True).eval()
    files = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
    settings = Settings()
    geometry = Geometry((int(model.config.image_size),) * 2)

    def forward(images: list[object]) -> None:
        grey = torch.stack([torch.tensor(image) for image in images])
        pixels = ((grey.float() / 255 - 0.5) / 0.5).unsqueeze(1).expand(-1, 3, -1, -1)
        with torch.inference_mode():
            model(pixel_values=pixels).logits.softmax(-1).tolist()

    def prepare(data: bytes) -> object:
        return geometry.item(read_pixels(data, settings).array)

    ready = [prepare(data) for data in files[:batch]]
    forward(ready)
    start = time.perf_counter()
    for at in range(0, len(files), batch):
        forward([prepare(data) for data in files[at : at + batch]])
    whole = len(files) / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(0, len(files), batch):
        forward(ready)
    print(json.dumps({"pipeline": whole, "forward": len(files) / (time.perf_counter() - start)}))


if __name__ == "__main__":
    if sys.argv[1] == "routes":
        routes(int(sys.argv[2]))
    else:
        pipeline(sys.argv[2], sys.argv[3], int(sys.argv[4]))
