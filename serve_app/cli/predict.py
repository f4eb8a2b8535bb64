"""`semapi predict`: a model on files, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ValidationError

from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import explain, give_up, print_result
from serve_app.contracts import Json
from serve_app.errors import ModelOutage, ServiceError


def predict(
    files: Annotated[list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="Inputs.")] = None,
    model: Annotated[
        str, typer.Option(help="`module:Class` of the model.")
    ] = "serve_app.models.sem_classifier:SemClassifier",
    params: Annotated[str, typer.Option(help="The model's parameters, as JSON.")] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Run a model on files in this process, with the same decoding, preprocessing and forward pass as the service."""
    try:
        results = _predict(model, files or [], params)
    except typer.Exit:  # also a RuntimeError; its reason is already printed
        raise
    except (ServiceError, ModelOutage, ValueError, OSError, RuntimeError) as error:  # RuntimeError: torch's
        give_up(str(error))
    for name, result in results:
        if as_json:
            typer.echo(json.dumps({"input": name, **result}))
        else:
            print_result(name, result)


def _predict(implementation: str, files: list[Path], params: str) -> list[tuple[str, Json]]:
    from serve_app.models import registry  # numpy and the model's own libraries

    kind = registry.load(implementation)
    try:
        checked = kind.Params.model_validate_json(params)
    except ValidationError as error:
        give_up(f"the parameters do not fit {implementation}: {explain(error)}")
    if kind.input_layer == "image" and not files:
        give_up("name at least one image file")
    inputs: list[tuple[str, bytes | None]] = [(path.name, path.read_bytes()) for path in files]
    if kind.input_layer == "none":
        inputs = [("params", None)]
    model = kind()
    model.load(settings_or_give_up())
    results = []
    for name, data in inputs:
        prepared = model.preprocess(data, checked, model.recipe)
        [output] = model.forward([prepared.item])
        try:
            answer = model.postprocess(output, checked, prepared.notes)
        except ValidationError as error:
            give_up(f"{implementation} gave a result that is no {kind.Result.__name__}: {explain(error)}")
        result = answer if isinstance(answer, BaseModel) else answer.listed()
        results.append((name, result.model_dump(mode="json")))
    return results
