"""`semapi model`: for the author of a model."""

from __future__ import annotations

import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import ValidationError

import serve_app
from serve_app.cli.classify import json_object
from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import explain, give_up, output
from serve_app.cli.local_model import find_block
from serve_app.contracts import Json
from serve_app.errors import ModelOutage, ServiceError

if TYPE_CHECKING:
    from serve_app.models.conformance import Cost
    from serve_app.models.registry import ModelConfig

commands = typer.Typer(help="For the author of a model: new, check.", no_args_is_help=True)

EXAMPLE: Final = Path(serve_app.__file__).parent / "models" / "example.py"
NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@commands.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the model in the API: lower case, digits, `-`.")],
    folder: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Where the file goes.")] = Path(),
) -> None:
    """Write a model that runs, as one file to change, and print its block of the Serve config."""
    if not NAME.fullmatch(name) or len(name) > 63:
        give_up(f"{name} is not a name of a model: lower-case letters and digits, `-` between words, a letter first")
    module, kind = name.replace("-", "_"), "".join(word.capitalize() for word in name.split("-"))
    file = folder / f"{module}.py"
    if file.exists():
        give_up(f"{file} exists")
    if find_spec(module) is not None:
        give_up(f"there is already a Python module {module}: choose another name")
    _, _, body = EXAMPLE.read_text(encoding="utf-8").partition("\n\n")
    if iskeyword(module) or iskeyword(kind) or kind in re.findall(r"\w+", body.replace("Example", "")):
        give_up(f"{module}.py would have a class {kind}, and {kind} has another meaning there: choose another name")
    head = f'"""The model {name}: it measures the brightness of an image, until you change it."""\n\n'
    try:
        file.write_text(head + body.replace("Example", kind).replace('"example"', f'"{name}"'), encoding="utf-8")
    except OSError as error:
        give_up(str(error))
    output.print(
        f"{file} is written. Check it and run it:\n\n"
        f"  PYTHONPATH={folder} semapi model check {module}:{kind}\n"
        f"  PYTHONPATH={folder} semapi predict --model {module}:{kind} FILE\n\n"
        f"Serve it: add this block to `models` in a copy of serve_app/serve.yaml, here my-serve.yaml.\n\n"
        f"        - name: {name}\n          implementation: {module}:{kind}\n          min_replicas: 0\n"
        f"          num_cpus: 0.25\n\n  PYTHONPATH={folder} semapi up --config my-serve.yaml",
        markup=False,
    )


@commands.command()
def check(
    model: Annotated[str, typer.Argument(metavar="MODULE:CLASS", help="Or the name of a model in serve.yaml.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Image to try the model on, beside its own; repeatable."),
    ] = None,
    params: Annotated[str, typer.Option(help="The model's parameters for the images, as JSON.")] = "{}",
    settings: Annotated[str, typer.Option(help="The block's `settings`, as JSON.")] = "{}",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Items of the timed batch.")] = 8,
) -> None:
    """Check that a model keeps the contract, and print its cold start, memory, speed and gain by batches.

    Ends with 1 when a promise is broken.
    """
    try:
        config = find_block(model)
        if own := json_object(settings):
            config = config.model_copy(update={"settings": own})
        files = [path.read_bytes() for path in images or ()]
        kept = _check(config, files, json_object(params))
        cost = _measure(config, files, json_object(params), batch)
    except typer.Exit:  # also a RuntimeError; its reason is already printed
        raise
    except BrokenProcessPool:
        give_up("the model ended the process in which it was measured")
    except (ServiceError, ModelOutage, ValueError, OSError, RuntimeError) as error:  # RuntimeError: torch's
        give_up(str(error))
    _say("the module imports no heavy library", ", ".join(cost.heavy))
    output.print(
        f"\n  cold start  {cost.cold_start_s:9.2f} s    from a new process to its first answer\n"
        f"  memory      {cost.memory_mib:9.0f} MiB  of that process at its peak\n"
        f"  preprocess  {cost.prepare_ms:9.2f} ms   an input\n"
        f"  forward     {cost.alone_ms:9.2f} ms   an item alone\n"
        f"  in batches  {cost.batched_ms:9.2f} ms   an item in a batch of {batch}: {cost.gain:.1f} times as fast",
        markup=False,
    )
    if not kept or cost.heavy:
        raise typer.Exit(1)


def _check(config: ModelConfig, files: list[bytes], params: Json) -> bool:
    """Print every promise and whether it is kept. Whether all are."""
    from serve_app.models import conformance, registry

    kind = registry.load(config.implementation)
    try:
        inputs = [(data, kind.Params.model_validate(params)) for data in files]
    except ValidationError as error:
        give_up(f"the parameters do not fit {config.implementation}: {explain(error)}")
    process = settings_or_give_up()
    if reason := kind.missing(process, registry.options(config)):
        give_up(reason)
    loaded = registry.make(config)
    loaded.load(process)
    loaded.prepare_worker(loaded.recipe)
    for number, (data, chosen) in enumerate(inputs, 1):
        try:
            loaded.preprocess(data, chosen, loaded.recipe)
        except ServiceError as error:  # the file is at fault, not the model
            give_up(f"image {number}: {error}")
    return all([_say(promise, fault) for promise, fault in conformance.check(loaded, inputs)])


def _say(promise: str, fault: str) -> bool:
    output.print(f"  {'broken' if fault else 'ok':6}  {promise}{': ' + fault if fault else ''}", markup=False)
    return not fault


def _measure(config: ModelConfig, files: list[bytes], params: Json, batch: int) -> Cost:
    from serve_app.models import conformance

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        arguments: Any = (config, settings_or_give_up(), files, params, batch, time.time())
        return process.submit(conformance.measure, *arguments).result()
