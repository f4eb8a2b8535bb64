"""Brings a release into the cluster: what stands around the service, then its tables, then the service itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from operations.delivery import keys, namespace, release, watch
from operations.delivery.release import SHOWN
from operations.delivery.render import RELEASE_MARK, Renderer
from operations.steps import Step
from operations.target import NAME
from operations.work import Json, Work, name_of

MANAGER = ("--field-manager", NAME, "--filename", "-")
MIGRATE = "migrate"
COMPONENT = "app.kubernetes.io/component"
NOT_MIGRATE = ("--selector", f"{COMPONENT}!={MIGRATE}")
"""All of the surroundings but the migration Job, which no trial can change while the one before is there."""
ONLY_MIGRATE = ("--selector", f"{COMPONENT}={MIGRATE}")
SIZES = ("minReplicas", "maxReplicas")
SHOWN_SERVERS = "statefulset.apps/postgresql statefulset.apps/ray-redis statefulset.apps/redis"
"""What a dry run takes for the servers in the cluster."""


class Deployment:
    """One release on its way; each method is a step, and doing it twice does no harm."""

    def __init__(self, work: Work, wanted: str = "") -> None:
        self._work = work
        self._wanted = wanted
        self._release = SHOWN
        self.rendered = Renderer(work, SHOWN)

    def steps(self, command: str) -> list[Step]:
        """The way of a release into the cluster."""
        return [
            Step("manifests", command, self.render),
            Step("namespace", command, lambda: namespace.ensure(self._work)),
            Step("secrets", command, lambda: keys.ensure(self._work, self.rendered.text)),
            Step("surroundings", command, self.surroundings),
            Step("servers", command, self.servers),
            Step("tables", command, self.tables),
            Step("service", command, self.service),
            Step("readiness", command, self.ready),
        ]

    def render(self) -> str:
        """Find the release and render what it needs; nothing is changed."""
        self._release = release.find(self._work, self._wanted)
        self.rendered = Renderer(self._work, self._release)
        self.rendered.render()
        return f"{self._release.image} at {self._work.target.context}"

    def surroundings(self) -> str:
        """Apply what stands around the service. The API server tries all of it, and the service, before it changes."""
        target = self._work.target
        trial = target.apply("--dry-run=server", *MANAGER)
        self._work.run.pipe(self.rendered.surroundings, [*trial, *NOT_MIGRATE])
        self._work.run.pipe(self.rendered.service, trial)
        self._work.run.pipe(self.rendered.surroundings, target.apply(*MANAGER, *NOT_MIGRATE))
        return ""

    def servers(self) -> str:
        """Wait for the servers in the cluster; those elsewhere are not ours to wait for."""
        ask = self._work.target.kubectl("get", "statefulsets,deployments", "--output", "name")
        return watch.until_servers(self._work, self._work.run.read(ask, assumed=SHOWN_SERVERS).split())

    def tables(self) -> str:
        """Migrate. Migrations only add, so the release that serves meanwhile goes on.

        The Job is started once PostgreSQL is there: it gives up after a few minutes, and a first start may take longer.
        """
        target = self._work.target
        # A Job cannot be changed, and each release has one of its own.
        self._work.run.change(target.kubectl("delete", "job", MIGRATE, "--ignore-not-found", "--wait"))
        self._work.run.pipe(self.rendered.surroundings, target.apply(*MANAGER, *ONLY_MIGRATE))
        return watch.until_migrated(self._work, MIGRATE)

    def service(self) -> str:
        """Apply RayService and settings: a new cluster comes beside the old one and takes over when it is healthy.

        The settings have a name that no other content has, so the pods of the old cluster keep theirs.
        """
        with resized(self._work):
            self._work.run.pipe(self.rendered.service, self._work.target.apply(*MANAGER))
        return ""

    def ready(self) -> str:
        """Wait until this release serves, and enter it."""
        return enter(self._work, self._release, self.rendered.kept, self.rendered.mark)


def enter(work: Work, chosen: release.Release, manifests: str, mark: str) -> str:
    """Wait until this release serves, and enter it among the releases as the newest."""
    said = watch.until_ready(work, chosen.image)
    release.record(work, chosen, manifests, mark)
    return said


class Return:
    """Back to a release that served before, its settings included. Tables stay: migrations only add."""

    def __init__(self, work: Work, wanted: str) -> None:
        self._work = work
        self._wanted = wanted
        self._release = SHOWN
        self._manifests = ""
        self._mark = ""

    def steps(self) -> list[Step]:
        """The way back."""
        return [
            Step("earlier release", self.command, self.find),
            Step("service", self.command, self.apply),
            Step("readiness", self.command, lambda: enter(self._work, self._release, self._manifests, self._mark)),
        ]

    def command(self) -> str:
        """Leads to the same release however far this came: once it is applied, "the one before" is another."""
        return f"rollback {self._mark or self._wanted}".strip()

    def find(self) -> str:
        """Find the release to go back to."""
        running = self._work.object("rayservice", NAME) or {"metadata": {}}
        mark = running["metadata"].get("annotations", {}).get(RELEASE_MARK, "")
        self._release, self._manifests, self._mark = release.before(self._work, mark, self._wanted)
        return f"{self._release.image}, made {self._release.created_at_utc} from {self._release.source}"

    def apply(self) -> str:
        """Apply RayService and settings as they were then."""
        with resized(self._work):
            self._work.run.change(self._work.target.apply(*MANAGER), stdin=self._manifests)
        return ""


@contextmanager
def resized(work: Work) -> Iterator[None]:
    """Give the clusters that run the sizes of their groups that the block applies, where it changes nothing else.

    KubeRay makes no new cluster for other sizes, and does not pass them on to the one that runs. A new cluster, which
    anything else brings, has them from the beginning.
    """
    before = work.object("rayservice", NAME)
    yield
    after = work.object("rayservice", NAME)
    if before is None or after is None or _sizeless(before) != _sizeless(after):
        return
    wanted = {name: group for _, name, group in _groups(after["spec"]["rayClusterConfig"])}
    for cluster in work.objects("rayclusters", "--selector", f"ray.io/originated-from-cr-name={NAME}"):
        changes = [
            {"op": "replace", "path": f"/spec/workerGroupSpecs/{place}/{size}", "value": wanted[name][size]}
            for place, name, group in _groups(cluster["spec"])
            if name in wanted  # an old cluster on its way out may have other groups
            for size in SIZES
            if group[size] != wanted[name][size]
        ]
        if changes:
            patch = ("patch", "raycluster", name_of(cluster), "--type=json", f"--patch={json.dumps(changes)}")
            work.run.change(work.target.kubectl(*patch))


def _groups(config: Json) -> list[tuple[int, str, Json]]:
    """Place, name and content of each worker group of a cluster."""
    return [(place, group["groupName"], group) for place, group in enumerate(config.get("workerGroupSpecs", []))]


def _sizeless(service: Json) -> Json:
    """What a RayService asks of its cluster besides the sizes of groups; KubeRay adds empty objects to it."""
    config = service["spec"]["rayClusterConfig"]
    groups = [
        {name: value for name, value in group.items() if name not in (*SIZES, "replicas") and value != {}}
        for _, _, group in _groups(config)
    ]
    return {**config, "workerGroupSpecs": groups}
