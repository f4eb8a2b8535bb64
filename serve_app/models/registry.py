"""Reads one block of the Serve config (`args.models`) and finds its model class and card."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve_app.contracts import ModelCard
from serve_app.models.contract import Model, Schema
from serve_app.settings import Settings


class ModelConfig(BaseModel):
    """One served model. An unknown key is an error, because a misspelt one would be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Name in the API, in Redis keys and of the deployment: lower case, digits, `-`."""
    implementation: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    """`module:Class`, a subclass of `serve_app.models.contract.Model`; see [swap the model](swap-the-model.md)."""
    max_batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    """Items of one forward pass, and jobs of one chunk."""
    batch_wait_timeout_s: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Seconds that a batch that is not full waits for more. A chunk arrives together, so a short wait fills batches."""
    chunks_per_replica: Annotated[int, Field(ge=1, le=16)] = 3
    """Chunks that one replica holds at once: one computes, one is decoded, one is on its way."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Replicas that always run; 0 lets the model sleep until a job comes."""
    max_replicas: Annotated[int, Field(ge=1)] = 1
    """Most replicas that the backlog may call for."""
    jobs_per_replica: Annotated[int, Field(ge=1)] = 64
    """Waiting and running jobs that call for one more replica."""
    upscale_delay_s: Annotated[float, Field(ge=0)] = 3.0
    """Seconds that the backlog must call for more before a replica is added; waking from zero does not wait."""
    downscale_delay_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that the backlog must call for fewer before a replica is removed."""
    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """Processors that Ray reserves for a replica."""
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """Accelerators that Ray reserves for a replica."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Custom resources of Ray that a replica takes: it runs only on nodes that were started with them."""
    settings: dict[str, Any] = {}
    """Settings of this model alone, as its class declares them (`Options`): for `SemClassifier` another checkpoint or
    engine than the process-wide `MODEL_*` and `ENGINE` name."""

    home_group: str = ""
    """Worker group that replicas go to first and leave last. When it is full they go to others."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"model {self.name}: min_replicas is larger than max_replicas")
        return self


def load(implementation: str) -> type[Model]:
    """The class named by `module:Class`. Raises ValueError with the reason; imports no torch."""
    module_name, _, class_name = implementation.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        cure = " Is its folder on PYTHONPATH?" if error.name and module_name.startswith(error.name) else ""
        raise ValueError(f"{implementation}: {error}.{cure}") from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise ValueError(f"{implementation} is not a subclass of serve_app.models.contract.Model")
    for schema in ("Params", "Result", "Options"):
        if not (isinstance(value := getattr(found, schema, None), type) and issubclass(value, Schema)):
            raise ValueError(f"{implementation} needs a subclass of serve_app.models.contract.Schema named {schema}")
    return found


def options(config: ModelConfig) -> Schema:
    """The block's `settings`, as the model's class declares them. Raises ValueError with each wrong key."""
    try:
        return load(config.implementation).Options.model_validate(config.settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in error.errors())
        raise ValueError(f"model {config.name}: its settings are not valid: {wrong}") from error


def make(config: ModelConfig) -> Model:
    """An instance of the model with its options, not loaded yet."""
    return load(config.implementation)(options(config))


def refusal(card: ModelCard, settings: Settings) -> str | None:
    """Why this machine cannot serve a model that sleeps, and what to do. A model that never sleeps says so itself."""
    model = load(card.implementation)
    return model.missing(settings, model.Options.model_validate(card.options)) if card.wakes_from_zero else None


def card(config: ModelConfig) -> ModelCard:
    """What the gateway needs to know about the model."""
    model = load(config.implementation)
    return ModelCard(
        options=options(config).model_dump(mode="json", exclude_unset=True),
        name=config.name,
        implementation=config.implementation,
        input_layer=model.input_layer,
        params_schema=model.Params.model_json_schema(),
        result_schema=model.Result.model_json_schema(),
        max_batch_size=config.max_batch_size,
        chunks_per_replica=config.chunks_per_replica,
        wakes_from_zero=config.min_replicas == 0,
        reads_in_steps=model.reads_in_steps,
    )
