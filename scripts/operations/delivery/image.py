"""The image: built, then brought to where the cluster finds it. Its name follows from its content."""

from __future__ import annotations

import json

from operations.delivery import release
from operations.delivery.release import Release
from operations.failure import Failed, Refused
from operations.ground import tools
from operations.target import NAME, ROOT, refuse_foreign_model
from operations.work import Work

CONTAINERFILE = "k8s/image/Containerfile"
BUILD_DEADLINE_S = 3600.0
MOVE_DEADLINE_S = 1800.0
"""Of some two gigabytes, to a registry or into kind's node."""
SHOWN_ID = "0" * 64
"""Stands for the image's id in a dry run."""


def build(work: Work) -> str:
    """Build the image, name it after its content, bring it to the cluster, and write the release's file."""
    target = work.target
    refuse_foreign_model(target)
    if not target.is_kind and not target.registry:
        raise Refused(f"{target.environment} needs REGISTRY, where its images are pushed and its nodes pull them")
    source = _source(work)
    builder, identity = tools.builder() if not work.run.dry else tools.BUILDERS[0], target.folder / "image-id"
    arguments = [f"{name.upper()}={getattr(target, name)}" for name in ("model_source", "model_id", "model_revision")]
    command = [builder, "build", "--file", CONTAINERFILE, "--iidfile", str(identity.relative_to(ROOT))]
    command += [part for argument in arguments if not argument.endswith("=") for part in ("--build-arg", argument)]
    if target.model_cache_dir:
        command += ["--build-context", f"model={target.model_cache_dir}"]
    if not work.run.dry:
        target.folder.mkdir(parents=True, exist_ok=True)
        identity.unlink(missing_ok=True)
    work.run.work([*command, "."], deadline_s=BUILD_DEADLINE_S)
    digest = "sha256:" + (SHOWN_ID if work.run.dry else identity.read_text().strip().removeprefix("sha256:"))
    name = f"{target.registry or 'localhost'}/{NAME}:{digest.removeprefix('sha256:')[:12]}"
    work.run.change([builder, "tag", digest.removeprefix("sha256:"), name])
    if target.is_kind and not target.registry:
        _load(work, builder, name)
        image = name
    else:
        digest = _push(work, builder, name)
        image = f"{target.registry}/{NAME}@{digest}"
    made = Release(
        release.now(), target.environment, target.namespace, image, digest,
        target.model_source, target.model_id, target.model_revision, source,
    )  # fmt: skip
    if work.run.dry:
        return ""
    path = release.write(made)
    return f"{image}, written down in {path.relative_to(ROOT)}"


def _source(work: Work) -> str:
    """The revision that is built. In prod every line of the image must be in it."""
    described = work.run.ask(["git", "describe", "--always", "--dirty", "--abbrev=12"], assumed="unknown")
    revision = described.output.strip() or "unknown"
    if work.target.environment == "prod" and not work.run.dry and (revision == "unknown" or "-dirty" in revision):
        raise Refused(f"prod is built from a clean checkout, and this one is {revision}: commit or stash what changed")
    return revision


def _load(work: Work, builder: str, name: str) -> None:
    """Into the node of kind. An archive works the same from podman and from docker."""
    names = [
        one for node in work.objects("nodes") for held in node["status"].get("images", []) for one in held["names"]
    ]
    if name in names:
        work.say("its node holds it already")
        return
    archive = work.target.folder / "image.tar"
    if not work.run.dry:
        archive.unlink(missing_ok=True)  # podman adds to an archive that is there
    shown = str(archive.relative_to(ROOT))
    try:
        work.run.work([builder, "save", "--output", shown, name], deadline_s=MOVE_DEADLINE_S)
        command = ["kind", "load", "image-archive", shown, "--name", work.target.kind_cluster]
        work.run.work(command, deadline_s=MOVE_DEADLINE_S)
    finally:
        if not work.run.dry:
            archive.unlink(missing_ok=True)


def _push(work: Work, builder: str, name: str) -> str:
    """To the registry; the digest under which it is pulled from there."""
    if builder == "podman":
        file = work.target.folder / "digest"
        command = ["podman", "push", "--digestfile", str(file.relative_to(ROOT)), name]
        work.run.work(command, deadline_s=MOVE_DEADLINE_S)
        return f"sha256:{SHOWN_ID}" if work.run.dry else file.read_text().strip()
    work.run.work([builder, "push", name], deadline_s=MOVE_DEADLINE_S)
    answer = work.run.read([builder, "image", "inspect", "--format", "{{json .RepoDigests}}", name], assumed="[]")
    repository = name.rpartition(":")[0] + "@"
    digests = [one.removeprefix(repository) for one in json.loads(answer) if one.startswith(repository)]
    if work.run.dry:
        return f"sha256:{SHOWN_ID}"
    if not digests:
        raise Failed(f"{name} was pushed, and {builder} does not know its digest")
    return str(digests[0])
