"""Waits until servers, migration and service are as they must be: says what changes meanwhile, and at the end why not.

A wait ends early where nothing will mend itself: an image that does not exist, a program that ends as often as it is
started, an application that Serve has given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from operations.delivery import diagnosis
from operations.delivery.render import RELEASE_MARK
from operations.failure import Failed
from operations.steps import duration
from operations.target import NAME
from operations.work import Json, Work

POLL_S = 3.0
HEARTBEAT_S = 30.0
AWAY_S = 60.0
"""How long the API server may fail to answer before waiting for it is given up."""
STUCK_S = 90.0
"""How long something that does not mend itself must stand: a registry may be away for a moment."""
SERVERS_DEADLINE_S = 600.0
"""Redis reads its file and PostgreSQL repairs itself before either is ready."""
CLUSTER_LABEL = "ray.io/cluster"


@dataclass(frozen=True)
class Look:
    """What one look at the cluster found."""

    done: str = ""
    """What came of it, once all is as it must be."""
    progress: str = ""
    reasons: list[str] = field(default_factory=list)
    stuck: bool = False
    """Whether something keeps it that does not mend itself."""
    advice: str = ""
    """What to do, where it does not work out."""


class Broken(Failed):
    """Looking again would find the same."""


def until(work: Work, deadline_s: float, look: Callable[[], Look]) -> str:
    """Look until it is done, and return what came of it. Raises Failed with the reasons where it is not."""
    began = answered = mending = time.monotonic()
    tell, found = _teller(work, began), Look()
    while True:
        try:
            found = look()
            answered = time.monotonic()
            if found.done:
                return found.done
            tell(found.progress, found.reasons)
        except Broken:
            raise
        except Failed as error:  # an API server may be away for a moment in a quarter of an hour
            if time.monotonic() - min(answered + AWAY_S, began + deadline_s) > 0:
                raise
            tell(str(error), [])
        now = time.monotonic()
        mending = mending if found.stuck else now
        late, stuck = now - began > deadline_s, now - mending > STUCK_S
        if late or stuck:
            first = f"not ready after {duration(now - began)}" + ", and this does not mend itself" * stuck
            reasons = found.reasons or [f"the cluster gives no reason; {work.target.command('logs operator')}"]
            raise Failed("\n  ".join([first, *reasons, *filter(None, [found.advice])]))
        time.sleep(POLL_S)


def until_ready(work: Work, image: str) -> str:
    """Wait for the RayService to be Ready with this image in its serving cluster. Raises Failed with the reasons."""
    if work.run.dry:
        command = ("wait", f"rayservice/{NAME}", "--for=condition=Ready", f"--timeout={work.timeout_s:g}s")
        work.run.ask(work.target.kubectl(*command))
        return ""

    def look() -> Look:
        service = work.object("rayservice", NAME)
        if service and diagnosis.is_current(service) and _serving_image(work, service) == image:
            return Look(done=f"{service['status'].get('numServeEndpoints') or 'all'} endpoints serve")
        pods, advice = work.objects("pods", "--selector", CLUSTER_LABEL), ""
        if service and diagnosis.is_upgrading(service) and diagnosis.condition(service, "Ready"):
            advice = f"the release before still serves; {work.target.command('rollback')} takes the new one back"
        newest = _cluster(service, "pendingServiceStatus") or _cluster(service, "activeServiceStatus")
        told = [*_reasons(work, pods), *diagnosis.service_reasons(service)]
        stuck = diagnosis.is_given_up(service) or any(map(diagnosis.is_stuck, _of_cluster(pods, newest)))
        return Look("", _progress(service, pods), told, stuck, advice)

    return until(work, work.timeout_s, look)


def healthy(work: Work, otherwise: str) -> Json | None:
    """The RayService, which must be well; None in a dry run."""
    service = work.object("rayservice", NAME)
    if not work.run.dry and (service is None or not diagnosis.is_current(service)):
        raise Failed(otherwise)
    return service


def until_servers(work: Work, names: Sequence[str]) -> str:
    """Wait until StatefulSets and Deployments run as they were applied. Raises Failed with the reasons."""
    if work.run.dry:
        for name in names:
            work.run.ask(work.target.kubectl("rollout", "status", name, f"--timeout={SERVERS_DEADLINE_S:g}s"))
        return ""

    def look() -> Look:
        missing = [name for name in names if not diagnosis.is_rolled_out(work.object(name))]
        if not missing:
            return Look(done=", ".join(name.rpartition("/")[2] for name in names))
        pods = work.objects("pods", "--selector", f"!{CLUSTER_LABEL},!job-name")
        progress = f"waiting for {', '.join(name.rpartition('/')[2] for name in missing)}"
        return Look("", progress, _reasons(work, pods), any(map(diagnosis.is_stuck, pods)))

    return until(work, SERVERS_DEADLINE_S, look)


def until_migrated(work: Work, job: str) -> str:
    """Wait until the migration has run. Raises Failed with what it said."""
    if work.run.dry:
        work.run.ask(work.target.kubectl("wait", f"job/{job}", "--for=condition=Complete"))
        return ""

    def look() -> Look:
        found = diagnosis.job_state(work.object("job", job))
        if found == "Complete":
            return Look(done="migrated")
        pods = work.objects("pods", "--selector", f"job-name={job}")
        advice = _back_to_what_serves(work)
        if found == "Failed":
            said = work.run.ask(work.target.kubectl("logs", f"job/{job}", "--tail", "5")).reason
            raise Broken("\n  ".join(filter(None, ["the migration failed", said or "its log is empty", advice])))
        stuck = any(map(diagnosis.is_stuck, pods))
        return Look("", "the migration runs", _reasons(work, pods), stuck, advice)

    return until(work, SERVERS_DEADLINE_S, look)


def _back_to_what_serves(work: Work) -> str:
    """The command that puts the surroundings of the release that serves back, where there is one."""
    service = work.object("rayservice", NAME)
    mark = service["metadata"].get("annotations", {}).get(RELEASE_MARK) if service else ""
    back = work.target.command(f"deploy --release {mark}")
    return f"the release before serves on; {back} puts back what was applied of this one" if mark else ""


def reasons(work: Work) -> list[str]:
    """Why the service is not ready, as it stands now."""
    return [*_reasons(work, work.objects("pods")), *diagnosis.service_reasons(work.object("rayservice", NAME))]


def _reasons(work: Work, pods: list[Json]) -> list[str]:
    """Why pods do not come up."""
    events = work.objects("events", "--field-selector", "type=Warning")
    return diagnosis.reasons(pods, work.objects("persistentvolumeclaims"), events)


def _serving_image(work: Work, service: Json) -> str:
    """The image of the cluster that serves: after a change it is the old one's until the new one is healthy."""
    name = _cluster(service, "activeServiceStatus")
    cluster = work.object("raycluster", name) if name else None
    return image_of(cluster["spec"]) if cluster else ""


def image_of(cluster: Json) -> str:
    """The image in the spec of a RayCluster; head and workers have the same."""
    return str(cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"])


def _cluster(service: Json | None, key: str) -> str:
    return str((service or {}).get("status", {}).get(key, {}).get("rayClusterName", ""))


def _of_cluster(pods: list[Json], cluster: str) -> list[Json]:
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get(CLUSTER_LABEL) == cluster]


def _progress(service: Json | None, pods: list[Json]) -> str:
    if service is None:
        return "the RayService is not there yet"
    parts = []
    for word, key in (("serving", "activeServiceStatus"), ("coming", "pendingServiceStatus")):
        if cluster := _cluster(service, key):
            own = _of_cluster(pods, cluster)
            applications = diagnosis.applications(service["status"][key]).values()
            states = ", ".join(str(one.get("status")) for one in applications)
            ready = sum(map(diagnosis.is_ready, own))
            parts.append(f"{word} {cluster}: {ready} of {len(own)} pods ready, application {states or 'not there yet'}")
    return "; ".join(parts) or "KubeRay has not begun"


def _teller(work: Work, began: float) -> Callable[[str, list[str]], None]:
    """Says what is new, and every half minute that it still waits."""
    said: dict[str, float] = {}

    def tell(progress: str, reasons: list[str]) -> None:
        now = time.monotonic()
        for line in (progress, *(f"  {reason}" for reason in reasons)):
            if line not in said or (line is progress and now - max(said.values()) > HEARTBEAT_S):
                work.say(f"[{now - began:4.0f} s] {line}")
                said[line] = now

    return tell
