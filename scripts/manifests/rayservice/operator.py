"""The rules by which the operator (KubeRay 1.7) refuses a RayService that the API server has let in.

They are in its Go code alone: a broken one is seen as an event of the resource, when nothing starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from manifests.documents import Document, Finding, Path, of_kind
from manifests.rayservice.groups import CLUSTER, HEAD, Group, groups_of

NAME_MAX: Final = 47
DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
STRATEGIES: Final = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
GATED: Final = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Keys that need a feature gate which is off by default; the operator refuses the whole resource with one of them."""
REDIS_OUTSIDE: Final = ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "REDIS_USERNAME")
TOKEN_SINCE, PRIORITY_SINCE = (2, 52), (2, 56)
AUTOSCALER_V2: Final = "RAY_enable_autoscaler_v2"

Rule = Callable[[Document], Iterator[tuple[Path, str]]]


def check(documents: list[Document]) -> Iterator[Finding]:
    """What the operator would refuse."""
    for document in of_kind(documents, "RayService"):
        for rule in RULES:
            for path, sentence in rule(document):
                yield document.finding(path, f"The operator refuses this: {sentence}")


def _name(document: Document) -> Iterator[tuple[Path, str]]:
    if len(document.name) > NAME_MAX or not DNS_1035.fullmatch(document.name):
        yield ("metadata", "name"), f"a name is at most {NAME_MAX} of a-z, 0-9 and -, the first a letter."
    for key in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if document.mapping("metadata", "annotations").get(key) and document.at(*CLUSTER, "gcsFaultToleranceOptions"):
            yield ("metadata", "annotations", key), "it is said by gcsFaultToleranceOptions; take it away here."


def _strategy(document: Document) -> Iterator[tuple[Path, str]]:
    path = ("spec", "upgradeStrategy", "type")
    strategy = document.at(*path)
    if strategy is not None and strategy not in STRATEGIES:
        yield path, f"{strategy} is none of {', '.join(STRATEGIES)}."
    if strategy == "NewClusterWithIncrementalUpgrade":
        if not document.at(*CLUSTER, "enableInTreeAutoscaling"):
            yield (*CLUSTER, "enableInTreeAutoscaling"), "an incremental upgrade needs the autoscaler."
        yield from _incremental(document, ("spec", "upgradeStrategy", "clusterUpgradeOptions"))


def _incremental(document: Document, options: Path) -> Iterator[tuple[Path, str]]:
    if document.at(*options) is None:
        yield options, "an incremental upgrade needs them."
        return
    surge, step = (document.at(*options, key) for key in ("maxSurgePercent", "stepSizePercent"))
    surge = 100 if surge is None else surge
    if surge > 100:
        yield (*options, "maxSurgePercent"), "it is at most 100."
    if (step or 0) > surge:
        yield (*options, "stepSizePercent"), "it is larger than maxSurgePercent."
    if not document.at(*options, "intervalSeconds"):
        yield (*options, "intervalSeconds"), "it is 1 or more."
    if not document.at(*options, "gatewayClassName"):
        yield (*options, "gatewayClassName"), "an incremental upgrade needs the name of a GatewayClass."


def _cluster(document: Document) -> Iterator[tuple[Path, str]]:
    cluster = document.mapping(*CLUSTER)
    for key in GATED:
        if cluster.get(key) is not None:
            yield (*CLUSTER, key), "its feature gate is off by default; use what k8s/ has for it."
    if cluster.get("upgradeStrategy") is not None:
        yield (*CLUSTER, "upgradeStrategy"), "it belongs to spec, not to the cluster."
    if document.at(*CLUSTER, HEAD, "headService", "metadata", "name"):
        yield (*CLUSTER, HEAD, "headService", "metadata", "name"), "the operator names the Service; leave it out."


def _auth(document: Document) -> Iterator[tuple[Path, str]]:
    options = (*CLUSTER, "authOptions")
    if document.at(*options, "enableK8sTokenAuth"):
        yield (*options, "enableK8sTokenAuth"), "a RayService has Ray's own tokens alone."
    if document.at(*options, "mode") == "token" and version_of(document) < TOKEN_SINCE:
        yield (*CLUSTER, "rayVersion"), "tokens need Ray 2.52 or later, written here."


def _groups(document: Document) -> Iterator[tuple[Path, str]]:
    names: set[str] = set()
    for group in groups_of(document):
        if not group.container:
            yield (*group.path, "template", "spec", "containers"), "a group needs a container."
        parameters = group.mapping("rayStartParams")
        if group.mapping("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(parameters):
            yield (*group.path, "resources"), "say resources here or in rayStartParams, not in both."
        if "labels" in parameters:
            yield (*group.path, "rayStartParams", "labels"), "labels belong into the group's own key."
        if not group.is_head:
            yield from _worker(document, group)
        if group.name in names:
            yield (*group.path, "groupName"), "another group has this name."
        names.add(group.name)


def _worker(document: Document, group: Group) -> Iterator[tuple[Path, str]]:
    is_v2 = document.at(*CLUSTER, "autoscalerOptions", "version") == "v2"
    if group.count("minReplicas") > group.count("maxReplicas"):
        yield (*group.path, "minReplicas"), "it is larger than maxReplicas."
    if group.at("idleTimeoutSeconds") is not None and not is_v2:
        yield (*group.path, "idleTimeoutSeconds"), "it needs autoscalerOptions.version: v2."
    if group.at("priority") and not (is_v2 and version_of(document) >= PRIORITY_SINCE):
        yield (*group.path, "priority"), "it needs autoscalerOptions.version: v2 and Ray 2.56 or later."
    if group.at("suspend") and document.at(*CLUSTER, "enableInTreeAutoscaling"):
        yield (*group.path, "suspend"), "a group cannot be suspended under the autoscaler."


def _autoscaler(document: Document) -> Iterator[tuple[Path, str]]:
    version = document.at(*CLUSTER, "autoscalerOptions", "version")
    for group in groups_of(document):
        policy = group.at("template", "spec", "restartPolicy")
        if version == "v2" and policy not in (None, "Never"):
            yield (*group.path, "template", "spec", "restartPolicy"), "under autoscaler v2 it is Never, or left out."
        if group.is_head and version and AUTOSCALER_V2 in group.environment:
            yield (*group.container_path, "env"), f"{AUTOSCALER_V2} is said by autoscalerOptions.version."


def _fault_tolerance(document: Document) -> Iterator[tuple[Path, str]]:
    head = groups_of(document)[0]
    for name in REDIS_OUTSIDE:
        if name in head.environment:
            yield (*head.container_path, "env"), f"{name} belongs into gcsFaultToleranceOptions."
    for key in ("redis-password", "redis-username"):
        if key in head.mapping("rayStartParams"):
            yield (*head.path, "rayStartParams", key), "it belongs into gcsFaultToleranceOptions."


def _serve_port(document: Document) -> Iterator[tuple[Path, str]]:
    head = groups_of(document)[0]
    names = [port.get("name") for port in head.container.get("ports") or [] if isinstance(port, dict)]
    if "serve" not in names and document.at("spec", "serveService") is None:
        yield (*head.container_path, "ports"), "without a port named serve on the head it makes no Service for Serve."


def version_of(document: Document) -> tuple[int, ...]:
    """`rayVersion` as numbers; () where it says none."""
    numbers = re.match(r"(\d+)\.(\d+)", str(document.at(*CLUSTER, "rayVersion")))
    return tuple(int(number) for number in numbers.groups()) if numbers else ()


RULES: Final[tuple[Rule, ...]] = (
    _name,
    _strategy,
    _cluster,
    _auth,
    _groups,
    _autoscaler,
    _fault_tolerance,
    _serve_port,
)
