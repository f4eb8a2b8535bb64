"""What a container sees of the cluster's objects: its environment, its command, its volumes' files. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.contracts import Json

REFERENCE = re.compile(r"\$\((\w+)\)")
Data = Mapping[str, str]


@dataclass(frozen=True)
class Objects:
    """Secrets and ConfigMaps of the namespace, by name."""

    secrets: dict[str, Data] = field(default_factory=dict)
    config_maps: dict[str, Data] = field(default_factory=dict)


class Unresolved(Exception):
    """A pod names an object or a key that is not there: a real one would stay in CreateContainerConfigError."""


def environment_of(container: Json, pod: Json, address: str, objects: Objects) -> dict[str, str]:
    """The variables of `envFrom`, then of `env`, which win."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for kind, given in (("configMapRef", objects.config_maps), ("secretRef", objects.secrets)):
            if reference := source.get(kind):
                found |= {source.get("prefix", "") + name: value for name, value in _data(reference, given).items()}
    for entry in container.get("env", []):
        if "value" in entry:
            found[entry["name"]] = expanded(entry["value"], found)
        elif "valueFrom" in entry:
            value = _from(entry["valueFrom"], pod, address, objects)
            found |= {} if value is None else {entry["name"]: value}
    return found


def expanded(text: str, environment: Data) -> str:
    """`$(NAME)` replaced where there is such a variable, as the kubelet does."""
    return REFERENCE.sub(lambda match: environment.get(match[1], match[0]), text)


def command_of(container: Json, environment: Data) -> list[str]:
    """Command and arguments. An image's own entry point is not known here, so a container must say its own."""
    return [expanded(part, environment) for part in [*container["command"], *container.get("args", [])]]


def files_of(volume: Json, objects: Objects) -> dict[str, str] | None:
    """The files of a volume from a Secret or a ConfigMap; None for other kinds."""
    for kind, name, given in (("secret", "secretName", objects.secrets), ("configMap", "name", objects.config_maps)):
        if source := volume.get(kind):
            data = _data({**source, "name": source[name]}, given)
            keys = {item["key"]: item["path"] for item in source.get("items", [])} or {key: key for key in data}
            return {path: data[key] for key, path in keys.items()}
    return None


def _from(source: Json, pod: Json, address: str, objects: Objects) -> str | None:
    if reference := source.get("fieldRef"):
        metadata = pod["metadata"]
        fields = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "status.podIP": address,
        }
        return str(fields[reference["fieldPath"]])
    for kind, given in (("secretKeyRef", objects.secrets), ("configMapKeyRef", objects.config_maps)):
        if reference := source.get(kind):
            data = _data(reference, given)
            if reference["key"] in data:
                return data[reference["key"]]
            if reference.get("optional"):
                return None
            raise Unresolved(f"{reference['name']} has no key {reference['key']}")
    raise Unresolved(f"{', '.join(source)} is not known here")


def _data(reference: Json, given: Mapping[str, Data]) -> Data:
    if reference["name"] in given:
        return given[reference["name"]]
    if reference.get("optional"):
        return {}
    raise Unresolved(f"there is no {reference['name']}")
