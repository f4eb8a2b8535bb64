"""The manifests of a release: kustomize writes image, namespace and marks into the repository's manifests.

The settings are named after their content and are rendered with the RayService that reads them. Pods of the serving
cluster may start at any time, even after a failed upgrade, and must find the settings that their cluster was made with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

from operations.release import Release
from operations.runner import Json, Runner, name_of
from operations.steps import Aborted
from operations.target import NAME, ROOT

RELEASE_MARK = f"{NAME}/release"
"""The annotation of the RayService that names its release."""
PLACEHOLDER = re.compile(
    r"[\w.-]*\bexample\.(?:com|org|net)\b|\b(?:REPLACE|CHANGE)[-_]?(?:ME|WITH)\b|\S+:latest\b", re.I
)
CHECK = (".venv/bin/python", "scripts/check_manifests.py", "--production")
AT_HOME = re.compile(rf"[\w-]+\.{NAME}\.svc(?:\.[\w.-]+)?|[\w.-]+/ns/{NAME}/[\w*/-]+")
"""A Service's DNS name, or an account of a mesh, with the default namespace in it. kustomize does not rewrite these for
another namespace."""
WITHOUT_PODS = ("Ingress", "Gateway", "Certificate", "ConfigMap")
"""Kinds whose Secrets no pod waits for: certificates come later, from their issuer."""
SHOWN_MARK = "0" * 12
"""Stands for a mark in a dry run."""
KUSTOMIZE = ("kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone")
"""rayservice.yaml lies above the folder that names it, which kustomize refuses by default."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

HEADER = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
WITHOUT = """patches:
  - target: {labelSelector: "app.kubernetes.io/component%ssettings"}
    patch: |
      $patch: delete
      kind: any
      metadata: {name: any}
"""
"""Removes the settings (`=`), or everything but them (`!=`), from a build."""
IMMUTABLE = """  - target: {kind: ConfigMap}
    patch: |
      - {op: add, path: /immutable, value: true}
"""
"""The API server refuses other settings under the same name."""
READERS = """nameReference:
  - kind: ConfigMap
    fieldSpecs:
      - kind: RayService
        path: spec/rayClusterConfig/headGroupSpec/template/spec/containers/envFrom/configMapRef/name
      - kind: RayService
        path: spec/rayClusterConfig/workerGroupSpecs/template/spec/containers/envFrom/configMapRef/name
"""
"""Where a RayService names a ConfigMap, so that kustomize writes the new name there; that makes a new cluster."""


class Renderer:
    """Writes three small kustomizations to build/cluster and has kubectl render them."""

    def __init__(self, run: Runner, release: Release) -> None:
        self._run = run
        self._release = release
        self._overlay = self._above(f"k8s/overlays/{run.target.environment}")
        self.surroundings = self._command("surroundings")
        """The command that prints everything but the service."""
        self.service = self._command("service")
        """The command that prints the RayService and its settings."""
        self.text = ""
        """All that is applied."""
        self.kept = ""
        """The RayService and its settings: what a later rollback applies."""
        self.mark = SHOWN_MARK
        """The name of the release: a digest of `kept`, so that the same service has the same name."""

    def render(self) -> None:
        """Render all that will be applied. Raises Aborted for what must not be applied."""
        self._write("surroundings", self._build(self._overlay) + WITHOUT % "=")
        surroundings = self._run.read(self.surroundings)
        self._name_settings()
        self._write("service", READERS, "readers.yaml")
        if not self._run.dry:
            self._write("service", self._service(""))
            self.mark = _digest(self._run.read(self.service))
        self._write("service", self._service(self.mark))
        self.kept = self._run.read(self.service)
        self.text = f"{surroundings}---\n{self.kept}"
        self._check()

    def _name_settings(self) -> None:
        """Render the settings alone, with a digest of their content in their name."""
        build = f"{HEADER}resources: [{self._overlay}]\n{WITHOUT % '!='}{IMMUTABLE}"
        mark = SHOWN_MARK
        if not self._run.dry:
            self._write("settings", build)
            text = self._run.read(self._command("settings"))
            if not documents(text, "ConfigMap", NAME):
                raise Aborted(f"the overlay has no settings: a ConfigMap {NAME}, labelled as in k8s/base")
            mark = _digest(text.strip("\n"))
        self._write("settings", f'{build}nameSuffix: "-{mark}"\n')

    def _build(self, *resources: str) -> str:
        """A kustomization that writes the release's image and the target's namespace into the resources."""
        name, _, digest = self._release.image.partition("@")
        if not digest:
            name, _, tag = name.rpartition(":")
        which = f"digest: {digest}" if digest else f'newTag: "{tag}"'  # quoted: twelve hex digits may be a number
        # kustomize would move everything there, even what belongs elsewhere: a mesh's limit is in the edge's namespace.
        namespace = "" if self._run.target.namespace == NAME else f"namespace: {self._run.target.namespace}\n"
        return (
            f"{HEADER}{namespace}resources: [{', '.join(resources)}]\n"
            f"images:\n  - name: {NAME}\n    newName: {name}\n    {which}\n"
        )

    def _service(self, mark: str) -> str:
        release = f'annotations: {{{RELEASE_MARK}: "{mark}"}}' if mark else "annotations: {}"
        return self._build(self._above(f"k8s/service/{self._run.target.environment}"), "../settings") + (
            "configurations: [readers.yaml]\n"
            "patches:\n  - target: {kind: RayService}\n    patch: |\n"
            f"      apiVersion: ray.io/v1\n      kind: RayService\n"
            f"      metadata:\n        name: {NAME}\n        {release}\n"
        )

    def _above(self, path: str) -> str:
        """A path of the repository, relative to the folder of a build."""
        return "../" * len((self._run.target.folder / "x").relative_to(ROOT).parts) + path

    def _command(self, part: str) -> list[str]:
        return [*KUSTOMIZE, str((self._run.target.folder / part).relative_to(ROOT))]

    def _write(self, part: str, text: str, name: str = "kustomization.yaml") -> None:
        self._run.write(self._run.target.folder / part / name, text)

    def _check(self) -> None:
        """Raise Aborted for placeholders and names of another namespace; for prod also for what its check finds."""
        namespace = self._run.target.namespace
        if names := names_at_home(self.text, namespace):
            raise Aborted(f"these names lead out of the namespace {namespace}; write it into them: {', '.join(names)}")
        environment, found = self._run.target.environment, sorted(set(PLACEHOLDER.findall(self.text)))
        if environment != "dev" and found:
            raise Aborted(f"the manifests of {environment} still hold {', '.join(found)}")
        if environment == "prod":
            if not self._run.dry and not (ROOT / CHECK[0]).exists():
                raise Aborted("the manifests of prod are checked before they are applied, and that needs: make setup")
            answer = self._run.ask(CHECK, stdin=self.text)
            if answer.status != 0:
                raise Aborted(f"prod refuses these manifests:\n{(answer.output or answer.errors).strip()}")


def names_at_home(text: str, namespace: str) -> list[str]:
    """Names in rendered manifests that would lead out of `namespace`: a certificate, a route, a rule of the mesh."""
    return [] if namespace == NAME else sorted(set(AT_HOME.findall(text)))


def documents(text: str, kind: str = "", name: str = "") -> list[Json]:
    """The documents of rendered manifests; only those of a kind and a name where these are given."""
    return [one for _, one in parts(text) if kind in ("", one.get("kind")) and (not name or name == name_of(one))]


def parts(text: str) -> list[tuple[str, Json]]:
    """Each document of rendered manifests, as its text and as its content."""
    found = [part.strip("\n") for part in re.split(r"^---$", text, flags=re.MULTILINE) if part.strip()]
    return [(part, yaml.load(part, LOADER)) for part in found]  # noqa: S506  a safe loader


def secret_keys(manifests: list[Json]) -> dict[str, set[str]]:
    """The Secrets that pods need and that the manifests do not make, with the keys that must exist."""
    needed: dict[str, set[str]] = {}
    for document in manifests:
        if document.get("kind") not in WITHOUT_PODS:
            for name, keys in _references(document):
                needed.setdefault(name, set()).update(keys)
    made = made_by(manifests)
    return {name: keys for name, keys in needed.items() if name not in made}


def made_by(manifests: list[Json]) -> set[str]:
    """The Secrets in the manifests, and those that External Secrets or cert-manager will make for them."""
    made = set()
    for document in manifests:
        spec = document.get("spec") or {}
        if document.get("kind") in ("Secret", "ExternalSecret"):
            made.add((spec.get("target") or {}).get("name") or name_of(document))
        elif document.get("kind") == "Certificate":
            made.add(spec["secretName"])
    return made


def _references(value: Any) -> Iterator[tuple[str, set[str]]]:
    """Each Secret that a manifest names, with its keys; without keys if a volume takes the whole Secret."""
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if isinstance(inner, dict) and not inner.get("optional"):
            if key == "secretKeyRef":
                yield inner["name"], {inner["key"]}
            elif key == "secret" and "secretName" in inner:
                yield inner["secretName"], {item["key"] for item in inner.get("items") or []}
            elif key == "authOptions" and "secretName" in inner:
                yield inner["secretName"], {"auth_token"}  # KubeRay's name for it
        yield from _references(inner)


def masked(text: str) -> str:
    """Rendered manifests with the values of every Secret hidden, also of those in a List."""
    shown = []
    for part, document in parts(text):
        hidden = _masked(document)
        shown.append(part if hidden == document else yaml.safe_dump(hidden, width=1000).strip("\n"))
    return "\n---\n".join(shown) + "\n"


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    hidden = ("data", "stringData") if value.get("kind") == "Secret" else ()
    return {
        key: dict.fromkeys(inner or {}, "********") if key in hidden else _masked(inner) for key, inner in value.items()
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
