"""The Serve config: every key known to Serve, every value of its type, the applications built with their arguments.

Serve itself drops unknown keys without a word, and takes the text "8" for a number.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from types import FunctionType, UnionType
from typing import Any, Final, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Deployment
from ray.serve.schema import ServeDeploySchema

from manifests.documents import Document, Finding, Path, of_kind

CONFIG: Final = ("spec", "serveConfigV2")


def config_of(document: Document) -> dict[str, Any]:
    """The Serve config of a RayService; empty where its text is no mapping."""
    try:
        value = yaml.safe_load(str(document.at(*CONFIG)))
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def check(documents: list[Document]) -> Iterator[Finding]:
    """What Serve would drop, refuse or fail to build."""
    for document in of_kind(documents, "RayService"):
        if not (config := config_of(document)):
            yield document.finding(CONFIG, "It must be one YAML mapping.")
            continue
        for path, sentence in faults(config):
            yield document.finding((*CONFIG, *path), sentence)
        if config.get("proxy_location") not in (None, "EveryNode"):
            sentence = "Only EveryNode gives a worker the proxy that KubeRay's readiness probe asks."
            yield document.finding((*CONFIG, "proxy_location"), sentence)
        for number, application in enumerate(config.get("applications") or []):
            for path, sentence in _application_faults(application):
                yield document.finding((*CONFIG, "applications", number, *path), sentence)


def _application_faults(application: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """What keeps an application from being built, and overrides of deployments that it does not have."""
    try:
        [parameter] = inspect.signature(builder := _builder(application)).parameters.values()
    except Exception as error:
        yield ("import_path",), f"This cannot be imported as a function of one argument: {_first_line(error)}"
        return
    arguments = application.get("args") or {}
    if wrong := list(_invalid(parameter.annotation, arguments, ("args",))):
        yield from wrong
        return
    try:
        known = {deployment.name for deployment in built(application)}
    except Exception as error:  # whatever the builder raises, it would raise in the cluster
        yield ("args",), f"{builder.__name__} cannot build the application: {_first_line(error)}"
        return
    for place, one in enumerate(application.get("deployments") or []):
        if one.get("name") not in known:
            sentence = f"The application has no deployment {one.get('name')}; it has {', '.join(sorted(known))}."
            yield ("deployments", place, "name"), sentence


def faults(config: Any) -> Iterator[tuple[Path, str]]:
    """Unknown keys and values of a wrong type in a Serve config."""
    yield from _unknown(config, ServeDeploySchema, ())
    yield from _invalid(ServeDeploySchema, config, ())
    for number, application in enumerate(config.get("applications") or []):
        for place, deployment in enumerate(application.get("deployments") or []):
            if isinstance(scaling := deployment.get("autoscaling_config"), dict):
                path: Path = ("applications", number, "deployments", place, "autoscaling_config")
                yield from _unknown(scaling, AutoscalingConfig, path)
                yield from _invalid(AutoscalingConfig, scaling, path)


def _invalid(kind: type[BaseModel], value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    try:
        kind.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        for fault in error.errors():
            yield (*path, *fault["loc"]), f"Something else is expected: {fault['msg']}."


def _unknown(value: Any, kind: type[BaseModel], path: Path) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        field = kind.model_fields.get(str(name))
        if field is None:
            yield (*path, name), f"Serve knows no key {name} here and would drop it without a word."
            continue
        for inner in _models(field.annotation):
            for place, one in enumerate(item) if isinstance(item, list) else [(None, item)]:
                yield from _unknown(one, inner, (*path, name) if place is None else (*path, name, place))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models of a type; none where a free mapping would do as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, list):
        parts = get_args(annotation)
        if not any(part is dict or get_origin(part) is dict for part in parts):
            for part in parts:
                yield from _models(part)


def built(application: dict[str, Any]) -> list[Deployment]:
    """The deployments that Serve makes of an application of the config, overrides not applied."""
    bound = call_user_app_builder_with_args_if_necessary(_builder(application), application.get("args") or {})
    no_handle: Any = lambda *_: None  # noqa: E731  nothing is called here
    finished = build_app(bound, name=application.get("name", "default"), make_deployment_handle=no_handle)
    return list(finished.deployments)


def _builder(application: dict[str, Any]) -> FunctionType:
    module, _, name = str(application["import_path"]).replace(":", ".").rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, FunctionType):
        raise TypeError(f"{name} is no function")
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
