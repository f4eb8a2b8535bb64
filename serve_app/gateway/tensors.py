"""Tensors of the Open Inference Protocol: images in, results out, as JSON or with the binary tensor data extension."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serve_app.contracts import Json, ModelCard
from serve_app.errors import BodyInvalid, RequestError
from serve_app.gateway.long_json import LongJson, decoded
from serve_app.gateway.schemas.predictions import BOXED, row_field, rows
from serve_app.gateway.schemas.protocols import (
    INPUTS_MAX,
    InferBody,
    InferInput,
    InferOutput,
    OutputTensor,
    TensorMetadata,
)

IMAGE: Final = "image"
RESERVED: Final = ("binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end")
"""Parameters that clients of the protocol send themselves; the model does not get them."""
SIZE: Final = struct.Struct("<I")
"""Before each element of a BYTES tensor in binary form."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output with its elements in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    elements: Sequence[Any]

    def binary(self) -> bytes:
        """Little-endian, as the extension says."""
        if self.datatype == "BYTES":
            encoded = (element.encode() for element in self.elements)
            return b"".join(SIZE.pack(len(element)) + element for element in encoded)
        letter = {"FP32": "f", "INT32": "i"}[self.datatype]
        return struct.pack(f"<{len(self.elements)}{letter}", *self.elements)


def inputs_of(card: ModelCard) -> list[TensorMetadata]:
    """The inputs of a model."""
    return [] if card.input_layer == "none" else [{"name": IMAGE, "datatype": "BYTES", "shape": [-1]}]


def outputs_of(card: ModelCard) -> list[TensorMetadata]:
    """The outputs of a model."""
    found: list[TensorMetadata] = [{"name": "result", "datatype": "BYTES", "shape": [-1]}]
    field = row_field(card)
    if field is not None:
        found += [
            {"name": "counts", "datatype": "INT32", "shape": [-1]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1]},
        ]
    if field in BOXED:
        found.append({"name": "boxes", "datatype": "FP32", "shape": [-1, 4]})
    return found


def wanted_outputs(card: ModelCard, body: InferBody) -> dict[str, bool]:
    """By name, in order, whether the output is wanted in binary form. Raises `BodyInvalid`."""
    parameters = body.parameters or {}
    binary = _flag(parameters, "binary_data_output", "/parameters/binary_data_output", default=False)
    known = [one["name"] for one in outputs_of(card)]
    if not body.outputs:
        return dict.fromkeys(known, binary)
    found: dict[str, bool] = {}
    for place, output in enumerate(body.outputs):
        pointer = f"/outputs/{place}"
        if output.name not in known:
            raise _invalid(f"{pointer}/name", f"The outputs of {card.name} are {', '.join(known)}.")
        if output.name in found:
            raise _invalid(f"{pointer}/name", "An output was asked for twice.")
        found[output.name] = _wants_binary(output, pointer, binary)
    return found


def _wants_binary(output: InferOutput, pointer: str, default: bool) -> bool:
    parameters = output.parameters or {}
    return _flag(parameters, "binary_data", f"{pointer}/parameters/binary_data", default=default)


def _flag(parameters: Json, name: str, pointer: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _invalid(pointer, "must be true or false")
    return value


async def images_of(card: ModelCard, body: InferBody, document: LongJson, binary: memoryview) -> list[bytes | None]:
    """The images of the inputs, `binary` being what follows the JSON; [None] for a model without. Raises
    `BodyInvalid`."""
    sizes = [_binary_size(one, f"/inputs/{place}") for place, one in enumerate(body.inputs)]
    if sum(size or 0 for size in sizes) != len(binary):
        raise BodyInvalid(
            f"After the JSON come {len(binary)} bytes; the binary_data_size of the inputs add up to "
            f"{sum(size or 0 for size in sizes)}."
        )
    if card.input_layer == "none":
        if body.inputs:
            raise _invalid("/inputs", f"The model {card.name} takes parameters only, no inputs.")
        return [None]
    if [one.name for one in body.inputs] != [IMAGE]:
        raise _invalid("/inputs", f"The model {card.name} has one input, named {IMAGE}.")
    (given,), (size,) = body.inputs, sizes
    if given.datatype != "BYTES":
        raise _invalid("/inputs/0/datatype", "must be BYTES: files, not pixels")
    count = math.prod(given.shape)
    if not 1 <= count <= INPUTS_MAX:
        raise _invalid("/inputs/0/shape", f"must have 1 to {INPUTS_MAX} elements")
    found = _elements(binary) if size is not None else [image async for image in _in_json(given, document)]
    if len(found) != count:
        raise _invalid("/inputs/0/shape", f"has {count} elements, and there are {len(found)}")
    return list(found)


def _binary_size(given: InferInput, pointer: str) -> int | None:
    size = (given.parameters or {}).get("binary_data_size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or given.data is not None:
        raise _invalid(f"{pointer}/parameters/binary_data_size", "must be a number of bytes, without data in the JSON")
    return size


def _elements(binary: memoryview) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(binary):
        if len(found) == INPUTS_MAX or at + SIZE.size > len(binary):
            raise _invalid("/inputs/0", f"must be at most {INPUTS_MAX} elements, each after its size in 4 bytes")
        (size,) = SIZE.unpack_from(binary, at)
        at += SIZE.size
        if at + size > len(binary):
            raise _invalid("/inputs/0", "an element is longer than the bytes that are left")
        found.append(bytes(binary[at : at + size]))
        at += size
    return found


async def _in_json(given: InferInput, document: LongJson) -> Any:
    kind = (given.parameters or {}).get("content_type", "base64")
    if kind != "base64":
        raise _invalid("/inputs/0/parameters/content_type", "must be base64")
    if given.data is None:
        raise _invalid("/inputs/0/data", "is missing, and there is no binary_data_size")
    for place, text in enumerate(_flat(given.data)):
        if place == INPUTS_MAX or not isinstance(text, str):
            raise _invalid("/inputs/0/data", f"must be 1 to {INPUTS_MAX} texts in base64")
        yield await decoded(document.find(text), f"/inputs/0/data/{place}")


def _flat(data: list[Any]) -> Iterator[Any]:
    """The elements of nested lists, as far as tensors of 8 dimensions go."""
    for _ in range(7):
        if not any(isinstance(one, list) for one in data):
            break
        data = [inner for one in data for inner in (one if isinstance(one, list) else [one])]
    return iter(data)


def tensors(card: ModelCard, results: Sequence[Json]) -> dict[str, Tensor]:
    """All outputs by name: `result` has one element for each image; `counts` says how many rows of the others each
    image has."""
    of_images = [rows(result) for result in results]
    found = [row for of_image in of_images for row in of_image]
    whole = [json.dumps(result, separators=(",", ":"), allow_nan=False) for result in results]
    made = {
        "result": Tensor("result", "BYTES", [len(whole)], whole),
        "counts": Tensor("counts", "INT32", [len(of_images)], [len(of_image) for of_image in of_images]),
        "labels": Tensor("labels", "BYTES", [len(found)], [row.text for row in found]),
        "scores": Tensor("scores", "FP32", [len(found)], [row.score for row in found]),
        "boxes": Tensor("boxes", "FP32", [len(found), 4], [side for row in found for side in row.box or (0.0,) * 4]),
    }
    return {one["name"]: made[one["name"]] for one in outputs_of(card)}


def written(made: Sequence[tuple[Tensor, bool]]) -> tuple[list[OutputTensor], list[bytes]]:
    """The outputs as part of the JSON, and the bytes of those in binary form, in their order."""
    listed: list[OutputTensor] = []
    pieces: list[bytes] = []
    for tensor, binary in made:
        entry: OutputTensor = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary:
            pieces.append(tensor.binary())
            entry["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            entry["data"] = list(tensor.elements)
        listed.append(entry)
    return listed, pieces


def _invalid(pointer: str, fault: str) -> RequestError:
    return BodyInvalid(f"{pointer}: {fault}", pointers={pointer: fault})
