"""The operator: makes the clusters of the RayService, replaces what fails, sends the config, moves the traffic."""

from __future__ import annotations

import copy
import http.client
import json
import secrets
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import yaml
from benchmark.observed_service import wait_until

from serve_app.contracts import Json
from simulator.around.api_server import ApiServer
from simulator.around.edge import Edge
from simulator.manifest.rendered import RayCluster, head_pod, worker_pod
from simulator.pods.house import House
from simulator.pods.kubelet import Kubelet
from simulator.pods.network import API_ADDRESS, Namespace

DASHBOARD_PORT = 8265
CALL_S = 2.0
"""The operator's own deadline for a call to the dashboard."""
RECONCILE_S = 1.0
APPLICATIONS = "/api/serve/applications/"


@dataclass
class Running:
    """A cluster and its pods by group; the head's group is `headgroup`."""

    cluster: RayCluster
    resource: Json
    """The RayCluster object: the operator made it, the autoscaler changes it."""
    config: str = ""
    """The Serve config that was taken last."""
    pods: list[Kubelet] = field(default_factory=list)

    @property
    def wanted(self) -> dict[str, int]:
        """Pods of each worker group."""
        groups = self.resource["spec"]["workerGroupSpecs"]
        return {group["groupName"]: max(group["replicas"], group.get("minReplicas", 0)) for group in groups}

    @property
    def unwanted(self) -> list[Kubelet]:
        """Workers that the autoscaler has named for deletion."""
        groups = self.resource["spec"]["workerGroupSpecs"]
        named = {name for group in groups for name in group.get("scaleStrategy", {}).get("workersToDelete", [])}
        return [one for one in self.pods if one.pod.name in named and _lives(one)]

    def group(self, name: str) -> list[Kubelet]:
        """Pods of this group that have not failed and are not being deleted."""
        return [one for one in self.pods if one.pod.labels["ray.io/group"] == name and _lives(one)]

    @property
    def head(self) -> Kubelet:
        return self.group("headgroup")[0]


class Operator:
    """Reconciles in a thread of its own. `active` is the cluster that the Service leads to."""

    def __init__(self, house: House, edge: Edge, namespace: Namespace) -> None:
        self.house, self.edge, self.network = house, edge, namespace
        self.api = ApiServer(house.folder, API_ADDRESS, self._listed)
        house.around.account = self.api.account
        self.clusters: list[Running] = []
        self.active: Running | None = None
        self.held = threading.Event()
        """While this is set nothing that failed is replaced."""
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        house.watchers.append(self.point_the_edge)

    def start(self) -> None:
        """Begin to replace what fails, and to do what the autoscaler asks for."""
        self.api.start()
        self._thread.start()

    def end(self) -> None:
        """Replace nothing any more."""
        self._ended.set()

    def create(self, resource: Json) -> Running:
        """A new cluster of this resource: the head and every group at its minimum."""
        name = f"{resource['metadata']['name']}-{secrets.token_hex(3)[:5]}"
        cluster = RayCluster(resource, name, str(uuid.uuid4()))
        spec = copy.deepcopy(cluster.spec)
        for group in spec["workerGroupSpecs"]:
            group["replicas"] = group.get("replicas", group.get("minReplicas", 0))
        metadata = {"name": name, "namespace": cluster.namespace, "uid": cluster.uid, "resourceVersion": "1"}
        running = Running(
            cluster, {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}
        )
        self.api.resources[name] = running.resource
        self._reconcile(running)
        with self._lock:
            self.clusters.append(running)
        return running

    def deploy(self, running: Running, seconds: float) -> None:
        """Send the Serve config until it is taken, and return when every application runs."""
        wait_until(lambda: self.send(running), seconds)
        wait_until(lambda: self.runs(running), seconds)

    def send(self, running: Running, config: str = "") -> bool:
        """PUT the Serve config of the resource, or another one; whether it was taken."""
        text = config or running.cluster.resource["spec"]["serveConfigV2"]
        status, _ = self.call(running, "PUT", json.dumps(yaml.safe_load(text)))
        if status == 200:
            running.config = text
        return status == 200

    def runs(self, running: Running) -> bool:
        """Whether every application of the cluster is RUNNING, as its dashboard says."""
        applications = self.applications(running)
        return bool(applications) and all(one["status"] == "RUNNING" for one in applications.values())

    def applications(self, running: Running) -> Json:
        """What the dashboard says of the applications; empty when it does not answer."""
        status, text = self.call(running, "GET", path=f"{APPLICATIONS}?api_type=declarative")
        found: Json = json.loads(text)["applications"] if status == 200 else {}
        return found

    def call(
        self,
        running: Running,
        method: str,
        body: str | None = None,
        *,
        path: str = APPLICATIONS,
        token: str | None = None,
    ) -> tuple[int, str]:
        """A call to the dashboard from the operator's own pod; status 0 without an answer."""
        word = self.house.around.objects.secrets["sem-image-classifier-ray"]["auth_token"] if token is None else token
        headers = {"Content-Type": "application/json", **({"x-ray-authorization": f"Bearer {word}"} if word else {})}
        with suppress(OSError, http.client.HTTPException, IndexError), self.network.entered():
            connection = http.client.HTTPConnection(running.head.pod.address, DASHBOARD_PORT, timeout=CALL_S)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()
        return 0, ""

    def switch(self, running: Running) -> None:
        """The Service leads to this cluster from now on."""
        self.active = running
        self.point_the_edge()

    def endpoints(self) -> list[str]:
        """Addresses of the ready pods that the Service selects."""
        if self.active is None:
            return []
        labels = {"ray.io/cluster": self.active.cluster.name, "ray.io/serve": "true"}
        return [one.pod.address for one in self.house.pods(labels) if one.ready]

    def point_the_edge(self) -> None:
        """Tell the edge the endpoints of now."""
        with suppress(OSError):  # the edge itself may not be there yet
            self.edge.serve_from(self.endpoints())

    def drop(self, running: Running) -> None:
        """Take back a cluster that never served: nobody waits for the end of its pods."""
        with self._lock:
            self.clusters.remove(running)
            del self.api.resources[running.cluster.name]
        for one in running.pods:
            one.pod.kill()

    def delete(self, running: Running) -> list[Kubelet]:
        """End every pod of the cluster at once, each in order; returns with those pods when they have ended."""
        with self._lock:
            self.clusters.remove(running)
            del self.api.resources[running.cluster.name]
        ending = [one for one in running.pods if _lives(one)]
        with ThreadPoolExecutor(len(ending)) as threads:
            deletions = [threads.submit(one.pod.delete) for one in ending]
            for one in ending:
                one.pod.deleted.wait()
            self.house.changed()
            for deletion in deletions:
                deletion.result()
        return ending

    def _run(self) -> None:
        while not self._ended.wait(RECONCILE_S):
            with self._lock:
                for running in self.clusters:
                    if not self.held.is_set():
                        self._reconcile(running)

    def _reconcile(self, running: Running) -> None:
        """Make what is missing, above all a head in the place of one that is gone."""
        with self._lock:
            if not any(_holds_the_place(one) for one in running.pods):
                name = f"{running.cluster.name}-head-{secrets.token_hex(3)[:5]}"
                head = self.house.run(head_pod(running.cluster, name))
                running.pods.append(head)
                service, namespace = running.cluster.head_service.split(".")[:2]
                self.house.name(service, namespace, head.pod.address)
            for kubelet in running.unwanted:
                threading.Thread(target=kubelet.pod.delete, daemon=True).start()
                kubelet.pod.deleted.wait(CALL_S)
            for group, count in running.wanted.items():
                for _ in range(count - len(running.group(group))):
                    name = f"{running.cluster.name}-{group}-worker-{secrets.token_hex(3)[:5]}"
                    running.pods.append(self.house.run(worker_pod(running.cluster, group, name)))

    def _listed(self, name: str) -> list[Json]:
        """The pods of a cluster as an API server lists them."""
        found = [one for running in self.clusters if running.cluster.name == name for one in running.pods]
        return [_as_listed(one) for one in found if not one.pod.deleted.is_set()]


def _as_listed(kubelet: Kubelet) -> Json:
    pod = kubelet.pod
    state = (
        {"terminated": {"exitCode": 1}} if kubelet.failed else {"running": {}} if pod.started_at else {"waiting": {}}
    )
    phase = "Failed" if kubelet.failed else "Running" if pod.started_at else "Pending"
    statuses = [{"name": container["name"], "state": state} for container in pod.containers]
    status = {"phase": phase, "podIP": pod.address, "containerStatuses": statuses}
    return {**pod.manifest, "metadata": {**pod.manifest["metadata"], "resourceVersion": "1"}, "status": status}


def _holds_the_place(kubelet: Kubelet) -> bool:
    """A head that is being ended still is the head: the operator waits until it is gone. Of workers it does not."""
    return kubelet.pod.labels["ray.io/group"] == "headgroup" and not kubelet.failed and not kubelet.pod.gone()


def _lives(kubelet: Kubelet) -> bool:
    return not kubelet.failed and not kubelet.pod.deleted.is_set()
