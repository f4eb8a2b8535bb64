"""Whether all that Serve may start has room: each replica on some worker, all of them on all workers, everything in the
quota.

A replica without room is no error anywhere: Serve reports DEPLOYING or UPSCALING forever, and an upgrade never
switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.serve.deployment import Deployment

from manifests.application import CONFIG, built, config_of
from manifests.documents import CLUSTER, Document, Finding, Path, Pod, of_kind, pods_of

CLUSTERS_AT_ONCE: Final = 2
"""During a blue/green upgrade."""
AUTOSCALER: Final = {"cpu": "500m", "memory": "512Mi"}
"""KubeRay's defaults for the autoscaler."""


@dataclass(frozen=True)
class Replicas:
    """The replicas that one deployment may start."""

    name: str
    path: Path
    needs: dict[str, float]
    fewest: int
    most: int
    per_node: int

    def fit_on(self, node: dict[str, float]) -> int:
        """How many of them a node with these free resources can hold."""
        counts = [int(node.get(name, 0) / amount + 1e-9) for name, amount in self.needs.items()]
        return min([*counts, self.per_node])


def check(documents: list[Document]) -> Iterator[Finding]:
    """Findings of capacity; none for a Serve config that cannot be built, which `application` reports."""
    for document in of_kind(documents, "RayService"):
        nodes, replicas = node_types(document), list(replicas_of(document))
        if replicas:
            for path, sentence in (*_without_room(replicas, nodes), *_homes(document)):
                yield document.finding(path, sentence)
            yield from _idle_workers(document, replicas, nodes)
        yield from _quota(documents, document)


def node_types(document: Document) -> dict[str, dict[str, Any]]:
    """The groups as Ray's own autoscaler reads them: `resources`, `min_workers`, `max_workers`. Raises as it does."""
    name = {"name": document.name, "namespace": "x"}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": name, "spec": document.mapping(*CLUSTER)})
    types: dict[str, dict[str, Any]] = config["available_node_types"]
    return types


def replicas_of(document: Document) -> Iterator[Replicas]:
    """The deployments of a Serve config with the resources of each replica; an application that cannot be built has
    none."""
    for number, application in enumerate(config_of(document).get("applications") or []):
        path: Path = (*CONFIG, "applications", number, "args")
        deployments: list[Deployment] = []
        with suppress(Exception):  # any error of the builder; `application` reports it
            deployments = built(application)
        names = [one.get("name") for one in (application.get("args") or {}).get("models") or []]
        overrides = {one.get("name"): one for one in application.get("deployments") or []}
        for deployment in deployments:
            override = overrides.get(deployment.name, {})
            actor = override.get("ray_actor_options") or deployment.ray_actor_options or {}
            needs = {"CPU": actor.get("num_cpus", 1), "GPU": actor.get("num_gpus"), "memory": actor.get("memory")}
            needs |= actor.get("resources") or {}
            count = override.get("num_replicas") or deployment.num_replicas or 1
            scaling = deployment._deployment_config.autoscaling_config
            bounds = (scaling.min_replicas, scaling.max_replicas) if scaling else (count, count)
            if given := override.get("autoscaling_config"):
                bounds = (given.get("min_replicas", 1), given.get("max_replicas", 1))
            yield Replicas(
                deployment.name,
                (*path, "models", names.index(deployment.name)) if deployment.name in names else path,
                {name: float(amount) for name, amount in needs.items() if amount},
                *bounds,
                override.get("max_replicas_per_node") or deployment._replica_config.max_replicas_per_node or 10**6,
            )


def _without_room(replicas: list[Replicas], types: dict[str, dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    """Replicas that fit on no worker, and those left over when all workers are full: the largest are placed first."""
    nodes = [dict(node["resources"]) for node in types.values() for _ in range(node["max_workers"])]
    for one in sorted(replicas, key=lambda one: -one.needs.get("CPU", 0)):
        if not any(one.fit_on(node["resources"]) for node in types.values()):
            needs = ", ".join(f"{name} {amount:g}" for name, amount in one.needs.items())
            yield one.path, f"No worker of any group fits a replica of {one.name} ({needs})."
            continue
        left = one.most
        for node in nodes:
            placed = min(one.fit_on(node), left)
            left -= placed
            for name, amount in one.needs.items():
                node[name] = node.get(name, 0) - amount * placed
        if left:
            sentence = f"{one.name} may have {one.most} replicas, and all groups at maxReplicas take {one.most - left}."
            yield one.path, f"{sentence} Raise maxReplicas or lower the replicas."


def _idle_workers(document: Document, replicas: list[Replicas], types: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """A worker without a replica is never Ready: there must be as many minimal replicas as minimal workers."""
    for pod in pods_of([document])[1:]:
        expected = sum(one.fewest for one in replicas if one.fit_on(types[pod.group]["resources"]))
        if pod.count("minReplicas") > expected:
            sentence = f"{pod.count('minReplicas')} workers, but only {expected} replicas that always run: the others"
            yield document.finding((*pod.group_path, "minReplicas"), f"{sentence} would never be Ready.")


def _homes(document: Document) -> Iterator[tuple[Path, str]]:
    """An unknown home group causes no error: replicas start anywhere, and the burst group never ends."""
    groups = [pod.group for pod in pods_of([document])[1:]]
    for number, application in enumerate(config_of(document)["applications"]):
        for place, model in enumerate(application["args"].get("models") or []):
            if (home := model.get("home_group")) and home not in groups:
                path = (*CONFIG, "applications", number, "args", "models", place, "home_group")
                yield path, f"No worker group is called {home}; there are {', '.join(groups)}."


def _quota(documents: list[Document], service: Document) -> Iterator[Finding]:
    """Two clusters with all their workers, and all other pods, must fit into the namespace's quota."""
    for quota in of_kind(documents, "ResourceQuota"):
        for name, bound in quota.mapping("spec", "hard").items():
            side, _, resource = name.partition(".")
            if side in ("requests", "limits") and resource in AUTOSCALER:
                wanted = needed(documents, service, side, resource)
                if wanted > parse_quantity(str(bound)):
                    yield quota.finding(("spec", "hard", name), f"An upgrade needs {wanted:f}; the quota is {bound}.")


def needed(documents: list[Document], service: Document, side: str, resource: str) -> Decimal:
    """The resources of an upgrade: the old and the new cluster and all other pods, including those of Jobs, which may
    run meanwhile."""
    total = Decimal(0)
    for pod in pods_of([one for one in documents if one.kind != "RayService"]):
        total += int(pod.document.at("spec", "replicas") or 1) * _of_pod(pod, side, resource)
    for pod in pods_of([service]):
        number = 1 if pod.group == "head" else pod.count("maxReplicas")
        total += CLUSTERS_AT_ONCE * number * _of_pod(pod, side, resource)
    return total


def _of_pod(pod: Pod, side: str, resource: str) -> Decimal:
    """The sum of the containers, or the largest init container if that is larger."""
    together, one_by_one = Decimal(0), [Decimal(0)]
    for path, container in pod.containers():
        given = (container.get("resources") or {}).get(side) or {}
        default = AUTOSCALER[resource] if container["name"] == "autoscaler" else 0
        amount = Decimal(parse_quantity(str(given.get(resource, default))))
        if "initContainers" in path:
            one_by_one.append(amount)
        else:
            together += amount
    return max(together, *one_by_one)
