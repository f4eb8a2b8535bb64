"""Finds a model's files: MODEL_SOURCE, MODEL_ID, MODEL_REVISION and MODEL_CACHE_DIR name one local folder.

Nothing is downloaded here, and weights are safetensors only: a pickle could run code. A cache is read by the rules
of huggingface_hub: its own constants name the folder (HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME,
with `~` and `$VARIABLES` in them), and a revision is looked up in `refs/` first, `main` where none is named.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models.contract import Schema
from serve_app.settings import COMMIT, Settings

DEMO_FOLDER = Path(__file__).parent / "demo"
DEMO_ID = "sem-image-classifier/demo"

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FILES = (CONFIG, PREPROCESSOR, PROCESSOR, INDEX, "*.safetensors")
"""Patterns of all files that a classifier is read from: those worth copying or downloading."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SHARD = re.compile(r"[\w.-]+\.safetensors")


class CheckpointOptions(Schema):
    """Settings of one model that take the place of the process-wide ones, so that two checkpoints of a class can be
    served side by side. A block that names a source uses none of the process-wide MODEL_* variables."""

    model_source: Literal["demo", "hugging_face", "private"] | None = None
    model_id: str = ""
    model_revision: str = ""
    model_cache_dir: Path | None = None
    engine: Literal["torch", "openvino"] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.model_source is None and (self.model_id or self.model_revision or self.model_cache_dir):
            raise ValueError("model_source is missing: hugging_face, private or demo")
        if self.model_source == "hugging_face" and not (self.model_id and self.model_revision):
            raise ValueError("model_source: hugging_face needs model_id and model_revision")
        if self.model_source == "private" and not (self.model_id and self.model_cache_dir):
            raise ValueError("model_source: private needs model_id and model_cache_dir")
        if self.model_cache_dir and not self.model_cache_dir.is_absolute():
            raise ValueError("model_cache_dir must be an absolute path")
        return self

    def over(self, settings: Settings) -> Settings:
        """The process-wide settings with these in their place."""
        chosen = self.model_dump(exclude={"engine"}) if self.model_source else {}
        return settings.model_copy(update={**chosen, **({"engine": self.engine} if self.engine else {})})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete local copy of one model at one revision."""

    folder: Path
    id: str
    revision: str
    """Commit or name of the revision; empty if unknown."""
    demo: bool

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that transformers reads: `model.safetensors`, else the shards named by the index, in order."""
        single, index = self.folder / WEIGHTS, self.folder / INDEX
        if single.is_symlink() or single.exists():
            return (single,)
        if not index.is_file():
            return ()
        shards = self.read_json(INDEX).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
            raise ModelUnready(f"{index} does not name the shards of the weights.")
        return tuple(self.folder / name for name in sorted(names))

    def read_json(self, name: str) -> Json:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelUnready(f"{self.folder / name} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ModelUnready(f"{self.folder / name} does not hold a JSON object.")
        return content

    @property
    def is_timm(self) -> bool:
        """Whether this is a checkpoint of timm, whose config.json says how images are prepared."""
        return (self.folder / CONFIG).is_file() and "pretrained_cfg" in self.read_json(CONFIG)

    def sha256(self) -> str:
        """The hash of the weights: of the one file, or of all shards in the order of their names."""
        digest = hashlib.sha256()
        for path in self.weights:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def locate(settings: Settings, cache: Path | None = None) -> Snapshot:
    """The snapshot that the settings name. Raises `ModelUnready` with what is missing, where, and how to get it.

    `cache` replaces huggingface_hub's own cache for `hugging_face`.
    """
    if settings.model_source == "demo":
        return _complete(Snapshot(DEMO_FOLDER, DEMO_ID, "", demo=True), "run make train-demo")
    fetch = fetch_command(settings)
    root = cache or _hugging_face_cache()
    if settings.model_source == "private" and settings.model_cache_dir:
        root = settings.model_cache_dir
    repository = root / _repository_name(settings.model_id)
    if settings.model_source == "private" and not repository.is_dir() and (root / CONFIG).exists():
        return _complete(_flat(root, settings), f"hf download {settings.model_id} --local-dir {root}")
    folder = _revision_folder(repository, settings, fetch)
    return _complete(Snapshot(folder, settings.model_id, folder.name, demo=False), fetch)


def fetch_command(settings: Settings) -> str:
    """The command that downloads the model to where the settings look for it."""
    fetch = f"hf download {settings.model_id}"
    if settings.model_revision:
        fetch += f" --revision {settings.model_revision}"
    if settings.model_source == "private" and settings.model_cache_dir:
        fetch += f" --cache-dir {settings.model_cache_dir}"
    return fetch


def _hugging_face_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def _repository_name(model_id: str) -> str:
    """`models--org--name`. Raises `ModelUnready` for an invalid name, which could lead out of the cache."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # made public, unknown to mypy

    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise ModelUnready(f"MODEL_ID={model_id} is not of the form org/name: {error}") from error
    return str(repo_folder_name(repo_id=model_id, repo_type="model"))


def _revision_folder(repository: Path, settings: Settings, fetch: str) -> Path:
    """`models--org--name/snapshots/<commit>` of the named revision, of `refs/main`, or of the only snapshot."""
    snapshots = repository / "snapshots"
    present = sorted(path.name for path in snapshots.iterdir() if path.is_dir()) if snapshots.is_dir() else []
    if not present:
        raise ModelUnready(
            f"{settings.model_id} is not in {repository.parent}{_near(repository)}. Get it with: {fetch}"
        )
    wanted = settings.model_revision or "main"
    # A branch or tag is a file with the commit it pointed to when it was downloaded.
    reference = repository / "refs" / wanted
    inside = ".." not in Path(wanted).parts and not Path(wanted).is_absolute()
    named = inside and reference.is_file()
    commit = reference.read_text(encoding="utf-8", errors="replace").strip() if named else wanted
    if commit in present:
        return snapshots / commit
    if not settings.model_revision and not named:
        if len(present) == 1:
            return snapshots / present[0]
        raise ModelUnready(
            f"{snapshots} holds {len(present)} snapshots, and there is no refs/main to choose between them; "
            f"set MODEL_REVISION to one of: {', '.join(present)}"
        )
    at = f"{wanted} (refs/{wanted} means {commit})" if named else wanted
    raise ModelUnready(
        f"{settings.model_id} at {at} is not in {repository.parent} (there: {', '.join(present)}). Get it with: {fetch}"
    )


def _near(repository: Path) -> str:
    """A hint for the usual mistakes: what was found instead."""
    root = repository.parent
    if (root / CONFIG).is_file():
        return (
            ", which is the folder of one model, as `hf download --local-dir` and git leave it: "
            f"set MODEL_SOURCE=private and MODEL_CACHE_DIR={root}"
        )
    if (root / "hub" / repository.name).is_dir():
        return f", but in {root / 'hub'}: name that folder"
    if next(repository.glob("blobs/*.incomplete"), None):
        return ": its download was not finished"
    return ""


def _flat(folder: Path, settings: Settings) -> Snapshot:
    """A folder with the files themselves: made by `hf download --local-dir`, which records the commit, or by hand."""
    note = folder / ".cache" / "huggingface" / "download" / f"{CONFIG}.metadata"
    commit = note.read_text(encoding="utf-8").split("\n", 1)[0].strip() if note.is_file() else ""
    wanted = settings.model_revision
    if COMMIT.fullmatch(wanted) and COMMIT.fullmatch(commit) and wanted != commit:
        raise ModelUnready(
            f"{folder} holds {settings.model_id} at {commit}, not at {wanted}. Get it with: hf download "
            f"{settings.model_id} --revision {wanted} --local-dir {folder}"
        )
    return Snapshot(folder, settings.model_id, commit if COMMIT.fullmatch(commit) else wanted, demo=False)


def _complete(snapshot: Snapshot, fetch: str) -> Snapshot:
    """The snapshot, if it has all files of a classifier. Raises `ModelUnready`, with the cause if it is known: links
    without their blobs, Git LFS pointers, an unfinished download, pickled weights."""
    folder = snapshot.folder
    missing = [name for name in (CONFIG,) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in (PREPROCESSOR, PROCESSOR)) and not snapshot.is_timm:
        missing.append(PREPROCESSOR)
    weights = () if (folder / INDEX).is_symlink() and not (folder / INDEX).exists() else snapshot.weights
    missing += [path.name for path in weights if not path.is_file()]
    if not weights:
        missing.append("model.safetensors (pickled weights such as pytorch_model.bin are refused)")
    if missing:
        why = _why(folder)
        if missing == [PREPROCESSOR] and not why:
            why = " (if it never had one: take that of the model it was fine-tuned from)"
        raise ModelUnready(f"{folder} lacks {', '.join(missing)}{why}. Get it with: {fetch}")
    for path in weights:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelUnready(
                    f"{path} is a Git LFS pointer, a note of {path.stat().st_size} bytes in place of the weights: git "
                    f"cloned the repository without git-lfs. Run `git lfs install` and `git lfs pull` in the clone, or "
                    f"get it with: {fetch}"
                )
    return snapshot


def _why(folder: Path) -> str:
    lost = sorted(path.name for path in folder.iterdir() if path.is_symlink() and not path.exists())
    if lost:
        return (
            f": {', '.join(lost)} is a link to a blob that is not there. The folder was copied without its blobs, "
            f"or they were deleted: copy {folder.parent.parent} as a whole, with its links (cp -a)"
        )
    places = (folder.parent.parent / "blobs", folder / ".cache" / "huggingface" / "download")
    if any(next(place.glob("*.incomplete"), None) for place in places):
        return ": its download was not finished"
    return ""
