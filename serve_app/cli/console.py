"""How commands print, and how they end on an error: one line that the user can act on, status 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from serve_app.contracts import Json
from serve_app.texts import BOM

output = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

BAR_WIDTH = 24

Bom = Annotated[
    bool | None,
    typer.Option(
        "--bom/--no-bom",
        help="Byte order mark for Excel before CSV. Default: in files yes, on stdout no.",
        show_default=False,
    ),
]


def give_up(message: str) -> NoReturn:
    """Print the reason in one line and end with status 1."""
    errors.print(f"semapi: {message}", style="red", markup=False)
    raise typer.Exit(1)


def bom_for(target: Path | None, wanted: bool | None) -> str:
    """The byte order mark of a CSV, or nothing. By default files, which a spreadsheet may open, have one."""
    return BOM if (target is not None if wanted is None else wanted) else ""


def explain(error: ValidationError, spell: Callable[[str], str] = str) -> str:
    """The errors in one line, without the values; `spell` converts a field's name to the one that users know."""
    faults = [(spell(".".join(map(str, fault["loc"]))), fault["msg"]) for fault in error.errors()]
    said = [f"{name}: {message}" if name else message for name, message in faults]
    return "; ".join(said).replace("Value error, ", "")


def print_result(name: str, result: Json) -> None:
    """Print a model's result for a file: a classification with its scores, any other as JSON."""
    if "all_scores" in result:
        if "labels" in result:
            said = f"shows {', '.join(result['labels']) or 'none of the labels'}"
        else:
            said = f"is {result['label']}"
        output.print(f"\n  {name} {said}", style="bold", markup=False)
        print_scores(result)
    else:
        output.print(f"\n  {name}: {json.dumps(result)}", markup=False)


def print_scores(result: Json, top: int = 3) -> None:
    """Print the best classes of a classification with bars, and the model."""
    scores = sorted(result["all_scores"].items(), key=lambda item: -item[1])[:top]
    width = max(len(label) for label, _ in scores)
    for label, score in scores:
        bar = "█" * round(score * BAR_WIDTH)
        output.print(f"    {label:<{width}}  {score:7.1%}  {bar}", markup=False)
    if image := result.get("image"):
        output.print(f"    read as: {image.get('read_as', image)}", markup=False)
        if not str(image.get("frame", "1 of 1")).endswith("1 of 1"):
            output.print(f"    frame:   {image['frame']}", markup=False)
    if model := result.get("model"):
        output.print(f"    model: {describe_model(model)}", markup=False)


def describe_model(model: Json) -> str:
    """One line about the model; the demo model is labelled as such."""
    commit = model.get("revision") or model.get("sha256") or "unknown"
    name = f"{model.get('id')} @ {commit[:12]}, {model.get('engine')} {model.get('precision')}"
    return f"{name} — DEMO MODEL, a stand-in trained on drawn textures" if model.get("demo") else name
