"""A model in the process of a command, for the commands that work without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ValidationError

import serve_app
from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import explain, give_up
from serve_app.contracts import Json
from serve_app.errors import ModelUnready

if TYPE_CHECKING:
    from serve_app.models.registry import ModelConfig

DEFAULT_CONFIG = Path(serve_app.__file__).parent / "serve.yaml"


class LocalModel:
    """A loaded model and the parameters of all its inputs."""

    def __init__(self, name: str, params: str) -> None:
        """`name` is `module:Class`, or a model of serve_app/serve.yaml; `params` are JSON.

        Raises ValueError if there is no such model, `ModelUnready` if this machine lacks something that it needs;
        parameters that do not fit end the command."""
        from serve_app.models import registry  # numpy and the model's own libraries

        config = find_block(name)
        kind = registry.load(config.implementation)
        self.name = name
        self.input_layer = kind.input_layer
        try:
            self._params = kind.Params.model_validate_json(params)
        except ValidationError as error:
            give_up(f"the parameters do not fit {name}: {explain(error)}")
        settings = settings_or_give_up()
        if reason := kind.missing(settings, registry.options(config)):
            raise ModelUnready(reason)
        self._model = registry.make(config)
        self._model.load(settings)
        self._model.prepare_worker(self._model.recipe)

    def answer(self, data: bytes | None) -> Json:
        """The result of one input, as a job of the service has it. Raises what the model raises."""
        model = self._model
        prepared = model.preprocess(data, self._params, model.recipe)
        [output] = model.forward([prepared.item])
        try:
            answer = model.postprocess(output, self._params, prepared.notes)
        except ValidationError as error:
            give_up(f"{self.name} gave a result that is no {model.Result.__name__}: {explain(error)}")
        result = answer if isinstance(answer, BaseModel) else answer.listed()
        return result.model_dump(mode="json")


def find_block(name: str) -> ModelConfig:
    """The model's block of the Serve config. Raises ValueError if there is none."""
    from serve_app.models.registry import ModelConfig

    if ":" in name:
        try:
            return ModelConfig(name="model", implementation=name)
        except ValidationError as error:
            raise ValueError(f"{name} is not of the form module:Class") from error
    config = yaml.safe_load(DEFAULT_CONFIG.read_text())
    blocks = {block["name"]: block for block in config["applications"][0]["args"]["models"]}
    if name not in blocks:
        raise ValueError(f"there is no model {name}; name one of {', '.join(blocks)}, or a module:Class")
    return ModelConfig.model_validate(blocks[name])
