"""Results in the shape of a request that waits for them, and as rows that the protocols make into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Final, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from serve_app import contracts
from serve_app.contracts import Json, ModelCard
from serve_app.gateway.schemas.common import without_null

ROWS_OF: Final = ("detections", "boxes", "all_scores")
"""The fields of results that have rows."""
BOXED: Final = ROWS_OF[:2]


class PredictForm(BaseModel):
    """One file for the model, and its parameters: each as a field of its name (lists and objects as JSON), or all in
    `params`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra=lambda schema: schema.update(
            properties={name: without_null(one) for name, one in schema["properties"].items()}
        ),
    )

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})] | None = None
    params: Annotated[str, Field(description="A JSON object as text, by the model's params_schema.")] | None = None


class Box(TypedDict):
    """A rectangle of the upright image, in pixels, with its text or label and its score."""

    x1: float
    y1: float
    x2: float
    y2: float
    text: str
    conf: float


class Prediction(TypedDict):
    """The result of the job that the request made."""

    request_id: str
    job_id: str
    model: str
    latency_ms: Annotated[float, Field(ge=0, description="From the job's acceptance to its end.")]
    text: Annotated[str, Field(description="The text; of a classifier the label, of a detector all labels.")]
    confidence: Annotated[float, Field(description="The score of the text or label, or the mean over all boxes.")]
    boxes: list[Box]
    tables: NotRequired[list[dict[str, Any]]]
    result: Annotated[dict[str, Any], Field(description="By the model's result_schema.")]


@dataclass(frozen=True, slots=True)
class Row:
    """One text or label of a result, with its score and perhaps its place."""

    text: str
    score: float
    box: tuple[float, float, float, float] | None = None


def row_field(card: ModelCard) -> str | None:
    """The field of the model's results that has rows."""
    fields = card.result_schema.get("properties", {})
    return next((name for name in ROWS_OF if name in fields), None)


def rows(result: Json) -> list[Row]:
    """The detections, boxes or scores of a result, in its order. A field of the same name with another meaning has
    none."""
    found = next((result[name] for name in ROWS_OF if name in result), ())
    try:
        if isinstance(found, dict):
            return [Row(str(label), float(score)) for label, score in found.items()]
        return [_row(one) for one in found]
    except (KeyError, TypeError, ValueError):
        return []


def _row(one: Json) -> Row:
    if "bbox" in one:
        left, top, right, bottom = map(float, one["bbox"])
        return Row(str(one["label"]), float(one["score"]), (left, top, right, bottom))
    left, top, right, bottom = (float(one[side]) for side in ("x1", "y1", "x2", "y2"))
    return Row(str(one["text"]), float(one["conf"]), (left, top, right, bottom))


def prediction(request_id: str, job: contracts.Job, result: Json) -> Prediction:
    """The answer with the result of an ended job."""
    found = rows(result)
    boxed = [(row, row.box) for row in found if row.box]
    shown: Prediction = {
        "request_id": request_id,
        "job_id": job.id,
        "model": job.model,
        "latency_ms": float((job.completed_at or job.submitted_at) - job.submitted_at),
        "text": _text(result, found),
        "confidence": _confidence(result, found),
        "boxes": [
            {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "text": row.text, "conf": row.score}
            for row, (x1, y1, x2, y2) in boxed
        ],
        "result": result,
    }
    if isinstance(tables := result.get("tables"), list):
        shown["tables"] = tables
    return shown


def _text(result: Json, found: Sequence[Row]) -> str:
    for name in ("text", "label"):
        if isinstance(result.get(name), str):
            return str(result[name])
    return ", ".join(row.text for row in found if row.box)


def _confidence(result: Json, found: Sequence[Row]) -> float:
    given = result.get("confidence")
    if isinstance(given, int | float):
        return float(given)
    scores = [row.score for row in found if row.box]
    return round(fmean(scores), 4) if scores else 0.0
