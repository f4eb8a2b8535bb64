"""The simulated cluster: the node's network, its names, and every pod that runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from serve_app.contracts import Json
from simulator.manifest.environment import Objects
from simulator.manifest.policies import Cluster, Place, rules
from simulator.pods.image import Image
from simulator.pods.kubelet import Kubelet
from simulator.pods.network import NODE, Namespace, Network
from simulator.pods.pod import Pod, Surroundings

DOMAIN = "svc.cluster.local"
AT_ONCE = 2
"""Pods that start at the same time."""


class House:
    """Pods by name. The policies hold for all of them, and are applied anew whenever one comes."""

    def __init__(self, folder: Path, objects: Objects, images: Mapping[str, Image], policies: Sequence[Json]) -> None:
        self.folder, self.policies = folder, policies
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.network = Network()
        self.around = Surroundings(objects, self.hosts, dict(images), folder / "pods")
        self.kubelets: dict[str, Kubelet] = {}
        self.watchers: list[Callable[[], None]] = []
        """Called whenever a pod comes, goes, or changes its readiness."""
        self._services: dict[str, str] = {}
        self._lock, self._applying = threading.Lock(), threading.Lock()
        self._places: dict[str, tuple[Place, Namespace]] = {}
        self._loaded: dict[str, str] = {}
        self._gate = threading.Semaphore(AT_ONCE)

    def run(self, manifest: Json) -> Kubelet:
        """Start a pod. Returns at once; its kubelet tells how it is."""
        namespace = self.join(manifest)
        kubelet = Kubelet(Pod(manifest, namespace, self.around), self.changed, self._gate)
        with self._lock:
            self.kubelets[kubelet.pod.name] = kubelet
        self.changed()
        kubelet.start()
        return kubelet

    def join(self, manifest: Json) -> Namespace:
        """A network for a pod of this manifest, under the policies."""
        metadata = manifest["metadata"]
        namespace = self.network.add(metadata["name"])
        containers = manifest.get("spec", {}).get("containers", [])
        ports = {port["name"]: port["containerPort"] for one in containers for port in one.get("ports", [])}
        labels = {"kubernetes.io/metadata.name": metadata["namespace"]}
        place = Place(metadata["name"], labels, metadata.get("labels", {}), namespace.address, ports)
        with self._applying:
            self._places[metadata["name"]] = (place, namespace)
            cluster = Cluster(self.policies, [one for one, _ in self._places.values()], str(NODE.ip))
            for one, network in self._places.values():
                if self._loaded.get(one.name) != (text := rules(one, cluster)):
                    network.load(text)
                    self._loaded[one.name] = text
        return namespace

    def pods(self, labels: Mapping[str, str]) -> list[Kubelet]:
        """Those that carry these labels and whose end has not begun."""
        with self._lock:
            found = list(self.kubelets.values())
        return [one for one in found if labels.items() <= one.pod.labels.items() and not one.pod.deleted.is_set()]

    def name(self, service: str, namespace: str, address: str) -> None:
        """Let the Service's name lead to this address, in every pod at once."""
        with self._lock:
            self._services[f"{service} {service}.{namespace} {service}.{namespace}.{DOMAIN}"] = address
            lines = ["127.0.0.1 localhost", *(f"{address} {names}" for names, address in self._services.items())]
            with self.hosts.open("r+") as file:  # in place: it is mounted in every pod, and never empty
                file.write("\n".join(lines) + "\n")
                file.truncate()

    def changed(self) -> None:
        """Tell everybody who wants to know."""
        for watcher in list(self.watchers):
            watcher()

    def end(self) -> None:
        """Kill every pod."""
        for kubelet in list(self.kubelets.values()):
            with suppress(OSError):
                kubelet.pod.kill()
