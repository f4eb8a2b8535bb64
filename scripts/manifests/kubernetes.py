"""Every resource against the schema of its kind, no key unknown; custom kinds by a list, so no typo passes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, Path

VERSIONS: Final = ("1.31", "1.36")
"""Oldest and newest Kubernetes that the manifests are for."""
GROUPS: Final = "workerGroupSpecs"
AUTOSCALER: Final = "autoscalerOptions"
OF_CONTAINERS: Final = (
    "args",
    "command",
    "env",
    "envFrom",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "volumeMounts",
)
"""What the autoscaler's options have of a container."""
NAMESPACE: Final = ("metadata", "namespace")
CUSTOM: Final = {
    "cert-manager.io/v1": {"Certificate", "ClusterIssuer", "Issuer"},
    "external-secrets.io/v1": {"ClusterSecretStore", "ExternalSecret", "SecretStore"},
    "gateway.networking.k8s.io/v1": {"Gateway", "GatewayClass", "HTTPRoute"},
    "monitoring.coreos.com/v1": {"PodMonitor", "PrometheusRule", "ServiceMonitor"},
    "networking.istio.io/v1": {"DestinationRule", "Gateway", "Sidecar", "VirtualService"},
    "networking.istio.io/v1alpha3": {"EnvoyFilter"},
    "ray.io/v1": {"RayService"},
    "security.istio.io/v1": {"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"},
}
"""Kinds of others, of which this repository holds no schema."""


def check(documents: list[Document]) -> Iterator[Finding]:
    """Findings of the schemas, for each resource and each pod template of a RayService."""
    seen: set[tuple[str, str, str, str]] = set()
    for document in documents:
        name = (document.kind, str(document.body.get("apiVersion")), document.name, str(document.at(*NAMESPACE)))
        if name in seen:
            yield document.finding(("metadata", "name"), "Another resource of this kind has the same name; rename one.")
        seen.add(name)
        for path in _without_value(document.body, ()):
            yield document.finding(path, "This has no value; give it one, or take the key away.")
        if document.kind == NAMES_OF_SECRETS:
            continue
        if document.kind in CUSTOM.get(str(document.body.get("apiVersion")), set()):
            yield from _pod_templates(document)
        else:
            yield from against_schema(document, document.body, ())


def _without_value(value: Any, path: Path) -> Iterator[Path]:
    """What is null: a key that somebody forgot to give a value, which the API server takes for no key at all."""
    if value is None:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        yield from _without_value(part, (*path, step))


def _pod_templates(document: Document) -> Iterator[Finding]:
    if document.kind != "RayService":
        return
    cluster = ("spec", "rayClusterConfig")
    groups = [("headGroupSpec",), *(("workerGroupSpecs", i) for i in range(len(document.items(*cluster, GROUPS))))]
    for group in groups:
        path = (*cluster, *group, "template")
        body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": document.at(*path)}
        yield from against_schema(document, body, path, strip=1)
    if options := {key: value for key, value in document.mapping(*cluster, AUTOSCALER).items() if key in OF_CONTAINERS}:
        container = {"name": "autoscaler", "image": "x", **options}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
        yield from against_schema(document, pod, (*cluster, AUTOSCALER), strip=3)
    if service := document.at("spec", "serveService"):
        body = {"apiVersion": "v1", "kind": "Service", **service} if isinstance(service, dict) else {}
        yield from against_schema(document, body, ("spec", "serveService"))


def against_schema(document: Document, body: dict[str, Any], path: Path, strip: int = 0) -> Iterator[Finding]:
    """What the schemas of all versions say of `body`, at its place below `path`."""
    said: set[tuple[Path, str]] = set()
    kind, api_version = str(body.get("kind")), str(body.get("apiVersion"))
    for version in VERSIONS:
        validator = _validator(kind, api_version, version)
        if validator is None:
            sentence = f"Kubernetes {version} has no {api_version} {kind}; correct it, or add it to the custom kinds."
            yield document.finding(("kind",), sentence)
            return
        for error in validator.iter_errors(body):
            deepest = _deepest(error)
            place = (*path, *list(deepest.absolute_path)[strip:], *_unexpected(deepest))
            if (place, deepest.message) not in said:
                said.add((place, deepest.message))
                yield document.finding(place, f"Kubernetes {version} refuses this: {deepest.message[:200]}.")


@cache
def _definitions(folder: str) -> Any:
    return Resource.from_contents(schema_contents(f"{folder}/_definitions.json", ""))


@cache
def _validator(kind: str, api_version: str, version: str) -> Any:
    """The strict validator of a kind, or None where that version has no such kind."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group, _, number = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], number) if part)
    try:
        schema = schema_contents(f"{folder}/{name}.json", version)
    except FileNotFoundError:
        return None
    registry: Any = _definitions(folder) @ (Resource.from_contents(schema) @ Registry())
    return Draft202012Validator(schema, registry=registry)


def _unexpected(error: Any) -> Path:
    """The key that the schema does not know, as the last step to it."""
    if error.validator != "additionalProperties" or not isinstance(error.instance, dict):
        return ()
    return tuple(key for key in error.instance if key not in error.schema.get("properties", {}))[:1]


def _deepest(error: Any) -> Any:
    """Of an error that says "none of several fits", the part that says why."""
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error
