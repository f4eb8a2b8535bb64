"""Brings a release into the cluster: namespace, Secrets, everything around the service, tables, then the service. And
rolls back, restarts and removes it."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from operations import readiness, release
from operations.readiness import Observation
from operations.release import SHOWN
from operations.render import Renderer, documents, made_by, secret_keys
from operations.runner import Json, Runner, name_of
from operations.steps import Aborted, Step, StepFailed
from operations.target import NAME, PART_OF, ROOT, abort_if_protected

MANAGER = ("--field-manager", NAME, "--filename", "-")
MIGRATE = "migrate"
COMPONENT = "app.kubernetes.io/component"
NOT_MIGRATE = ("--selector", f"{COMPONENT}!={MIGRATE}")
"""Everything but the migration Job: a trial cannot change it while the Job before still exists."""
ONLY_MIGRATE = ("--selector", f"{COMPONENT}={MIGRATE}")
SIZES = ("minReplicas", "maxReplicas")
SHOWN_SERVERS = "statefulset.apps/postgresql statefulset.apps/ray-redis statefulset.apps/redis"
"""The servers that a dry run assumes."""
LIST_KEYS = '{{range .items}}{{.metadata.name}}{{range $key, $value := .data}} {{$key}}{{end}}{{"\\n"}}{{end}}'
"""A kubectl template that prints the names of Secrets and of their keys, and no value."""
REDIS_CERTIFICATE = "redis-tls"
"""The certificate of the job Redis; with the component of this name Redis speaks TLS only."""
REDIS_AUTHORITY = "/run/secrets/redis-ca/ca.crt"
RESTART_MARK = f"{NAME}/restarted-at"
SERVERS = {
    "redis": "statefulset/redis",
    "ray-redis": "statefulset/ray-redis",
    "postgres": "statefulset/postgresql",
    "dev-issuer": "deployment/dev-issuer",
}
COMPONENTS = ("service", "head", *SERVERS)
SERVICE_DEADLINE_S = 420.0
"""KubeRay cleans up Ray's Redis for at most 300 s before it deletes the cluster."""
NAMESPACE_DEADLINE_S = 300.0


class Deployment:
    """The deployment of one release; each method is a step and can be repeated."""

    def __init__(self, run: Runner, wanted: str = "") -> None:
        self._run = run
        self._wanted = wanted
        self._release = SHOWN
        self.rendered = Renderer(run, SHOWN)

    def steps(self, command: str) -> list[Step]:
        """All steps, in order."""
        return [
            Step("manifests", command, self.render),
            Step("namespace", command, lambda: ensure_namespace(self._run)),
            Step("secrets", command, lambda: ensure_secrets(self._run, self.rendered.text)),
            Step("surroundings", command, self.surroundings),
            Step("servers", command, self.servers),
            Step("tables", command, self.tables),
            Step("service", command, self.service),
            Step("readiness", command, self.ready),
        ]

    def render(self) -> str:
        """Find the release and render its manifests; nothing is changed."""
        self._release = release.find(self._run, self._wanted)
        self.rendered = Renderer(self._run, self._release)
        self.rendered.render()
        return f"{self._release.image} at {self._run.target.context}"

    def surroundings(self) -> str:
        """Apply everything around the service. First the API server tries all of it, and the service."""
        target = self._run.target
        trial = target.apply("--dry-run=server", *MANAGER)
        self._run.pipe(self.rendered.surroundings, [*trial, *NOT_MIGRATE])
        self._run.pipe(self.rendered.service, trial)
        self._run.pipe(self.rendered.surroundings, target.apply(*MANAGER, *NOT_MIGRATE))
        return ""

    def servers(self) -> str:
        """Wait for the servers that run in the cluster."""
        ask = self._run.kubectl("get", "statefulsets,deployments", "--output", "name")
        return readiness.until_servers(self._run, self._run.read(ask, assumed=SHOWN_SERVERS).split())

    def tables(self) -> str:
        """Migrate. Migrations only add, so the serving release goes on meanwhile.

        The Job starts once PostgreSQL is ready: it gives up after a few minutes, and a first start may take longer.
        """
        # A Job cannot be changed, and each release has its own.
        self._run.change(self._run.kubectl("delete", "job", MIGRATE, "--ignore-not-found", "--wait"))
        self._run.pipe(self.rendered.surroundings, self._run.target.apply(*MANAGER, *ONLY_MIGRATE))
        return readiness.until_migrated(self._run, MIGRATE)

    def service(self) -> str:
        """Apply RayService and settings: a new cluster starts beside the old one and takes over when it is healthy.

        The name of the settings changes with their content, so the old cluster's pods keep theirs.
        """
        with resized(self._run):
            self._run.pipe(self.rendered.service, self._run.target.apply(*MANAGER))
        return ""

    def ready(self) -> str:
        """Wait until this release serves, and record it."""
        return enter(self._run, self._release, self.rendered.kept, self.rendered.mark)


class Rollback:
    """Back to an earlier release with its settings. Tables stay: migrations only add."""

    def __init__(self, run: Runner, wanted: str) -> None:
        self._run = run
        self._wanted = wanted
        self._release = SHOWN
        self._manifests = ""
        self._mark = ""

    def steps(self) -> list[Step]:
        """All steps, in order."""
        return [
            Step("earlier release", self.command, self.find),
            Step("service", self.command, self.apply),
            Step("readiness", self.command, lambda: enter(self._run, self._release, self._manifests, self._mark)),
        ]

    def command(self) -> str:
        """The command that repeats this rollback: once a release is applied, "the one before" is another."""
        return f"rollback {self._mark or self._wanted}".strip()

    def find(self) -> str:
        """Find the release to go back to."""
        running = readiness.mark_of(self._run.object("rayservice", NAME))
        self._release, self._manifests, self._mark = release.before(self._run, running, self._wanted)
        return f"{self._release.image}, made {self._release.created_at_utc} from {self._release.source}"

    def apply(self) -> str:
        """Apply RayService and settings as they were then."""
        with resized(self._run):
            self._run.change(self._run.target.apply(*MANAGER), stdin=self._manifests)
        return ""


def enter(run: Runner, chosen: release.Release, manifests: str, mark: str) -> str:
    """Wait until this release serves, and record it as the newest."""
    outcome = readiness.until_ready(run, chosen.image)
    release.record(run, chosen, manifests, mark)
    return outcome


@contextmanager
def resized(run: Runner) -> Iterator[None]:
    """If the block changes only the sizes of worker groups, change the running clusters too.

    KubeRay makes no new cluster for other sizes, and does not change the running one.
    """
    before = run.object("rayservice", NAME)
    yield
    after = run.object("rayservice", NAME)
    if before is None or after is None or _without_sizes(before) != _without_sizes(after):
        return
    wanted = {group["groupName"]: group for group in _groups(after["spec"]["rayClusterConfig"])}
    for cluster in run.objects("rayclusters", "--selector", f"ray.io/originated-from-cr-name={NAME}"):
        changes = [
            {"op": "replace", "path": f"/spec/workerGroupSpecs/{place}/{size}", "value": wanted[name][size]}
            for place, group in enumerate(_groups(cluster["spec"]))
            if (name := group["groupName"]) in wanted  # an old cluster that is ending may have other groups
            for size in SIZES
            if group[size] != wanted[name][size]
        ]
        if changes:
            patch = ("patch", "raycluster", name_of(cluster), "--type=json", f"--patch={json.dumps(changes)}")
            run.change(run.kubectl(*patch))


def _groups(config: Json) -> list[Json]:
    return list(config.get("workerGroupSpecs", []))


def _without_sizes(service: Json) -> Json:
    """The cluster that a RayService asks for, without sizes of groups and the empty objects that KubeRay adds."""
    config = service["spec"]["rayClusterConfig"]
    groups = [
        {name: value for name, value in group.items() if name not in (*SIZES, "replicas") and value != {}}
        for group in _groups(config)
    ]
    return {**config, "workerGroupSpecs": groups}


def restart(run: Runner, component: str) -> str:
    """Restart one component and wait until it is ready.

    `service` restarts without interruption: a new cluster, as in an upgrade, which also reads changed Secrets.
    """
    if component in SERVERS:
        run.change(run.kubectl("rollout", "restart", SERVERS[component]))
        return f"{readiness.until_servers(run, [SERVERS[component]])} is back"
    service = _restart_head(run) if component == "head" else _restart_service(run)
    return readiness.until_ready(run, readiness.image_of(service["spec"]["rayClusterConfig"]) if service else "")


def _restart_service(run: Runner) -> Json | None:
    """KubeRay makes a new cluster when a pod template changes, even in an annotation."""
    service = run.object("rayservice", NAME)
    if service is None and not run.dry:
        raise StepFailed(f"there is no RayService in {run.target.namespace}")
    mark = {"metadata": {"annotations": {RESTART_MARK: release.now()}}}
    patch = {"spec": {"rayClusterConfig": {"headGroupSpec": {"template": mark}}}}
    run.change(run.kubectl("patch", "rayservice", NAME, "--type", "merge", "--patch", json.dumps(patch)))
    return service


def _restart_head(run: Runner) -> Json | None:
    """The head alone. Workers go on serving; the new head reads its state from Ray's Redis."""
    service = readiness.healthy(run, "the service is not ready; restart the head when it is")
    selector = ("--selector", f"{COMPONENT}=head")
    old = {name_of(pod) for pod in run.objects("pods", *selector)}
    run.change(run.kubectl("delete", "pod", *selector, "--wait"), deadline_s=readiness.SERVERS_DEADLINE_S)

    def look() -> Observation:
        heads = [pod for pod in run.objects("pods", *selector) if name_of(pod) not in old]
        done = "ready" if heads and all(map(readiness.is_ready, heads)) else ""
        stuck = any(map(readiness.is_stuck, heads))
        return Observation(done, "waiting for the new head", readiness.reasons(run), stuck)

    if not run.dry:
        readiness.until(run, run.timeout_s, look)
    return service


def _abort_if_foreign(run: Runner, namespace: Json) -> None:
    """Abort unless the namespace was made for the service: its content is not ours to change or delete."""
    if namespace["metadata"].get("labels", {}).get(PART_OF) != NAME:
        space = run.target.namespace
        give = " ".join(run.kubectl("label", "namespace", space, f"{PART_OF}={NAME}"))
        raise Aborted(
            f"the namespace {space} was not made for this service: it lacks the label {PART_OF}={NAME}. Choose "
            f"another by --namespace; or, where it is empty and is to be deleted with the service, give it: {give}"
        )


def ensure_namespace(run: Runner) -> str:
    """Make the namespace, unless it exists and is ours. Its other labels come with the surroundings."""
    space = run.target.namespace
    found = run.object("namespace", space)
    if found is not None:
        _abort_if_foreign(run, found)
        return space
    # One call creates and labels it, so that a failure leaves no namespace without an owner.
    metadata = {"name": space, "labels": {PART_OF: NAME}}
    file = run.target.folder / "namespace.json"
    run.write(file, json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, indent=2) + "\n")
    run.change(run.kubectl("create", "--filename", str(file.relative_to(ROOT))))
    return space


class Removal:
    """Deletes the namespace that was confirmed, and none that took its place; each method is a step."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._confirmed = ""
        self._place = f"{run.target.namespace} at {run.target.context}"

    def steps(self, command: str) -> list[Step]:
        """All steps, in order."""
        return [
            Step("permission", command, self.permit),
            Step("service deleted", command, self.service),
            Step("namespace deleted", command, self.namespace),
        ]

    def permit(self) -> str:
        """Abort if the namespace is protected, is not ours or runs prod; then ask for confirmation."""
        run, space = self._run, self._run.target.namespace
        abort_if_protected(run.target)
        found = run.object("namespace", space)
        if found is None and not run.dry:
            return f"there is no namespace {self._place}"
        if found is not None:
            _abort_if_foreign(run, found)
            self._confirmed = found["metadata"]["uid"]
        # What runs there has its settings from a ConfigMap of any name.
        settings = ("get", "configmaps", "--output", "jsonpath={.items[*].data.ENVIRONMENT}")
        if "prod" in run.read(run.kubectl(*settings)).split():
            raise Aborted(f"what runs in {self._place} calls itself prod")
        run.confirm(f"Everything in {self._place} will be deleted: jobs, rows, volumes.", space)
        return self._place

    def service(self) -> str:
        """Delete the RayService before the Redis that its clean-up needs."""
        if not self._exists():
            return "there is none"
        ask = self._run.kubectl("api-resources", "--api-group", "ray.io", "--output", "name")
        if not self._run.dry and not self._run.read(ask):
            return "KubeRay is not installed: there is none"
        self._delete("rayservice", NAME, within_s=SERVICE_DEADLINE_S)
        # A RayCluster is deleted after its RayService, once Ray's Redis was cleaned up.
        self._delete("rayclusters", "--all", within_s=SERVICE_DEADLINE_S)
        return ""

    def namespace(self) -> str:
        """Delete the namespace with all that is left in it."""
        if not self._exists():
            return "there is none"
        self._delete("namespace", self._run.target.namespace, within_s=NAMESPACE_DEADLINE_S)
        return f"{self._run.target.namespace} is gone"

    def _delete(self, kind: str, name: str, *, within_s: float) -> None:
        wait = ("--ignore-not-found", "--wait", f"--timeout={within_s:g}s")
        self._run.change(self._run.kubectl("delete", kind, name, *wait), deadline_s=within_s + 30)

    def _exists(self) -> bool:
        """Whether the confirmed namespace still exists. It may have been replaced while an image was built."""
        found = self._run.object("namespace", self._run.target.namespace)
        if found is None:
            return self._run.dry
        _abort_if_foreign(self._run, found)
        if found["metadata"]["uid"] != self._confirmed:
            raise StepFailed(f"{self._place} was made anew since it was confirmed: nothing in it is deleted")
        return True


def ensure_secrets(run: Runner, manifests: str) -> str:
    """Check that every Secret exists that the rendered manifests need and do not make. Values are never shown.

    In dev, missing ones are made with random values; elsewhere the error says how to make them.
    """
    rendered = documents(manifests)
    needed = secret_keys(rendered)
    answer = run.read(run.kubectl("get", "secrets", "--output", f"go-template={LIST_KEYS}"))
    there = {name: set(keys) for name, *keys in (line.split() for line in answer.splitlines() if line.strip())}
    if run.dry and run.target.environment == "dev":
        run.change(run.kubectl("create", "--filename", "-"), stdin="")  # unless all exist
    missing = {name: keys - there.get(name, set()) for name, keys in needed.items()}
    missing = {name: keys for name, keys in missing.items() if keys or name not in there}
    if not missing:
        return f"all {len(needed)} there" if needed else ""
    if run.target.environment != "dev":
        raise StepFailed(_how_to_make(run, missing))
    made = _development_secrets(run, sorted(missing), there, tls=REDIS_CERTIFICATE in made_by(rendered))
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    run.change(run.kubectl("create", "--filename", "-"), stdin=document)
    return f"made {', '.join(sorted(missing))}, with random values"


def _development_secrets(
    run: Runner, missing: list[str], there: Mapping[str, set[str]], *, tls: bool
) -> list[dict[str, object]]:
    passwords = {name: _password(run, name, there) for name in ("redis", "postgres")}
    scheme, authority = ("rediss", f"?ssl_ca_certs={REDIS_AUTHORITY}") if tls else ("redis", "")
    values = {
        "redis": {"password": passwords["redis"]},
        "postgres": {"password": passwords["postgres"]},
        f"{NAME}-ray-redis": {"password": secrets.token_urlsafe(24)},
        f"{NAME}-ray": {"auth_token": secrets.token_urlsafe(32)},
        NAME: {
            "redis-url": f"{scheme}://:{passwords['redis']}@redis:6379/0{authority}",
            "database-url": f"postgresql://semapi:{passwords['postgres']}@postgres:5432/app",
            "metrics-token": secrets.token_urlsafe(24),
        },
    }
    for name in missing:
        if name not in values or name in there:
            raise StepFailed(
                f"the Secret {name} is missing or lacks a key, and this program does not know what belongs in it"
            )
    metadata = {"namespace": run.target.namespace, "labels": {"app.kubernetes.io/name": NAME}}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **metadata}, "stringData": values[name]}
        for name in missing
    ]


def _password(run: Runner, name: str, there: Mapping[str, set[str]]) -> str:
    """A server's password: the existing one if an earlier call made it, else a new one."""
    found = run.object("secret", name) if name in there else None
    return base64.b64decode(found["data"]["password"]).decode() if found else secrets.token_urlsafe(24)


def _how_to_make(run: Runner, missing: Mapping[str, set[str]]) -> str:
    lines = ["Secrets are missing, or keys of them. Each is made once, from files that hold nothing but the value:"]
    for name, keys in sorted(missing.items()):
        # A pod that names no keys takes the whole Secret: then the site chooses the names.
        files = " ".join(f"--from-file={key}=FILE" for key in sorted(keys)) or "--from-file=FOLDER"
        lines.append("  " + " ".join(run.kubectl("create", "secret", "generic", name, files)))
    return "\n".join(lines)
