"""What runs, what it says, and what would be applied."""

from __future__ import annotations

import re
from dataclasses import asdict

from operations.delivery import diagnosis, release, watch
from operations.delivery.deployment import Deployment
from operations.delivery.render import KUSTOMIZE, documents, masked
from operations.failure import Failed
from operations.ground import kuberay
from operations.runner import without_passwords
from operations.steps import table
from operations.target import NAME, read_file, site_file
from operations.work import Json, Work, name_of

OTHERS = ("autoscaler", "redis", "ray-redis", "postgres", "dev-issuer", "migrate", "operator")
RAY = {"head": "ray-head", "gateway": "ray-worker", "models": "ray-worker", "burst": "ray-worker"}
COMPONENTS = (*RAY, *OTHERS)
LOG_REQUESTS = 40
"""Pods that one kubectl follows at once; its own bound is 5."""
SERVE_LOGS = "/tmp/ray/session_latest/logs/serve"  # noqa: S108  the pod's, not this machine's


def status(work: Work) -> str:
    """Print what runs and which release it is. Raises Failed with the reasons where the service is not ready."""
    service = work.object("rayservice", NAME)
    pods = work.objects("pods")
    if work.run.dry:
        watch.reasons(work)
        release.entered(work)
        return ""
    for rows in (pod_rows(pods), cluster_rows(service), _release_rows(work)):
        if len(rows) > 1:
            print("\n".join(table(rows)), end="\n\n")
    if service and diagnosis.is_current(service):
        return f"ready: {service['status'].get('numServeEndpoints', 0)} endpoints"
    found = watch.reasons(work)
    raise Failed("\n  ".join(["the service is not ready", *found]))


def pod_rows(pods: list[Json]) -> list[tuple[str, ...]]:
    """A table of pods, with its headings."""
    rows: list[tuple[str, ...]] = [("POD", "COMPONENT", "PHASE", "READY", "RESTARTS")]
    for pod in sorted(pods, key=name_of):
        status = pod["status"]
        component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "-")
        containers = status.get("containerStatuses", [])
        ready = f"{sum(bool(one.get('ready')) for one in containers)}/{len(containers)}"
        restarts = sum(int(one.get("restartCount", 0)) for one in containers)
        phase = "Ending" if "deletionTimestamp" in pod["metadata"] else str(status.get("phase", ""))
        rows.append((name_of(pod), component, phase, ready, str(restarts)))
    return rows


def cluster_rows(service: Json | None) -> list[tuple[str, ...]]:
    """A table of the RayService's clusters, with its headings."""
    rows: list[tuple[str, ...]] = [("CLUSTER", "STATE", "APPLICATION")]
    for key, word in (("activeServiceStatus", "serves"), ("pendingServiceStatus", "comes up")):
        part = (service or {}).get("status", {}).get(key, {})
        if cluster := str(part.get("rayClusterName", "")):
            states = [str(one.get("status", "")) for one in diagnosis.applications(part).values()]
            rows.append((cluster, word, ", ".join(states) or "not there yet"))
    return rows


def _release_rows(work: Work) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("RELEASE", "SERVED FROM", "IMAGE", "SOURCE", "MODEL")]
    for mark, at, entry in release.entered(work):
        image = re.sub(r"^.*/|(?<=@sha256:.{12}).*", "", entry.image)
        rows.append((mark, at, image, entry.source[:12], entry.model_id or entry.model_source))
    return rows


def logs(work: Work, component: str, lines: int, follow: bool) -> str:
    """Print the newest lines of a component. Replicas write files in their pod, all else to the pod's own log."""
    commands = _log_commands(work, component, ["--tail", str(lines), *(["--follow"] if follow else [])])
    if component in RAY:
        commands += _file_commands(work, component, f"--lines={lines}{' --follow=name --retry' if follow else ''}")
    if follow:
        work.run.follow(*commands)
    else:
        for command in commands:
            work.run.show(command)
    return ""


def _log_commands(work: Work, component: str, tail: list[str]) -> list[list[str]]:
    if component == "migrate":
        return [work.target.kubectl("logs", "job/migrate", *tail)]
    if component == "operator":
        selector = f"app.kubernetes.io/name={kuberay.RELEASE}"
        return [work.target.kubectl("logs", "--selector", selector, *tail, namespace=kuberay.namespace(work))]
    container = ["--container", "autoscaler"] if component == "autoscaler" else ["--all-containers"]
    selector = _selector("head" if component == "autoscaler" else component)
    options = ["--prefix", "--max-log-requests", str(LOG_REQUESTS)]
    return [work.target.kubectl("logs", "--selector", selector, *container, *options, *tail)]


def _file_commands(work: Work, component: str, tail: str) -> list[list[str]]:
    """One command for each pod, for the files that its replicas write."""
    found = work.objects("pods", "--selector", _selector(component))
    pods = [name_of(pod) for pod in found] or (["POD"] if work.run.dry else [])
    if not pods:
        raise Failed(f"there is no pod of {component}")
    read = f"tail {tail} {SERVE_LOGS}/*.log"
    return [work.target.kubectl("exec", pod, "--container", RAY[component], "--", "bash", "-c", read) for pod in pods]


def _selector(component: str) -> str:
    return f"app.kubernetes.io/component={component}"


def config(work: Work, *, manifests: bool) -> str:
    """Print the settings of this environment as they were resolved, and the manifests, secrets masked."""
    resolved = asdict(work.target)
    model = {f"model_{name}": value for name, value in resolved.pop("model").items()}
    del resolved["options"]
    resolved["build"] = without_passwords(" ".join(f"{name}={value}" for name, value in work.target.build))
    for name, value in {**resolved, **model, "kuberay": kuberay.VERSION}.items():
        print(f"{name.upper():16} {value or '-'}")
    environment = work.target.environment
    for name, value in read_file(site_file(environment)).items():
        print(f"{name:16} {value}")
    for settings in documents(work.run.read([*KUSTOMIZE, f"k8s/overlays/{environment}"]), "ConfigMap", NAME):
        print(without_passwords(settings))
    if manifests:
        deployment = Deployment(work)
        deployment.render()
        print(f"---\n{masked(deployment.rendered.text)}", end="")
    return ""
