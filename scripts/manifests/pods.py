"""Every pod that the manifests make, whoever makes it, and what each must be: confined, measured, its image named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from manifests.documents import Document, Finding, Path
from manifests.rayservice.groups import CLUSTER, groups_of

TEMPLATES: Final[dict[str, Path]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
HOST_ACCESS: Final = ("hostNetwork", "hostPID", "hostIPC")
TAG: Final = re.compile(r"^[^@]*/?[^/:@]+:(?P<tag>[\w.-]+)$")
DRAIN: Final = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
DIGEST: Final = re.compile(r"@sha256:")


@dataclass(frozen=True)
class Pod:
    """One pod template: its place, and the labels that its pods will have."""

    document: Document
    path: Path
    labels: dict[str, str]
    group: str = ""
    """The group of a RayService, `head` for its head; empty for other pods."""

    @property
    def spec_path(self) -> Path:
        return (*self.path, "spec")

    @property
    def spec(self) -> dict[str, Any]:
        return self.document.mapping(*self.spec_path)

    def containers(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """All containers with their places, init containers too, and the autoscaler's that KubeRay adds to a head."""
        for kind in ("initContainers", "containers"):
            for number, container in enumerate(self.spec.get(kind) or []):
                if isinstance(container, dict):
                    yield (*self.spec_path, kind, number), container
        options = self.document.mapping(*CLUSTER, "autoscalerOptions")
        if self.group == "head" and self.document.at(*CLUSTER, "enableInTreeAutoscaling"):
            image = self.document.at(*self.spec_path, "containers", 0, "image")
            yield (*CLUSTER, "autoscalerOptions"), {"name": "autoscaler", "image": image, **options}


def pods_of(documents: list[Document]) -> list[Pod]:
    """All pod templates. A RayService's pods have the labels that KubeRay adds."""
    found = []
    for document in documents:
        if document.kind == "RayService":
            for group in groups_of(document):
                path = (*group.path, "template")
                node = "head" if group.is_head else "worker"
                added = {
                    "ray.io/is-ray-node": "yes",
                    "ray.io/node-type": node,
                    "ray.io/serve": str(node != "head").lower(),
                }
                added |= {"ray.io/group": "headgroup" if group.is_head else group.name, "ray.io/cluster": document.name}
                found.append(Pod(document, path, {**_labels(document, path), **added}, group.name))
        elif document.kind in TEMPLATES:
            path = TEMPLATES[document.kind]
            found.append(Pod(document, path, _labels(document, path)))
    return found


def _labels(document: Document, path: Path) -> dict[str, str]:
    return {str(name): str(value) for name, value in document.mapping(*path, "metadata", "labels").items()}


def check(documents: list[Document]) -> Iterator[Finding]:
    """Findings about single pods."""
    for pod in pods_of(documents):
        for path, sentence in (*_confined(pod), *_containers(pod), *_leaving(pod)):
            yield pod.document.finding(path, sentence)
    for document in documents:
        if document.kind == "RayService":
            yield from _one_image(document)


def _confined(pod: Pod) -> Iterator[tuple[Path, str]]:
    """The pod's side of pod security `restricted`; what is looser, the namespace refuses."""
    context = pod.spec.get("securityContext") or {}
    path = (*pod.spec_path, "securityContext")
    if context.get("runAsNonRoot") is not True:
        yield path, "runAsNonRoot must be true; the namespace is `restricted`."
    if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield path, "seccompProfile must be RuntimeDefault; the namespace is `restricted`."
    for name in HOST_ACCESS:
        if pod.spec.get(name):
            yield (*pod.spec_path, name), "A pod of ours stays out of the node's namespaces."
    for number, volume in enumerate(pod.spec.get("volumes") or []):
        if "hostPath" in volume:
            yield (*pod.spec_path, "volumes", number), "A pod of ours mounts nothing of the node."
    if pod.group != "head" and pod.spec.get("automountServiceAccountToken") is not False:
        yield pod.spec_path, "automountServiceAccountToken must be false: nothing here asks the API server."


def _containers(pod: Pod) -> Iterator[tuple[Path, str]]:
    names: set[str] = set()
    for path, container in pod.containers():
        yield from _container_confined(path, container)
        yield from _image(path, container)
        yield from _measured(pod, path, container)
        for number, port in enumerate(container.get("ports") or []):
            if "hostPort" in port:
                yield (*path, "ports", number, "hostPort"), "A port of the node is open to all who reach the node."
        if container.get("name") in names:
            yield (*path, "name"), "Another container of this pod has this name."
        names.add(str(container.get("name")))


def _container_confined(path: Path, container: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    context = container.get("securityContext") or {}
    place = (*path, "securityContext")
    if context.get("allowPrivilegeEscalation") is not False:
        yield place, "allowPrivilegeEscalation must be false; the namespace is `restricted`."
    if "ALL" not in ((context.get("capabilities") or {}).get("drop") or []):
        yield place, "capabilities must drop ALL; the namespace is `restricted`."
    if context.get("readOnlyRootFilesystem") is not True:
        yield place, "readOnlyRootFilesystem must be true; mount an emptyDir where something is written."
    mounts = [str(mount.get("mountPath")) for mount in container.get("volumeMounts") or []]
    if "/tmp" not in mounts and str(container.get("name")).startswith(("ray-", "autoscaler")):  # noqa: S108
        yield (*path, "volumeMounts"), "Ray writes to /tmp, and the root is read-only: mount an emptyDir there."


def _image(path: Path, container: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    image = str(container.get("image") or "")
    tag = TAG.match(image)
    if not DIGEST.search(image) and (tag is None or tag["tag"] == "latest"):
        yield (*path, "image"), f"{image or 'no image'} names no version; give a tag that is not `latest`, or a digest."


def _measured(pod: Pod, path: Path, container: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """With a quota every container needs requests and limits; Ray's are equal, so that nodes take no more than fits."""
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name in ("cpu", "memory"):
        if name not in requests or name not in limits:
            yield (*path, "resources"), f"requests and limits of {name} are needed: the namespace has a quota."
        elif pod.group and str(requests[name]) != str(limits[name]):
            yield (*path, "resources"), f"{name}: request and limit must be equal; Ray counts on the whole limit."


def _leaving(pod: Pod) -> Iterator[tuple[Path, str]]:
    """A worker has time to leave the Service, to drain, and some more, before it is killed."""
    for path, container in pod.containers():
        waits, drains = leaving_s(container)
        grace = int(pod.spec.get("terminationGracePeriodSeconds") or 30)
        if pod.group not in ("", "head") and path[-2:] == ("containers", 0) and not waits:
            yield (*path, "lifecycle"), "A worker needs preStop.sleep, or requests reach it after it has gone."
        if waits + drains >= grace:
            place = (*pod.spec_path, "terminationGracePeriodSeconds")
            sentence = f"preStop and draining take {waits + drains} s; the pod is killed after {grace} s. Give it more."
            yield place, sentence


def leaving_s(container: Mapping[str, Any]) -> tuple[int, int]:
    """Seconds that a container which is asked to end waits before SIGTERM, and those that Ray may drain after it."""
    hook = (container.get("lifecycle") or {}).get("preStop") or {}
    drain = next((one for one in container.get("env") or [] if one.get("name") == DRAIN), None)
    return int((hook.get("sleep") or {}).get("seconds") or 0), int((drain or {}).get("value") or 0)


def _one_image(document: Document) -> Iterator[Finding]:
    groups = groups_of(document)
    for group in groups[1:]:
        if group.container.get("image") != groups[0].container.get("image"):
            sentence = "Another image than the head's; Ray and the application must be the same on every node."
            yield document.finding((*group.container_path, "image"), sentence)
