"""Prometheus beside the cluster: it scrapes what the shipped PodMonitors select and plays the shipped rules.

Debian builds Prometheus without its discovery of Kubernetes. So the pods are read from the API server here and handed
on in a file, with the labels that the discovery gives them; which of them are scraped is Prometheus's to decide.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from monitoring import FOLDER, of_the_cluster
from real_cluster import NAME, Json, RealCluster

PORT: Final = 9099
EVERY: Final = "2s"
"""Between two scrapes, and between two looks at the rules."""
SHORTENED: Final = re.compile(r"> (300|60)$", re.MULTILINE)
LOOK_S: Final = 2.0
PODS: Final = "pods.json"
OPERATOR: Final = "kuberay-system"
KUBELET_PORT: Final = 10250
READY_S: Final = 60.0
STOP_S: Final = 20.0


class Observed:
    """A Prometheus that watches the cluster."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster

    def ask(self, path: str, **values: str) -> Any:
        """What Prometheus answers, asked from where it runs."""
        pairs = [word for name, value in values.items() for word in ("--data-urlencode", f"{name}={value}")]
        command = ["curl", "--silent", "--fail", "--max-time", "10", "--get", *pairs]
        node = self._cluster.namespaces[0]
        url = f"http://127.0.0.1:{PORT}/api/v1/{path}"
        done = subprocess.run(["nsenter", f"--net={node}", *command, url], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, f"Prometheus did not answer {path}: {done.returncode}"
        return json.loads(done.stdout)["data"]

    def names(self) -> set[str]:
        """Every metric that was scraped."""
        return set(self.ask("label/__name__/values"))

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        return {one["labels"]["alertname"] for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}

    def targets(self) -> list[Json]:
        """What is scraped, with its health."""
        return list(self.ask("targets", state="active")["activeTargets"])


@contextmanager
def observed(cluster: RealCluster, folder: Path) -> Iterator[Observed]:
    """Prometheus in the network of the first node, as long as the block lasts."""
    (folder / "prometheus.yml").write_text(json.dumps(_configuration(cluster, folder)))
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    options += [f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=warn"]
    command = ["nsenter", f"--net={cluster.namespaces[0]}", "prometheus", *options]
    with (
        _told_of_pods(cluster, folder / PODS),
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        found = Observed(cluster)
        try:
            deadline = time.monotonic() + READY_S
            while not _answers(found):
                ended = process.poll() is not None or time.monotonic() > deadline
                assert not ended, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
            yield found
        finally:
            process.terminate()
            process.wait(STOP_S)


@contextmanager
def _told_of_pods(cluster: RealCluster, file: Path) -> Iterator[None]:
    """The file of pods, kept up to date as long as the block lasts."""
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with suppress(AssertionError, subprocess.TimeoutExpired):  # the next look may be answered
                beside = file.with_suffix(".new")
                beside.write_text(json.dumps([one for pod in _running_pods(cluster) for one in _of_pod(pod)]))
                beside.rename(file)
            ended.wait(LOOK_S)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _running_pods(cluster: RealCluster) -> list[Json]:
    found = cluster.objects("pods") + cluster.objects("pods", "--namespace", OPERATOR)
    return [pod for pod in found if pod["status"]["phase"] == "Running"]


def _of_pod(pod: Json) -> Iterator[Json]:
    """A target for each port, as the discovery of Kubernetes tells it."""
    metadata = pod["metadata"]
    labels = {f"__meta_kubernetes_pod_label_{_told(name)}": value for name, value in metadata.get("labels", {}).items()}
    labels |= {"__meta_kubernetes_namespace": metadata["namespace"], "__meta_kubernetes_pod_name": metadata["name"]}
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            own = {"container_name": container["name"], "container_port_name": port.get("name", "")}
            named = {f"__meta_kubernetes_pod_{name}": value for name, value in own.items()}
            yield {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": labels | named}


def _answers(found: Observed) -> bool:
    try:
        return bool(found.ask("status/runtimeinfo"))
    except AssertionError:
        return False


def _configuration(cluster: RealCluster, folder: Path) -> Json:
    rules = folder / "rules.yml"
    rules.write_text(yaml.safe_dump(_at_once(yaml.safe_load((FOLDER / "alerts.yaml").read_text()), of_the_cluster())))
    monitors = [one for one in yaml.safe_load_all((FOLDER / "scrapes.yaml").read_text()) if one["kind"] == "PodMonitor"]
    jobs = [_of_monitor(cluster, one, end, folder) for one in monitors for end in one["spec"]["podMetricsEndpoints"]]
    return {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": [str(rules)],
        "scrape_configs": [*jobs, *_of_kubelets(cluster, folder), _of_operator(folder)],
    }


def _at_once(*documents: Json) -> Json:
    """The rules without their patience: `for` is 0 s, and what must last 5 min or 1 min need last a tenth of it."""
    groups = [copy.deepcopy(group) for document in documents for group in document["groups"]]
    for rule in [rule for group in groups for rule in group["rules"]]:
        rule["for"] = "0s"
        rule["expr"] = SHORTENED.sub(lambda found: f"> {int(found[1]) // 10}", rule["expr"].strip())
    return {"groups": groups}


def _of_monitor(cluster: RealCluster, monitor: Json, end: Json, folder: Path) -> Json:
    """A PodMonitor's endpoint, as the Prometheus operator tells it to Prometheus."""
    keep = [
        {"source_labels": [f"__meta_kubernetes_pod_label_{_told(name)}"], "regex": value, "action": "keep"}
        for name, value in monitor["spec"]["selector"]["matchLabels"].items()
    ]
    keep.append(
        {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": end["port"], "action": "keep"}
    )
    copied = [
        {"source_labels": [f"__meta_kubernetes_pod_label_{_told(name)}"], "target_label": _told(name)}
        for name in monitor["spec"].get("podTargetLabels", [])
    ]
    copied += [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target}
        for source, target in (("namespace", "namespace"), ("pod_name", "pod"), ("pod_container_name", "container"))
    ]
    job = {
        "job_name": f"{monitor['metadata']['name']}/{end['port']}",
        "metrics_path": end.get("path", "/metrics"),
        "file_sd_configs": [_pods(folder)],
        "relabel_configs": [_within(NAME), *keep, *copied],
    }
    if secret := end.get("authorization", {}).get("credentials"):
        file = folder / secret["key"]
        file.write_text(cluster.secret(secret["name"], secret["key"]))
        job["authorization"] = {"credentials_file": str(file)}
    return job


def _told(label: str) -> str:
    return re.sub(r"\W", "_", label)


def _pods(folder: Path) -> Json:
    return {"files": [str(folder / PODS)], "refresh_interval": EVERY}


def _within(namespace: str) -> Json:
    return {"source_labels": ["__meta_kubernetes_namespace"], "regex": namespace, "action": "keep"}


def _of_operator(folder: Path) -> Json:
    named = {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "http", "action": "keep"}
    return {
        "job_name": "kuberay-operator",
        "honor_labels": True,
        "file_sd_configs": [_pods(folder)],
        "relabel_configs": [_within(OPERATOR), named],
    }


def _of_kubelets(cluster: RealCluster, folder: Path) -> Iterator[Json]:
    """The kubelet's own figures and cAdvisor's, with the certificate that kubectl has."""
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--output", "json"))
    held = view["users"][0]["user"] | view["clusters"][0]["cluster"]
    names = {"cert_file": "client-certificate", "key_file": "client-key", "ca_file": "certificate-authority"}
    tls: Json = {"insecure_skip_verify": True}  # the kubelet's certificate names no address
    for option, name in names.items():
        file = folder / option
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as written:
            written.write(
                base64.b64decode(held[f"{name}-data"]) if f"{name}-data" in held else Path(held[name]).read_bytes()
            )
        tls[option] = str(file)
    nodes = [one["address"] for node in cluster.objects("nodes") for one in node["status"]["addresses"]]
    addresses = [f"{one}:{KUBELET_PORT}" for one in nodes if one[0].isdigit()]
    for path in ("/metrics", "/metrics/cadvisor"):
        yield {
            "job_name": f"kubelet{path}",
            "scheme": "https",
            "metrics_path": path,
            "honor_labels": True,
            "tls_config": tls,
            "static_configs": [{"targets": addresses}],
        }
