"""The manifests of a release: the repository's own, with image, namespace and marks written in by kustomize.

The settings are named after their content, and go with the RayService that reads them. Pods of a cluster that serves
start at any time, also after an upgrade that failed, and must find the settings that their cluster was made with.
"""

from __future__ import annotations

import hashlib
import re

from operations.delivery.release import Release
from operations.failure import Refused
from operations.target import NAME, ROOT
from operations.work import Work

RELEASE_MARK = f"{NAME}/release"
"""On the RayService: which entry among the releases it is."""
PLACEHOLDER = re.compile(
    r"[\w.-]*\bexample\.(?:com|org|net)\b|\b(?:REPLACE|CHANGE)[-_]?(?:ME|WITH)\b|\S+:latest\b", re.I
)
CHECK = (".venv/bin/python", "scripts/check_production.py")
AT_HOME = re.compile(rf"[\w-]+\.{NAME}\.svc(?:\.[\w.-]+)?|[\w.-]+/ns/{NAME}/[\w*/-]+")
"""A Service's name in the DNS, and an account's in a mesh, with the usual namespace in them: kustomize leaves them as
they are when all else goes into another one."""
WITHOUT_PODS = ("Ingress", "Gateway", "Certificate", "ConfigMap")
"""Kinds whose Secrets no pod waits for: certificates come from their own issuer, later."""
SHOWN_MARK = "0" * 12
"""Stands for a mark in a dry run."""
KUSTOMIZE = ("kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone")
"""rayservice.yaml stands above the folder that names it, which kustomize refuses without being told."""

HEADER = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
WITHOUT = """patches:
  - target: {labelSelector: "app.kubernetes.io/component%ssettings"}
    patch: |
      $patch: delete
      kind: any
      metadata: {name: any}
"""
"""Takes out of a build the settings (`=`), or all but them (`!=`)."""
IMMUTABLE = """  - target: {kind: ConfigMap}
    patch: |
      - {op: add, path: /immutable, value: true}
"""
"""Under one name there are never other settings; the API server sees to it."""
READERS = """nameReference:
  - kind: ConfigMap
    fieldSpecs:
      - kind: RayService
        path: spec/rayClusterConfig/headGroupSpec/template/spec/containers/envFrom/configMapRef/name
      - kind: RayService
        path: spec/rayClusterConfig/workerGroupSpecs/template/spec/containers/envFrom/configMapRef/name
"""
"""Where a RayService names a ConfigMap, for kustomize to follow a new name; that makes a new cluster."""


class Renderer:
    """Writes three small kustomizations to build/cluster and has kubectl render them."""

    def __init__(self, work: Work, release: Release) -> None:
        self._work = work
        self._release = release
        self._overlay = self._above(f"k8s/overlays/{work.target.environment}")
        self.surroundings = self._command("surroundings")
        """The command that prints what stands around the service."""
        self.service = self._command("service")
        """The command that prints the RayService and its settings."""
        self.text = ""
        """All that is applied."""
        self.kept = ""
        """The RayService and the settings that it reads: what a later rollback applies."""
        self.mark = SHOWN_MARK
        """Of the release: made of the service, so that the same one again is the same entry."""

    def render(self) -> None:
        """Everything as it will be applied. Raises Refused for what prod must not hold."""
        self._write("surroundings", self._build(self._overlay) + WITHOUT % "=")
        surroundings = self._work.run.read(self.surroundings)
        self._name_settings()
        self._write("service", READERS, "readers.yaml")
        if not self._work.run.dry:
            self._write("service", self._service(""))
            self.mark = _digest(self._work.run.read(self.service))
        self._write("service", self._service(self.mark))
        self.kept = self._work.run.read(self.service)
        self.text = f"{surroundings}---\n{self.kept}"
        self._refuse(self.text)

    def _name_settings(self) -> None:
        """Have the settings rendered alone, with the mark of their content in their name."""
        build = f"{HEADER}resources: [{self._overlay}]\n{WITHOUT % '!='}{IMMUTABLE}"
        mark = SHOWN_MARK
        if not self._work.run.dry:
            self._write("settings", build)
            settings = documents(self._work.run.read(self._command("settings")), "ConfigMap", NAME)
            if not settings:
                raise Refused(f"the overlay has no settings: a ConfigMap {NAME}, labelled as in k8s/base")
            mark = _digest(*settings)
        self._write("settings", f'{build}nameSuffix: "-{mark}"\n')

    def _build(self, *resources: str) -> str:
        """With the release's image, in the namespace of this target."""
        name, _, digest = self._release.image.partition("@")
        if not digest:
            name, _, tag = name.rpartition(":")
        which = f"digest: {digest}" if digest else f'newTag: "{tag}"'  # quoted: twelve hex digits may be a number
        # kustomize would put all into it, also what belongs elsewhere: a mesh's limit lies with the edge.
        namespace = "" if self._work.target.namespace == NAME else f"namespace: {self._work.target.namespace}\n"
        return (
            f"{HEADER}{namespace}resources: [{', '.join(resources)}]\n"
            f"images:\n  - name: {NAME}\n    newName: {name}\n    {which}\n"
        )

    def _service(self, mark: str) -> str:
        release = f'annotations: {{{RELEASE_MARK}: "{mark}"}}' if mark else "annotations: {}"
        return self._build(self._above(f"k8s/service/{self._work.target.environment}"), "../settings") + (
            "configurations: [readers.yaml]\n"
            "patches:\n  - target: {kind: RayService}\n    patch: |\n"
            f"      apiVersion: ray.io/v1\n      kind: RayService\n"
            f"      metadata:\n        name: {NAME}\n        {release}\n"
        )

    def _above(self, path: str) -> str:
        """A path of the repository, seen from a folder of one of the builds."""
        return "../" * len((self._work.target.folder / "x").relative_to(ROOT).parts) + path

    def _command(self, part: str) -> list[str]:
        return [*KUSTOMIZE, str((self._work.target.folder / part).relative_to(ROOT))]

    def _write(self, part: str, text: str, name: str = "kustomization.yaml") -> None:
        self._work.run.write(self._work.target.folder / part / name, text)

    def _refuse(self, text: str) -> None:
        """What must not leave this machine; for prod also what the project's own check of manifests finds."""
        namespace = self._work.target.namespace
        if names := names_at_home(text, namespace):
            raise Refused(f"these names lead out of the namespace {namespace}; write it into them: {', '.join(names)}")
        environment, found = self._work.target.environment, sorted(set(PLACEHOLDER.findall(text)))
        if environment != "dev" and found:
            raise Refused(f"the manifests of {environment} still hold {', '.join(found)}")
        if environment == "prod":
            if not self._work.run.dry and not (ROOT / CHECK[0]).exists():
                raise Refused("the manifests of prod are checked before they are applied, and that needs: make setup")
            answer = self._work.run.ask(CHECK, stdin=text)
            if answer.status != 0:
                raise Refused(f"prod refuses these manifests:\n{(answer.output or answer.errors).strip()}")


def names_at_home(text: str, namespace: str) -> list[str]:
    """Names in rendered manifests that would lead out of `namespace`: a certificate, a route, a rule of the mesh."""
    return [] if namespace == NAME else sorted(set(AT_HOME.findall(text)))


def documents(text: str, kind: str = "", name: str = "") -> list[str]:
    """The documents of a rendered stream, of one kind and name where these are given."""
    found = [part.strip("\n") for part in re.split(r"^---$", text, flags=re.MULTILINE) if part.strip()]
    return [one for one in found if kind in ("", kind_of(one)) and name in ("", name_of(one))]


def kind_of(document: str) -> str:
    """The kind of a rendered document; kustomize writes it at the margin."""
    found = re.search(r"^kind: (\S+)$", document, re.MULTILINE)
    return found[1] if found else ""


def name_of(document: str) -> str:
    """The name of a rendered document: two spaces in, after `metadata:`."""
    found = re.search(r"^metadata:\n(?:^ .*\n)*?^  name: (\S+)$", document + "\n", re.MULTILINE)
    return found[1] if found else ""


def secret_keys(text: str) -> dict[str, set[str]]:
    """The Secrets that the pods of rendered manifests need from elsewhere, with the keys that must be there."""
    needed: dict[str, set[str]] = {}
    for document in documents(text):
        if kind_of(document) not in WITHOUT_PODS:
            for name, keys in _named(document + "\n").items():
                needed.setdefault(name, set()).update(keys)
    for name in made_by(text):
        needed.pop(name, None)
    return needed


def made_by(text: str) -> set[str]:
    """The Secrets that rendered manifests hold, or that others make for them: by External Secrets, by cert-manager."""
    made = {name_of(one) for one in documents(text, "Secret")}
    for one in documents(text, "Certificate"):
        made.update(re.findall(r"^  secretName: (\S+)$", one, re.MULTILINE))
    for one in documents(text, "ExternalSecret"):
        target = re.search(r"^  target:\n(?:^    .*\n)*?^    name: (\S+)$", one, re.MULTILINE)
        made.add(target[1] if target else name_of(one))
    return made


def _named(document: str) -> dict[str, set[str]]:
    """Secrets and keys that one document names; no keys where a volume takes whatever there is."""
    named: dict[str, set[str]] = {}
    for _, block in re.findall(r"^( *)(?:- )?secretKeyRef:\n((?:\1 +.*\n)+)", document, re.MULTILINE):
        reference = dict(re.findall(r"^ +(key|name|optional): (\S+)$", block, re.MULTILINE))
        if reference.get("optional") != "true":
            named.setdefault(reference["name"], set()).add(reference["key"])
    for _, block in re.findall(r"^( *)secret:\n((?:\1 +.*\n)+)", document, re.MULTILINE):
        volume = dict(re.findall(r"^ +(optional|secretName): (\S+)$", block, re.MULTILINE))
        if "secretName" in volume and volume.get("optional") != "true":
            named.setdefault(volume["secretName"], set()).update(re.findall(r"- key: (\S+)$", block, re.MULTILINE))
    for name in re.findall(r"^ +authOptions:\n(?: +mode: \S+\n)? +secretName: (\S+)$", document, re.MULTILINE):
        named.setdefault(name, set()).add("auth_token")  # KubeRay's own name for it
    return named


def masked(text: str) -> str:
    """Rendered manifests with the values of every Secret hidden."""
    return "\n---\n".join(_masked(one) if kind_of(one) == "Secret" else one for one in documents(text)) + "\n"


def _masked(document: str) -> str:
    lines, inside = [], False
    for line in document.splitlines():
        if not line.startswith(" "):
            inside = line.startswith(("data:", "stringData:"))
        elif inside:
            key = re.match(r"  (\S+?):( |$)", line)
            if key is None:
                continue  # the further lines of a long value
            line = f"  {key[1]}: '********'"
        lines.append(line)
    return "\n".join(lines)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
