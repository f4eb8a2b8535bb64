"""How the nodes are started: `ray start` knows every parameter, Ray every variable, Ray's autoscaler every group."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path as File
from typing import Any, Final

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.scripts.scripts import start

from manifests.documents import Document, Finding, of_kind
from manifests.pods import DRAIN
from manifests.rayservice.groups import CLUSTER, Group, groups_of

ONLY_ONE_SIDE: Final = {"DATABASE_URL", "METRICS_TOKEN", "REDIS_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", DRAIN}
"""Variables of the application, which some groups have and others must not, and the one that a head needs not."""
BINARIES: Final = ("core/src/ray/raylet/raylet", "core/src/ray/gcs/gcs_server")


def check(documents: list[Document]) -> Iterator[Finding]:
    """Unknown parameters and variables, nodes that differ in how Ray runs, groups the autoscaler cannot read."""
    for document in of_kind(documents, "RayService"):
        groups = groups_of(document)
        yield from _parameters(document, groups)
        yield from _variables(document, groups)
        yield from _version(document)
        try:
            node_types(document)
        except Exception as error:  # whatever Ray's parser raises, it would raise in the cluster
            yield document.finding(
                CLUSTER, f"Ray's autoscaler cannot read the groups: {type(error).__name__}: {error}."
            )


def node_types(document: Document) -> dict[str, dict[str, Any]]:
    """The groups as Ray's own autoscaler reads them: `resources`, `min_workers`, `max_workers`. Raises as it does."""
    name = {"name": document.name, "namespace": "x"}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": name, "spec": document.mapping(*CLUSTER)})
    types: dict[str, dict[str, Any]] = config["available_node_types"]
    return types


def _parameters(document: Document, groups: list[Group]) -> Iterator[Finding]:
    known = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    for group in groups:
        for name in group.mapping("rayStartParams"):
            if name not in known:
                sentence = f"`ray start` has no option --{name}: the node would not start."
                yield document.finding((*group.path, "rayStartParams", name), sentence)
        if (resources := group.mapping("rayStartParams").get("resources")) and not _is_json_for_bash(str(resources)):
            sentence = """bash must make JSON of this: resources: '"{\\"name\\": 1}"'."""
            yield document.finding((*group.path, "rayStartParams", "resources"), sentence)
        if group.is_head and str(group.mapping("rayStartParams").get("num-cpus")) != "0":
            sentence = 'The head must have num-cpus: "0", or replicas run beside the control plane.'
            yield document.finding((*group.path, "rayStartParams", "num-cpus"), sentence)


def _is_json_for_bash(text: str) -> bool:
    """Whether the operator's command line, which bash reads, gives `ray start` a JSON object."""
    try:
        [word] = shlex.split(text)
        return isinstance(json.loads(word), dict)
    except ValueError:
        return False


def _variables(document: Document, groups: list[Group]) -> Iterator[Finding]:
    head = {name: value for name, value in groups[0].environment.items() if name not in ONLY_ONE_SIDE}
    for group in groups:
        path = (*group.container_path, "env")
        names = [str(pair.get("name")) for pair in document.items(*path)]
        for number, name in enumerate(names):
            if name in names[:number]:
                yield document.finding((*path, number), f"{name} stands twice; the last one counts.")
            if name.startswith("RAY_") and not known_to_ray(name):
                yield document.finding((*path, number), f"Ray reads no variable {name}.")
        own = {name: value for name, value in group.environment.items() if name not in ONLY_ONE_SIDE}
        for name in sorted({*own, *head}):
            if own.get(name, "") != head.get(name, ""):
                sentence = f"{name} differs from the head's; Ray and Serve must run the same way on every node."
                yield document.finding(path, sentence)


def _version(document: Document) -> Iterator[Finding]:
    if (given := document.at(*CLUSTER, "rayVersion")) != version("ray"):
        sentence = f"rayVersion is {given}, the locked Ray is {version('ray')}; KubeRay chooses probes by it."
        yield document.finding((*CLUSTER, "rayVersion"), sentence)


def known_to_ray(name: str) -> bool:
    """Whether Ray's code, Python or compiled, reads that variable."""
    return name in _python_words() or any(_holds(binary, name.removeprefix("RAY_").encode()) for binary in _compiled())


def _holds(binary: bytes, word: bytes) -> bool:
    """Whether the word stands alone in it somewhere; `find`, for a pattern takes seconds for so much."""
    begin = binary.find(word)
    while begin != -1:
        around = (
            binary[begin - 4 : begin].removesuffix(b"RAY_")[-1:] + binary[begin + len(word) : begin + len(word) + 1]
        )
        if not re.search(rb"\w", around):
            return True
        begin = binary.find(word, begin + 1)
    return False


@cache
def _ray() -> File:
    spec = find_spec("ray")
    if spec is None or spec.origin is None:
        raise RuntimeError("Ray is not installed")
    return File(spec.origin).parent


@cache
def _python_words() -> set[str]:
    files = [file for folder in ("_common", "_private", "serve") for file in (_ray() / folder).rglob("*.py")]
    return {word for file in files for word in re.findall(r"RAY_\w+", file.read_text("utf-8"))}


@cache
def _compiled() -> list[bytes]:
    return [(_ray() / file).read_bytes() for file in BINARIES]
