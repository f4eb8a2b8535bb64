"""A second model in one file: counts words. No image, no weights; it shows what the contract asks for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from serve_app.contracts import Json
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.settings import Settings

PACE_S = 0.5


class Text(Schema):
    text: str


class Statistics(Schema):
    words: int
    most_common: str
    mean_length: float


class WordStatistics(Model):
    input_layer = "none"
    Params = Text
    Result = Statistics

    def load(self, settings: Settings) -> None:
        """Nothing to read."""

    @staticmethod
    def preprocess(data: bytes | None, params: Text, recipe: None) -> Prepared:
        return Prepared(params.text.lower().split())

    def forward(self, items: Sequence[list[str]]) -> list[Any]:
        return [(len(words), Counter(words), sum(map(len, words))) for words in items]

    def postprocess(self, output: Any, params: Text, notes: Json) -> Statistics:
        count, counter, letters = output
        most_common = min(counter, key=lambda word: (-counter[word], word), default="")
        return Statistics(words=count, most_common=most_common, mean_length=letters / count if count else 0.0)

    def warm_up_input(self) -> tuple[None, Text]:
        return None, Text(text="one two two")

    def describe(self) -> Json:
        return {**super().describe(), "id": "word-statistics", "revision": "1"}


class PacedWords(WordStatistics):
    """The same at a walking pace, for tests that need work to last."""

    def forward(self, items: Sequence[list[str]]) -> list[Any]:
        time.sleep(PACE_S)
        return super().forward(items)
