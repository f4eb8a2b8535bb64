"""Whether what Serve may start finds room: each replica on some worker, all of them on all workers, all in the quota.

A replica without room is no error anywhere: Serve says DEPLOYING or UPSCALING for ever, and an upgrade never switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity

from manifests.documents import Document, Finding, Path, of_kind
from manifests.pods import CLUSTER, TEMPLATES, groups_of
from manifests.serve import CONFIG, built, config_of

CLUSTERS_AT_ONCE: Final = 2
"""During a blue/green upgrade."""
INIT_AND_AUTOSCALER: Final = {"cpu": Decimal("0.5"), "memory": Decimal(512 * 2**20)}
"""What KubeRay gives the autoscaler where the manifest says nothing."""


@dataclass(frozen=True)
class Replicas:
    """What one deployment may start."""

    name: str
    path: Path
    needs: dict[str, float]
    fewest: int
    most: int
    per_node: int | None

    def fit_on(self, node: dict[str, float]) -> int:
        """How many an empty node takes."""
        counts = [int(node.get(name, 0) / amount + 1e-9) for name, amount in self.needs.items() if amount > 0]
        return min([*counts, self.per_node or 10**6])


def check(documents: list[Document]) -> Iterator[Finding]:
    """Findings of capacity. A Serve config that cannot be built gives none here: `serve` says why."""
    for document in of_kind(documents, "RayService"):
        nodes, replicas = node_types(document), list(replicas_of(document))
        if replicas:
            for path, sentence in _without_room(replicas, nodes):
                yield document.finding(path, sentence)
            yield from _idle_workers(document, replicas, nodes)
            yield from _homes(document)
        yield from _quota(documents, document)


def node_types(document: Document) -> dict[str, dict[str, Any]]:
    """The groups as Ray's own autoscaler reads them: `resources`, `min_workers`, `max_workers`. Raises as it does."""
    name = {"name": document.name, "namespace": "x"}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": name, "spec": document.mapping(*CLUSTER)})
    types: dict[str, dict[str, Any]] = config["available_node_types"]
    return types


def replicas_of(document: Document) -> Iterator[Replicas]:
    """The deployments of a Serve config with what each replica needs; none of an application that cannot be built."""
    for number, application in enumerate(config_of(document).get("applications") or []):
        path: Path = (*CONFIG, "applications", number, "args")
        arguments = application.get("args") or {}
        models = {one.get("name"): place for place, one in enumerate(arguments.get("models") or [])}
        overrides = {one.get("name"): one for one in application.get("deployments") or []}
        try:
            deployments = built(application)
        except Exception:  # whatever the builder raises; `serve` tells it
            deployments = []
        for deployment in deployments:
            override = overrides.get(deployment.name, {})
            actor = {**(override.get("ray_actor_options") or deployment.ray_actor_options or {})}
            needs = {"CPU": actor.get("num_cpus", 1), "GPU": actor.get("num_gpus"), "memory": actor.get("memory")}
            needs |= actor.get("resources") or {}
            scaling = override.get("autoscaling_config") or _scaling(deployment)
            count = override.get("num_replicas") or deployment.num_replicas or 1
            yield Replicas(
                deployment.name,
                (*path, "models", models[deployment.name]) if deployment.name in models else path,
                {name: float(amount) for name, amount in needs.items() if amount},
                scaling.get("min_replicas", 1) if scaling else count,
                scaling.get("max_replicas", 1) if scaling else count,
                override.get("max_replicas_per_node") or deployment._replica_config.max_replicas_per_node,
            )


def _scaling(deployment: Any) -> dict[str, Any]:
    scaling = deployment._deployment_config.autoscaling_config
    return {"min_replicas": scaling.min_replicas, "max_replicas": scaling.max_replicas} if scaling else {}


def _without_room(replicas: list[Replicas], types: dict[str, dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    """Replicas no worker fits, and those left over when every worker there may be is full: the largest go first."""
    homeless = {one.name for one in replicas if not any(one.fit_on(node["resources"]) for node in types.values())}
    for one in replicas:
        if one.name in homeless:
            yield one.path, f"No worker of any group fits a replica of {one.name} ({_described(one.needs)})."
    nodes = [dict(node["resources"]) for node in types.values() for _ in range(node["max_workers"])]
    holds: list[dict[str, int]] = [{} for _ in nodes]
    for one in sorted(replicas, key=lambda one: -one.needs.get("CPU", 0)):
        placed = 0
        for node, held in zip(nodes, holds, strict=True):
            fitting = min(one.fit_on(node), one.most - placed)
            if one.per_node:
                fitting = min(fitting, one.per_node - held.get(one.name, 0))
            for name, amount in one.needs.items():
                node[name] = node.get(name, 0) - amount * fitting
            placed += fitting
            held[one.name] = held.get(one.name, 0) + fitting
        if placed < one.most and one.name not in homeless:
            sentence = f"{one.name} may have {one.most} replicas, and all groups at maxReplicas take {placed}."
            yield one.path, f"{sentence} Raise maxReplicas or lower the replicas."


def _described(needs: dict[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in needs.items())


def _idle_workers(document: Document, replicas: list[Replicas], types: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """A worker without a replica is NotReady for ever: fewest replicas must be as many as fewest workers."""
    for group in groups_of(document)[1:]:
        node = types.get(group.name, {}).get("resources", {})
        expected = sum(one.fewest for one in replicas if one.fit_on(node))
        if group.count("minReplicas") > expected:
            sentence = f"{group.count('minReplicas')} workers, but only {expected} replicas that always run: the others"
            yield document.finding((*group.path, "minReplicas"), f"{sentence} would never be Ready.")


def _homes(document: Document) -> Iterator[Finding]:
    """A home that is no group is no error anywhere: replicas go where there is room, and the burst group never ends."""
    groups = [group.name for group in groups_of(document)[1:]]
    for number, application in enumerate(config_of(document)["applications"]):
        path = (*CONFIG, "applications", number, "args", "models")
        for place, model in enumerate(application["args"].get("models") or []):
            if (home := model.get("home_group")) and home not in groups:
                sentence = f"No worker group is called {home}; there are {', '.join(groups)}."
                yield document.finding((*path, place, "home_group"), sentence)


def _quota(documents: list[Document], service: Document) -> Iterator[Finding]:
    """Two clusters, with all workers there may be, and everything else, must fit the namespace's quota."""
    for quota in of_kind(documents, "ResourceQuota"):
        hard = quota.mapping("spec", "hard")
        for resource in ("cpu", "memory"):
            for side in ("requests", "limits"):
                if (bound := hard.get(f"{side}.{resource}")) is None:
                    continue
                wanted = needed(documents, service, side, resource)
                if wanted > parse_quantity(str(bound)):
                    sentence = f"An upgrade needs {side}.{resource} of {wanted:f}; the quota is {bound}."
                    yield quota.finding(("spec", "hard", f"{side}.{resource}"), sentence)


def needed(documents: list[Document], service: Document, side: str, resource: str) -> Decimal:
    """What an upgrade needs of the namespace: the cluster before and the one after, and all that is around them."""
    around = sum(_pods_total(document, side, resource) for document in documents)
    return CLUSTERS_AT_ONCE * _cluster_total(service, side, resource) + around


def _cluster_total(service: Document, side: str, resource: str) -> Decimal:
    autoscaler = service.at(*CLUSTER, "autoscalerOptions", "resources", side, resource)
    total = parse_quantity(str(autoscaler)) if autoscaler is not None else INIT_AND_AUTOSCALER[resource]
    for group in groups_of(service):
        number = 1 if group.is_head else group.count("maxReplicas")
        total += number * _containers_total(group.mapping("template", "spec"), side, resource)
    return Decimal(total)


def _pods_total(document: Document, side: str, resource: str) -> Decimal:
    """Pods of a workload at one time; those of Jobs too, for they may run during an upgrade."""
    if document.kind not in TEMPLATES:
        return Decimal(0)
    template = document.mapping(*TEMPLATES[document.kind], "spec")
    return int(document.at("spec", "replicas") or 1) * _containers_total(template, side, resource)


def _containers_total(spec: dict[str, Any], side: str, resource: str) -> Decimal:
    """Containers add up; of init containers the largest counts where it is larger."""

    def amounts(kind: str) -> list[Decimal]:
        containers = [one for one in spec.get(kind) or [] if isinstance(one, dict)]
        found = [((one.get("resources") or {}).get(side) or {}).get(resource, 0) for one in containers]
        return [Decimal(parse_quantity(str(amount))) for amount in found]

    return max(sum(amounts("containers"), Decimal(0)), *amounts("initContainers"), Decimal(0))
