"""The state of the service, its logs, and the manifests that would be applied."""

from __future__ import annotations

import re
from dataclasses import asdict

from operations import kuberay, readiness, release
from operations.deploy import Deployment
from operations.render import KUSTOMIZE, masked, parts
from operations.runner import Json, Runner, name_of, without_passwords
from operations.steps import StepFailed, table
from operations.target import NAME, read_file, site_file

OTHERS = ("autoscaler", "redis", "ray-redis", "postgres", "dev-issuer", "migrate", "operator")
RAY = {"head": "ray-head", "gateway": "ray-worker", "models": "ray-worker", "burst": "ray-worker"}
COMPONENTS = (*RAY, *OTHERS)
LOG_REQUESTS = 40
"""Pods that one kubectl may follow at once; its default is 5."""
SERVE_LOGS = "/tmp/ray/session_latest/logs/serve"  # noqa: S108  the pod's, not this machine's


def status(run: Runner) -> str:
    """Print what runs and which release it is. Raises StepFailed with the reasons if the service is not ready."""
    service = run.object("rayservice", NAME)
    pods = run.objects("pods")
    if run.dry:
        readiness.reasons(run)
        release.entered(run)
        return ""
    for rows in (pod_rows(pods), cluster_rows(service), _release_rows(run)):
        if len(rows) > 1:
            print("\n".join(table(rows)), end="\n\n")
    if service and readiness.is_current(service):
        return f"ready: {service['status'].get('numServeEndpoints', 0)} endpoints"
    raise StepFailed("\n  ".join(["the service is not ready", *readiness.reasons(run)]))


def pod_rows(pods: list[Json]) -> list[tuple[str, ...]]:
    """A table of pods, with its headings."""
    rows: list[tuple[str, ...]] = [("POD", "COMPONENT", "PHASE", "READY", "RESTARTS")]
    for pod in sorted(pods, key=name_of):
        component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "-")
        containers = pod["status"].get("containerStatuses", [])
        ready = f"{sum(bool(one.get('ready')) for one in containers)}/{len(containers)}"
        restarts = sum(int(one.get("restartCount", 0)) for one in containers)
        phase = "Ending" if "deletionTimestamp" in pod["metadata"] else str(pod["status"].get("phase", ""))
        rows.append((name_of(pod), component, phase, ready, str(restarts)))
    return rows


def cluster_rows(service: Json | None) -> list[tuple[str, ...]]:
    """A table of the RayService's clusters, with its headings."""
    rows: list[tuple[str, ...]] = [("CLUSTER", "STATE", "APPLICATION")]
    for key, word in (("activeServiceStatus", "serves"), ("pendingServiceStatus", "comes up")):
        if cluster := readiness.cluster_of(service, key):
            part = (service or {})["status"][key]
            states = [str(one.get("status", "")) for one in readiness.applications(part).values()]
            rows.append((cluster, word, ", ".join(states) or "not there yet"))
    return rows


def _release_rows(run: Runner) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("RELEASE", "SERVED FROM", "IMAGE", "SOURCE", "MODEL")]
    for mark, at, entry in release.entered(run):
        image = re.sub(r"^.*/|(?<=@sha256:.{12}).*", "", entry.image)
        rows.append((mark, at, image, entry.source[:12], entry.model_id or entry.model_source))
    return rows


def logs(run: Runner, component: str, lines: int, follow: bool) -> str:
    """Print the newest lines of a component. Replicas log to files in their pod, everything else to the pod's log."""
    commands = [_log_command(run, component, ["--tail", str(lines), *(["--follow"] if follow else [])])]
    if component in RAY:
        commands += _file_commands(run, component, f"--lines={lines}{' --follow=name --retry' if follow else ''}")
    if follow:
        run.follow(*commands)
    else:
        for command in commands:
            run.show(command)
    return ""


def _log_command(run: Runner, component: str, tail: list[str]) -> list[str]:
    if component == "migrate":
        return run.kubectl("logs", "job/migrate", *tail)
    if component == "operator":
        selector = f"app.kubernetes.io/name={kuberay.RELEASE}"
        return run.kubectl("logs", "--selector", selector, *tail, namespace=kuberay.namespace(run))
    container = ["--container", "autoscaler"] if component == "autoscaler" else ["--all-containers"]
    selector = _selector("head" if component == "autoscaler" else component)
    options = ["--prefix", "--max-log-requests", str(LOG_REQUESTS)]
    return run.kubectl("logs", "--selector", selector, *container, *options, *tail)


def _file_commands(run: Runner, component: str, tail: str) -> list[list[str]]:
    """One command for each pod, for the log files of its replicas."""
    found = run.objects("pods", "--selector", _selector(component))
    pods = [name_of(pod) for pod in found] or (["POD"] if run.dry else [])
    if not pods:
        raise StepFailed(f"there is no pod of {component}")
    read = f"tail {tail} {SERVE_LOGS}/*.log"
    return [run.kubectl("exec", pod, "--container", RAY[component], "--", "bash", "-c", read) for pod in pods]


def _selector(component: str) -> str:
    return f"app.kubernetes.io/component={component}"


def config(run: Runner, *, manifests: bool) -> str:
    """Print this environment's settings as resolved, and on request the manifests, with secrets masked."""
    resolved = asdict(run.target)
    model = {f"model_{name}": value for name, value in resolved.pop("model").items()}
    del resolved["options"]
    resolved["build"] = without_passwords(" ".join(f"{name}={value}" for name, value in run.target.build))
    for name, value in {**resolved, **model, "kuberay": kuberay.VERSION}.items():
        print(f"{name.upper():16} {value or '-'}")
    environment = run.target.environment
    for name, value in read_file(site_file(environment)).items():
        print(f"{name:16} {value}")
    for text, document in parts(run.read([*KUSTOMIZE, f"k8s/overlays/{environment}"])):
        if (document["kind"], name_of(document)) == ("ConfigMap", NAME):
            print(without_passwords(text))
    if manifests:
        deployment = Deployment(run)
        deployment.render()
        print(f"---\n{masked(deployment.rendered.text)}", end="")
    return ""
