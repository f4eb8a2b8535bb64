"""Why a service is not ready: read from what the cluster says of its pods, volumes, applications and events.

Pure functions over the objects that `kubectl get --output json` lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from operations.work import Json, name_of

NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
WELL = ("RUNNING", "HEALTHY")
STUCK = (*NO_IMAGE, "CreateContainerConfigError", "CrashLoopBackOff")
"""Why a container waits, where waiting does not help."""
RESTARTS_MAX = 3
"""Starts of a container that was never ready, after which the next one will not be either."""
TOLD_EVENTS = re.compile(
    r"Failed(Create|Mount|AttachVolume)|ProvisioningFailed|FailedToCreate\w+|Invalid(RayService|RayCluster)\w+"
)
"""Warnings that are reasons; the others repeat what the pods say."""
BEGINNING, END = 80, 300
"""Characters of a long foreign message that are repeated: what a traceback comes to stands at its end."""


def reasons(pods: Sequence[Json], volumes: Sequence[Json], events: Sequence[Json]) -> list[str]:
    """Everything that keeps pods from coming up, what explains most first; empty when nothing is found."""
    found = [reason for pod in pods for reason in pod_reasons(pod)]
    return list(dict.fromkeys([*found, *storage_reasons(pods, volumes, events)]))


def pod_reasons(pod: Json) -> Iterator[str]:
    """What a pod says of itself that keeps it from running."""
    name, status = name_of(pod), pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"pod {name} fits on no node: {_short(condition.get('message', ''))}"
    for container in status.get("initContainerStatuses", []):
        if container["name"] == "wait-gcs-ready" and "running" in container.get("state", {}):
            yield f"pod {name} waits for the head: is it up, and does a NetworkPolicy keep them, or DNS, apart?"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        yield from _container_reasons(name, container)


def _container_reasons(pod: str, container: Json) -> Iterator[str]:
    waiting = container.get("state", {}).get("waiting", {})
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    reason, said = str(waiting.get("reason", "")), _short(waiting.get("message", ""))
    if reason in NO_IMAGE:
        yield f"pod {pod} has no image {container.get('image', '')}: {said or reason}"
    elif reason == "CreateContainerConfigError":
        yield f"pod {pod} lacks a Secret or a ConfigMap, or a key of it: {said}"
    elif reason in ("CreateContainerError", "RunContainerError"):
        yield f"pod {pod} cannot start {container['name']}: {said}"
    if ended.get("reason") == "OOMKilled":
        yield f"pod {pod}: {container['name']} was killed at its memory limit"
    elif reason == "CrashLoopBackOff" or (ended.get("exitCode") and not container.get("ready")):
        said = _short(ended.get("message", "")) or f"kubectl logs --previous {pod}"
        yield f"pod {pod}: {container['name']} ended with {ended.get('exitCode', 'an error')}: {said}"


def service_reasons(service: Json | None) -> Iterator[str]:
    """What KubeRay and Serve say of the service."""
    if service is None:
        yield "there is no RayService"
        return
    status = service.get("status", {})
    if not status:
        yield "KubeRay has not looked at the RayService: does the operator run?"
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] != "True" and condition.get("message"):
            yield f"KubeRay: {_short(condition['message'])}"
    for key in ("pendingServiceStatus", "activeServiceStatus"):
        for name, application in applications(status.get(key, {})).items():
            if application.get("status") in WELL:
                continue
            yield f"the application {name} is {application.get('status')}: {_short(application.get('message', ''))}"
            for deployment, state in application.get("serveDeploymentStatuses", {}).items():
                if state.get("status") not in WELL:
                    yield f"{deployment} is {state.get('status')}: {_short(state.get('message', ''))}"


def storage_reasons(pods: Sequence[Json], volumes: Sequence[Json], events: Sequence[Json]) -> list[str]:
    """Volumes that are not bound and that a pod waits for, and what the cluster could not make.

    A volume that is bound by its first pod, as those of the backups are before their first run, keeps nobody waiting.
    """
    wanted = {
        mounted.get("persistentVolumeClaim", {}).get("claimName")
        for pod in pods
        if pod.get("status", {}).get("phase") == "Pending"
        for mounted in pod.get("spec", {}).get("volumes", [])
    }
    unbound = [volume for volume in volumes if _phase(volume) != "Bound" and name_of(volume) in wanted]
    return [f"the volume {name_of(volume)} is {_phase(volume)}" for volume in unbound] + list(event_reasons(events))


def event_reasons(events: Sequence[Json]) -> Iterator[str]:
    """Warnings about what could not be made, as a quota or pod security refuses it; the newest of each object."""
    newest = {
        (event["reason"], event["involvedObject"].get("name", "")): event
        for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        if event.get("type") == "Warning"
        and TOLD_EVENTS.fullmatch(event.get("reason", ""))
        and "already exists" not in event.get("message", "")  # the operator made it a moment ago, and looks again
    }
    for (reason, name), event in newest.items():
        kind = event["involvedObject"].get("kind", "")
        yield f"{kind} {name}: {reason}: {_short(event.get('message', ''))}"


def applications(status: Json) -> dict[str, Json]:
    """Serve's applications in the status of one of the RayService's clusters."""
    return dict(status.get("applicationStatuses") or {})


def condition(service: Json, kind: str) -> bool:
    """Whether a condition of the RayService holds."""
    found = service.get("status", {}).get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in found)


def is_current(service: Json) -> bool:
    """Whether KubeRay has seen the newest RayService, all of it runs, and nothing else is on its way.

    KubeRay calls a service Ready that has endpoints, also while Serve is still changing its replicas.
    """
    status = service.get("status", {})
    seen = status.get("observedGeneration", 0) >= service["metadata"].get("generation", 0)
    running = [one.get("status") == "RUNNING" for one in applications(status.get("activeServiceStatus", {})).values()]
    return seen and any(running) and all(running) and condition(service, "Ready") and not is_upgrading(service)


def is_upgrading(service: Json) -> bool:
    """Whether a second cluster is on its way."""
    return condition(service, "UpgradeInProgress")


def is_given_up(service: Json | None) -> bool:
    """Whether Serve has given up the application of the cluster that is to serve."""
    status = (service or {}).get("status", {})
    newest = status.get("pendingServiceStatus") or status.get("activeServiceStatus") or {}
    return any(one.get("status") == "DEPLOY_FAILED" for one in applications(newest).values())


def is_stuck(pod: Json) -> bool:
    """Whether a container of the pod waits for what will not come, or ends as often as it is started."""
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waits = container.get("state", {}).get("waiting", {}).get("reason", "") in STUCK
        if waits or (container.get("restartCount", 0) >= RESTARTS_MAX and not container.get("ready")):
            return True
    return False


def is_rolled_out(thing: Json | None) -> bool:
    """Whether a StatefulSet or a Deployment runs as it was applied, every pod of it ready and none of before left."""
    if thing is None:
        return False
    wanted, status = thing["spec"].get("replicas", 1), thing.get("status", {})
    seen = status.get("observedGeneration", 0) >= thing["metadata"].get("generation", 0)
    return seen and all(status.get(f, 0) == wanted for f in ("replicas", "updatedReplicas", "readyReplicas"))


def job_state(job: Json | None) -> str:
    """How a Job ended, Complete or Failed; empty while it runs."""
    conditions = job.get("status", {}).get("conditions", []) if job else []
    ended = [one["type"] for one in conditions if one["status"] == "True" and one["type"] in ("Complete", "Failed")]
    return ended[0] if ended else ""


def is_ready(pod: Json) -> bool:
    """Whether a pod's readiness probe passes."""
    found = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found)


def _phase(volume: Json) -> str:
    return str(volume.get("status", {}).get("phase", "Pending"))


def _short(message: object) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= BEGINNING + END else f"{text[:BEGINNING]} … {text[-END:]}"
