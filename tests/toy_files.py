"""A model that gives files beside its result: the bright part of an image, as a mask and as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from serve_app.contracts import Json, Output
from serve_app.models.contract import Answer, Model, Prepared, ResultWithOutputs, Schema
from serve_app.settings import Settings
from tests.pictures import encode, gradient


class Threshold(Schema):
    threshold: int = 128
    name: str = "mask.png"


class Bright(ResultWithOutputs):
    share: float


class BrightMask(Model):
    Params = Threshold
    Result = Bright

    def load(self, settings: Settings) -> None:
        """Nothing to read."""

    @staticmethod
    def preprocess(data: bytes | None, params: Threshold, recipe: None) -> Prepared:
        with Image.open(io.BytesIO(data or b"")) as image:
            return Prepared(image.convert("L").point(lambda value: 255 if value >= params.threshold else 0))

    def forward(self, items: Sequence[Image.Image]) -> list[Any]:
        answers = []
        for mask in items:
            file = io.BytesIO()
            mask.save(file, "PNG")
            answers.append((mask.histogram()[255] / (mask.width * mask.height), file.getvalue()))
        return answers

    def postprocess(self, output: Any, params: Threshold, notes: Json) -> Answer:
        share, mask = output
        files = {params.name: Output("image/png", mask), "share.txt": Output("text/plain", f"{share:.3f}".encode())}
        return Answer(Bright(share=share), files)

    def warm_up_input(self) -> tuple[bytes, Threshold]:
        return encode(gradient(), "PNG"), Threshold()

    def describe(self) -> Json:
        return {**super().describe(), "id": "bright-mask", "revision": "1"}
