"""Checks of the Serve config and the service's settings, and of what production refuses.

Serve drops unknown keys silently, and accepts the text "8" as a number; the service ignores unknown settings. The
service itself checks the values of secrets: docs/settings.md, Production.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, Final

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Deployment
from ray.serve.schema import ServeDeploySchema

from manifests.documents import Document, Finding, Path, UniqueKeys, of_kind, pods_of
from serve_app.settings import Settings

CONFIG: Final = ("spec", "serveConfigV2")
COMPONENT: Final = "settings"
"""The label of the ConfigMap; its name varies, because `scripts/cluster` adds a digest to it."""
FROM_ELSEWHERE: Final = {
    "redis_url": "redis://:of-the-secret-not-known-here@redis:6379/0",
    "model_cache_dir": "/models",
}
"""Settings that a pod gets from a Secret and from its image."""
PLACEHOLDER: Final = re.compile(r"\b(?:REPLACE|CHANGE)[-_]?(?:ME|WITH)|\bexample\.(?:com|net|org)\b", re.IGNORECASE)
DIGEST: Final = re.compile(r"@sha256:[0-9a-f]{64}$")
DEVELOPMENT: Final = "dev-issuer"
WIDEST: Final = 4096
"""The largest network, in addresses, that a rule for egress to the API server or a store may name."""
DURABLE: Final = ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction")
"""Options of the job Redis that keep accepted jobs on disk."""

Fault = tuple[Path, str]


def check(documents: list[Document]) -> Iterator[Finding]:
    """Keys and values that Serve would drop, refuse or fail to build, and settings that the service would ignore or
    refuse."""
    for document in of_kind(documents, "RayService"):
        if not (config := config_of(document)):
            yield document.finding(CONFIG, "It must be one YAML mapping, with no key twice.")
        for path, sentence in faults(config):
            yield document.finding((*CONFIG, *path), sentence)
        for number, application in enumerate(config.get("applications") or []):
            for path, sentence in _application_faults(application):
                yield document.finding((*CONFIG, "applications", number, *path), sentence)
    yield from check_settings(documents)


def config_of(document: Document) -> dict[str, Any]:
    """The Serve config of a RayService; empty if its text is not a mapping."""
    try:
        [value] = yaml.load_all(str(document.at(*CONFIG)), UniqueKeys)
    except (yaml.YAMLError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def faults(config: dict[str, Any]) -> Iterator[Fault]:
    """Unknown keys and values of a wrong type in a Serve config."""
    yield from _faults(ServeDeploySchema, config, ())
    for number, application in enumerate(config.get("applications") or []):
        for place, deployment in enumerate(application.get("deployments") or []):
            if isinstance(scaling := deployment.get("autoscaling_config"), dict):
                path: Path = ("applications", number, "deployments", place, "autoscaling_config")
                yield from _faults(AutoscalingConfig, scaling, path)


def _faults(kind: type[BaseModel], value: Any, path: Path) -> Iterator[Fault]:
    try:
        kind.model_validate_json(json.dumps(value), strict=True, extra="forbid")
    except ValidationError as error:
        yield from _reported(error, path)


def _reported(error: ValidationError, path: Path) -> Iterator[Fault]:
    for fault in error.errors():
        sentence = f"Something else is expected: {fault['msg']}."
        if fault["type"] == "extra_forbidden":
            sentence = f"Serve knows no key {fault['loc'][-1]} here and would drop it without a word."
        yield (*path, *fault["loc"]), sentence


def _application_faults(application: dict[str, Any]) -> Iterator[Fault]:
    """Why an application cannot be built, and overrides of deployments that it does not have."""
    try:
        known = {deployment.name for deployment in built(application)}
    except ValidationError as error:
        yield from _reported(error, ("args",))
        return
    except Exception as error:  # any error of the builder would be raised in the cluster too
        first = str(error).partition("\n")[0]
        yield ("import_path",), f"Serve cannot build this application: {type(error).__name__}: {first}"
        return
    for place, one in enumerate(application.get("deployments") or []):
        if one.get("name") not in known:
            sentence = f"The application has no deployment {one.get('name')}; it has {', '.join(sorted(known))}."
            yield ("deployments", place, "name"), sentence


def built(application: dict[str, Any]) -> list[Deployment]:
    """The deployments that Serve makes of an application of the config, overrides not applied."""
    module, _, name = str(application["import_path"]).replace(":", ".").rpartition(".")
    builder = getattr(importlib.import_module(module), name)
    bound = call_user_app_builder_with_args_if_necessary(builder, application.get("args") or {})
    no_handle: Any = lambda *_: None  # noqa: E731  nothing is called here
    finished = build_app(bound, name=application.get("name", "default"), make_deployment_handle=no_handle)
    return list(finished.deployments)


def settings_of(documents: list[Document]) -> list[Document]:
    """The ConfigMap with the settings, as a list, because it may be missing."""
    label = ("metadata", "labels", "app.kubernetes.io/component")
    return [document for document in of_kind(documents, "ConfigMap") if document.at(*label) == COMPONENT]


def check_settings(documents: list[Document]) -> Iterator[Finding]:
    """Unknown settings, values that the service refuses, and secrets."""
    for document in settings_of(documents):
        for name in map(str, document.mapping("data")):
            field = Settings.model_fields.get(name.lower())
            if field is None or name != name.upper():
                yield document.finding(("data", name), f"The service has no setting {name}; see docs/settings.md.")
            elif isinstance(field.default, SecretStr):
                yield document.finding(("data", name), f"{name} is a secret, and a ConfigMap is none: use a Secret.")
        try:
            _tried(document)
        except ValidationError as error:
            for fault in error.errors():
                path = ("data", *(str(step).upper() for step in fault["loc"][:1]))
                yield document.finding(path, f"The service refuses this: {fault['msg']}.")


def production_faults(document: Document) -> Iterator[Finding]:
    """The settings that the service refuses in prod, and whether ENVIRONMENT is `prod`: otherwise the service checks
    none of them."""
    if document.at("data", "ENVIRONMENT") != "prod":
        yield document.finding(("data", "ENVIRONMENT"), "Only with `prod` does the service refuse weak values.")
    try:
        refused = _tried(document).production_faults()
    except ValidationError:
        return  # `check_settings` reports them
    for fault in refused:
        name = re.match(r"\w+", fault)
        yield document.finding(("data", name[0] if name else ""), f"prod refuses this: {fault}.")


def _tried(document: Document) -> Settings:
    """The settings in a pod, without variables of this shell. ENVIRONMENT is left out: in prod the service requires
    values of the site, which are not in git."""
    given: dict[str, Any] = {str(name).lower(): str(value) for name, value in document.mapping("data").items()}
    given.pop("environment", None)
    return Settings(_env_prefix="NOT_FROM_THIS_SHELL_", **{**FROM_ELSEWHERE, **given})  # type: ignore[call-arg]


def refusals(documents: list[Document]) -> Iterator[Finding]:
    """The findings of production in the manifests of one cluster, whatever environment they name."""
    for document in documents:
        for path, sentence in _production_faults(document):
            yield document.finding(path, sentence)
    yield from _pods(documents)
    yield from _production_settings(documents)
    for found, kind, sentence in (
        (settings_of(documents), "ConfigMap", "The settings are missing; the overlay generates them."),
        (of_kind(documents, "Ingress", "Gateway"), "Ingress", "Nothing leads in; take one of the edges of k8s/."),
    ):
        if not list(found):
            yield Finding(documents[0].file if documents else "?", kind, "", sentence)


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a resource with its path; of longer ones, scripts and files, each line."""
    if isinstance(value, dict | list):
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(item, (*path, step))
    elif isinstance(value, str):
        yield from ((path, line.strip()) for line in value.splitlines())


def _production_faults(document: Document) -> Iterator[tuple[Path, str]]:
    """The findings in a single document."""
    for path, text in texts(document.body):
        if PLACEHOLDER.search(text):
            yield path, f"`{text}` is a placeholder; put the site's own value there."
        elif document.kind == "NetworkPolicy" and path[:2] == ("spec", "egress") and path[-1] == "cidr":
            is_wide = ip_network(text, strict=False).num_addresses > WIDEST
            if is_wide and not document.at(*path[:-1], "except"):  # the gateways' rule for egress has exceptions
                yield path, f"{text} is wider than one place; name the addresses that are meant."
    if DEVELOPMENT in (document.name, document.at("metadata", "labels", "app.kubernetes.io/component")):
        yield ("metadata", "name"), "The development issuer signs for anybody; leave it out."
    if document.kind == "Ingress" and not document.items("spec", "tls"):
        yield ("spec", "tls"), "Tokens would travel in the clear; name a certificate."
    yield from _forgets(document)


def _forgets(document: Document) -> Iterator[tuple[Path, str]]:
    """Stores that could lose accepted jobs."""
    if document.kind == "StatefulSet" and not document.items("spec", "volumeClaimTemplates"):
        yield ("spec",), "A store without a volume forgets everything; claim one."
    if document.name.startswith("redis-") and "start.sh" in document.mapping("data"):
        for line in DURABLE:
            if line not in str(document.at("data", "redis.conf")).splitlines():
                yield ("data", "redis.conf"), f"`{line}` is missing; accepted jobs could be lost."


def _pods(documents: list[Document]) -> Iterator[Finding]:
    """Images that can change, and variables that override the checked settings."""
    for pod in pods_of(documents):
        for path, container in pod.containers():
            if not DIGEST.search(image := str(container.get("image", ""))):
                sentence = f"`{image}` has no digest, so what runs can change; name it by @sha256:…"
                yield pod.document.finding((*path, "image"), sentence)
            for number, entry in enumerate(container.get("env") or []):
                if "value" in entry and (name := str(entry.get("name"))).lower() in Settings.model_fields:
                    sentence = f"{name} here wins over the settings; write it to settings.env."
                    yield pod.document.finding((*path, "env", number), sentence)


def _production_settings(documents: list[Document]) -> Iterator[Finding]:
    """Values that the service itself would refuse, or would accept because ENVIRONMENT is not `prod`."""
    yield from check_settings(documents)
    for document in settings_of(documents):
        for finding in production_faults(document):
            if not PLACEHOLDER.search(str(document.at(*finding.path.split(".")))):  # reported already
                yield finding
