"""Waits until servers, migration and service are ready, prints what changes meanwhile, and explains why they are not.

A wait ends early when waiting cannot help: the image does not exist, a container crashes again and again, or Serve has
given up the application. The reasons come from what `kubectl get --output json` lists.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from operations.render import RELEASE_MARK
from operations.runner import Json, Runner, name_of
from operations.steps import StepFailed, duration
from operations.target import NAME

POLL_S = 3.0
HEARTBEAT_S = 30.0
AWAY_S = 60.0
"""How long the API server may fail to answer before the wait fails."""
STUCK_S = 90.0
"""How long a fault that does not mend itself must last: a registry may be away for a moment."""
SERVERS_DEADLINE_S = 600.0
"""Redis reads its file and PostgreSQL recovers before either is ready."""
CLUSTER_LABEL = "ray.io/cluster"
CLUSTERS = {"activeServiceStatus": "serving", "pendingServiceStatus": "coming"}
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
STUCK = (*NO_IMAGE, "CreateContainerConfigError", "CrashLoopBackOff")
"""Reasons of a waiting container for which waiting does not help."""
WELL = ("RUNNING", "HEALTHY")
RESTARTS_MAX = 3
"""Restarts of a container that was never ready, after which it counts as stuck."""
SHOWN_EVENTS = re.compile(
    r"Failed(Create|Mount|AttachVolume)|ProvisioningFailed|FailedToCreate\w+|Invalid(RayService|RayCluster)\w+"
)
"""Warnings that are reasons; the others repeat what the pods say."""
BEGINNING, END = 80, 300
"""How many characters of a long message are shown: the cause of a traceback is at its end."""


@dataclass(frozen=True)
class Observation:
    """What one look at the cluster found."""

    done: str = ""
    """The result, once all is ready."""
    progress: str = ""
    reasons: list[str] = field(default_factory=list)
    stuck: bool = False
    """Whether there is a fault that does not mend itself."""
    advice: str = ""
    """What to do if the wait fails."""


class Broken(StepFailed):
    """Looking again would find the same."""


def until(run: Runner, deadline_s: float, look: Callable[[], Observation]) -> str:
    """Observe until all is ready, and return the result. Raises StepFailed with the reasons otherwise."""
    began = answered = mending = time.monotonic()
    tell, found = _progress_printer(run, began), Observation()
    while True:
        try:
            found = look()
            answered = time.monotonic()
            if found.done:
                return found.done
            tell(found.progress, found.reasons)
        except Broken:
            raise
        except StepFailed as error:  # the API server may be away for a moment
            if time.monotonic() - min(answered + AWAY_S, began + deadline_s) > 0:
                raise
            tell(str(error), [])
        now = time.monotonic()
        mending = mending if found.stuck else now
        stuck = now - mending > STUCK_S
        if stuck or now - began > deadline_s:
            first = f"not ready after {duration(now - began)}" + ", and this does not mend itself" * stuck
            reasons = found.reasons or [f"the cluster gives no reason; {run.target.command('logs operator')}"]
            raise StepFailed("\n  ".join([first, *reasons, *filter(None, [found.advice])]))
        time.sleep(POLL_S)


def _progress_printer(run: Runner, began: float) -> Callable[[str, list[str]], None]:
    """Prints what is new, and every half minute that the wait goes on."""
    printed: dict[str, float] = {}

    def tell(progress: str, reasons: list[str]) -> None:
        now = time.monotonic()
        for line in (progress, *(f"  {reason}" for reason in reasons)):
            if line not in printed or (line is progress and now - max(printed.values()) > HEARTBEAT_S):
                run.say(f"[{now - began:4.0f} s] {line}")
                printed[line] = now

    return tell


def until_ready(run: Runner, image: str) -> str:
    """Wait for the RayService to be ready with this image in its serving cluster."""
    if run.dry:
        command = ("wait", f"rayservice/{NAME}", "--for=condition=Ready", f"--timeout={run.timeout_s:g}s")
        run.ask(run.kubectl(*command))
        return ""

    def look() -> Observation:
        service = run.object("rayservice", NAME)
        if service and is_current(service) and _serving_image(run, service) == image:
            return Observation(done=f"{service['status'].get('numServeEndpoints') or 'all'} endpoints serve")
        pods, advice = run.objects("pods", "--selector", CLUSTER_LABEL), ""
        if service and _holds(service, "UpgradeInProgress") and _holds(service, "Ready"):
            advice = f"the release before still serves; {run.target.command('rollback')} takes the new one back"
        newest = cluster_of(service, "pendingServiceStatus") or cluster_of(service, "activeServiceStatus")
        reasons = [*_reasons(run, pods), *service_reasons(service)]
        stuck = is_given_up(service) or any(map(is_stuck, _pods_of(pods, newest)))
        return Observation("", _progress(service, pods), reasons, stuck, advice)

    return until(run, run.timeout_s, look)


def until_servers(run: Runner, names: Sequence[str]) -> str:
    """Wait until StatefulSets and Deployments run as they were applied."""
    if run.dry:
        for name in names:
            run.ask(run.kubectl("rollout", "status", name, f"--timeout={SERVERS_DEADLINE_S:g}s"))
        return ""

    def look() -> Observation:
        missing = [name for name in names if not is_rolled_out(run.object(name))]
        if not missing:
            return Observation(done=", ".join(name.rpartition("/")[2] for name in names))
        pods = run.objects("pods", "--selector", f"!{CLUSTER_LABEL},!job-name")
        progress = f"waiting for {', '.join(name.rpartition('/')[2] for name in missing)}"
        return Observation("", progress, _reasons(run, pods), any(map(is_stuck, pods)))

    return until(run, SERVERS_DEADLINE_S, look)


def until_migrated(run: Runner, job: str) -> str:
    """Wait until the migration has ended. If it failed, the error holds the end of its log."""
    if run.dry:
        run.ask(run.kubectl("wait", f"job/{job}", "--for=condition=Complete"))
        return ""

    def look() -> Observation:
        found = run.object("job", job) or {}
        if _holds(found, "Complete"):
            return Observation(done="migrated")
        pods = run.objects("pods", "--selector", f"job-name={job}")
        mark = mark_of(run.object("rayservice", NAME))
        back = run.target.command(f"deploy --release {mark}")
        advice = f"the release before serves on; {back} puts back what was applied of this one" if mark else ""
        if _holds(found, "Failed"):
            log = run.ask(run.kubectl("logs", f"job/{job}", "--tail", "5")).reason
            raise Broken("\n  ".join(filter(None, ["the migration failed", log or "its log is empty", advice])))
        return Observation("", "the migration runs", _reasons(run, pods), any(map(is_stuck, pods)), advice)

    return until(run, SERVERS_DEADLINE_S, look)


def healthy(run: Runner, otherwise: str) -> Json | None:
    """The RayService, which must be ready; None in a dry run."""
    service = run.object("rayservice", NAME)
    if not run.dry and (service is None or not is_current(service)):
        raise StepFailed(otherwise)
    return service


def reasons(run: Runner) -> list[str]:
    """Why the service is not ready at this moment."""
    return [*_reasons(run, run.objects("pods")), *service_reasons(run.object("rayservice", NAME))]


def _reasons(run: Runner, pods: list[Json]) -> list[str]:
    events = run.objects("events", "--field-selector", "type=Warning")
    return reasons_of(pods, run.objects("persistentvolumeclaims"), events)


def _serving_image(run: Runner, service: Json) -> str:
    """The image of the serving cluster: after a change it is the old one's until the new one is healthy."""
    name = cluster_of(service, "activeServiceStatus")
    cluster = run.object("raycluster", name) if name else None
    return image_of(cluster["spec"]) if cluster else ""


def image_of(cluster: Json) -> str:
    """The image in the spec of a RayCluster; head and workers have the same."""
    return str(cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"])


def mark_of(service: Json | None) -> str:
    """The release that a RayService was applied from; empty without one."""
    return str(service["metadata"].get("annotations", {}).get(RELEASE_MARK) or "") if service else ""


def cluster_of(service: Json | None, key: str) -> str:
    """The name of one of the RayService's clusters; empty without one."""
    return str((service or {}).get("status", {}).get(key, {}).get("rayClusterName", ""))


def _pods_of(pods: list[Json], cluster: str) -> list[Json]:
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get(CLUSTER_LABEL) == cluster]


def _progress(service: Json | None, pods: list[Json]) -> str:
    if service is None:
        return "the RayService is not there yet"
    parts = []
    for key, word in CLUSTERS.items():
        if cluster := cluster_of(service, key):
            own = _pods_of(pods, cluster)
            states = ", ".join(str(one.get("status")) for one in applications(service["status"][key]).values())
            ready = sum(_holds(pod, "Ready") for pod in own)
            parts.append(f"{word} {cluster}: {ready} of {len(own)} pods ready, application {states or 'not there yet'}")
    return "; ".join(parts) or "KubeRay has not begun"


def reasons_of(pods: Sequence[Json], volumes: Sequence[Json], events: Sequence[Json]) -> list[str]:
    """Everything that keeps pods from starting, the most telling first; empty if nothing is found."""
    found = [reason for pod in pods for reason in pod_reasons(pod)]
    return list(dict.fromkeys([*found, *storage_reasons(pods, volumes, events)]))


def pod_reasons(pod: Json) -> Iterator[str]:
    """What keeps a pod from running, by its own status."""
    name, status = name_of(pod), pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"pod {name} fits on no node: {_short(condition.get('message', ''))}"
    for container in status.get("initContainerStatuses", []):
        if container["name"] == "wait-gcs-ready" and "running" in container.get("state", {}):
            yield f"pod {name} waits for the head: is it up, and does a NetworkPolicy or DNS keep them apart?"
    for container in _containers(pod):
        yield from _container_reasons(name, container)


def _containers(pod: Json) -> list[Json]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _container_reasons(pod: str, container: Json) -> Iterator[str]:
    waiting = container.get("state", {}).get("waiting", {})
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    reason, message = str(waiting.get("reason", "")), _short(waiting.get("message", ""))
    if reason in NO_IMAGE:
        yield f"pod {pod} has no image {container.get('image', '')}: {message or reason}"
    elif reason == "CreateContainerConfigError":
        yield f"pod {pod} lacks a Secret or a ConfigMap, or a key of it: {message}"
    elif reason in ("CreateContainerError", "RunContainerError"):
        yield f"pod {pod} cannot start {container['name']}: {message}"
    if ended.get("reason") == "OOMKilled":
        yield f"pod {pod}: {container['name']} was killed at its memory limit"
    elif reason == "CrashLoopBackOff" or (ended.get("exitCode") and not container.get("ready")):
        message = _short(ended.get("message", "")) or f"kubectl logs --previous {pod}"
        yield f"pod {pod}: {container['name']} ended with {ended.get('exitCode', 'an error')}: {message}"


def service_reasons(service: Json | None) -> Iterator[str]:
    """Why the service is not ready, by KubeRay and Serve."""
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
    """Unbound volumes that a pod waits for, and what the cluster could not make.

    A volume that is bound by its first pod, like those of the backups, delays nobody before that pod exists.
    """
    wanted = {
        mounted.get("persistentVolumeClaim", {}).get("claimName")
        for pod in pods
        if pod.get("status", {}).get("phase") == "Pending"
        for mounted in pod.get("spec", {}).get("volumes", [])
    }
    phases = {name_of(volume): volume.get("status", {}).get("phase", "Pending") for volume in volumes}
    unbound = [f"the volume {name} is {phase}" for name, phase in phases.items() if phase != "Bound" and name in wanted]
    return [*unbound, *event_reasons(events)]


def event_reasons(events: Sequence[Json]) -> Iterator[str]:
    """Warnings about what could not be made, for instance because of a quota; the newest of each object."""
    newest = {
        (event["reason"], event["involvedObject"].get("name", "")): event
        for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        if event.get("type") == "Warning"
        and SHOWN_EVENTS.fullmatch(event.get("reason", ""))
        and "already exists" not in event.get("message", "")  # the operator has just made it and will see it
    }
    for (reason, name), event in newest.items():
        kind = event["involvedObject"].get("kind", "")
        yield f"{kind} {name}: {reason}: {_short(event.get('message', ''))}"


def applications(status: Json) -> dict[str, Json]:
    """Serve's applications in the status of one of the RayService's clusters."""
    return dict(status.get("applicationStatuses") or {})


def _holds(thing: Json, kind: str) -> bool:
    """Whether a condition of an object is true."""
    return any(one["type"] == kind and one["status"] == "True" for one in thing.get("status", {}).get("conditions", []))


def is_ready(pod: Json) -> bool:
    """Whether a pod's readiness probe passes."""
    return _holds(pod, "Ready")


def is_current(service: Json) -> bool:
    """Whether KubeRay has seen the newest RayService, all of it runs, and no upgrade is in progress.

    KubeRay calls a service Ready that has endpoints, even while Serve still changes its replicas.
    """
    status = service.get("status", {})
    seen = status.get("observedGeneration", 0) >= service["metadata"].get("generation", 0)
    running = [one.get("status") == "RUNNING" for one in applications(status.get("activeServiceStatus", {})).values()]
    upgrading = _holds(service, "UpgradeInProgress")
    return seen and any(running) and all(running) and _holds(service, "Ready") and not upgrading


def is_given_up(service: Json | None) -> bool:
    """Whether Serve has given up the application of the newest cluster."""
    status = (service or {}).get("status", {})
    newest = status.get("pendingServiceStatus") or status.get("activeServiceStatus") or {}
    return any(one.get("status") == "DEPLOY_FAILED" for one in applications(newest).values())


def is_stuck(pod: Json) -> bool:
    """Whether a container of the pod waits in vain, or crashes again and again."""
    return any(
        container.get("state", {}).get("waiting", {}).get("reason", "") in STUCK
        or (container.get("restartCount", 0) >= RESTARTS_MAX and not container.get("ready"))
        for container in _containers(pod)
    )


def is_rolled_out(thing: Json | None) -> bool:
    """Whether a StatefulSet or a Deployment runs as it was applied: every pod is new and ready."""
    if thing is None:
        return False
    wanted, status = thing["spec"].get("replicas", 1), thing.get("status", {})
    seen = status.get("observedGeneration", 0) >= thing["metadata"].get("generation", 0)
    return seen and all(status.get(f, 0) == wanted for f in ("replicas", "updatedReplicas", "readyReplicas"))


def _short(message: object) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= BEGINNING + END else f"{text[:BEGINNING]} … {text[-END:]}"
