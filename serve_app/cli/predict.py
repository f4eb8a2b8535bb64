"""`semapi predict`: a model on files, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.console import give_up, print_result
from serve_app.cli.local_model import LocalModel
from serve_app.contracts import Json
from serve_app.errors import ModelOutage, ServiceError


def predict(
    files: Annotated[list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="Inputs.")] = None,
    model: Annotated[
        str, typer.Option(help="Name of a model in serve_app/serve.yaml, or `module:Class`.")
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


def _predict(name: str, files: list[Path], params: str) -> list[tuple[str, Json]]:
    model = LocalModel(name, params)
    if model.input_layer == "none":
        return [("params", model.answer(None))]
    if not files:
        give_up("name at least one image file")
    return [(path.name, model.answer(path.read_bytes())) for path in files]
