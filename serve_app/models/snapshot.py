"""Where a model's files are: MODEL_SOURCE, MODEL_ID, MODEL_REVISION and MODEL_CACHE_DIR become one local folder.

Nothing is ever downloaded here, and weights are safetensors only: a pickle could run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.settings import Settings

DEMO_FOLDER = Path(__file__).parent / "demo"
DEMO_ID = "sem-image-classifier/demo"
NEEDED = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete local copy of one model at one revision."""

    folder: Path
    id: str
    revision: str
    demo: bool

    @property
    def weights(self) -> tuple[Path, ...]:
        return tuple(sorted(self.folder.glob("*.safetensors")))

    def read_json(self, name: str) -> Json:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelUnready(f"{self.folder / name} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ModelUnready(f"{self.folder / name} does not hold a JSON object.")
        return content

    def sha256(self) -> str:
        """Of the weights: of the one file, or of all shards one after the other in the order of their names."""
        digest = hashlib.sha256()
        for path in self.weights:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def locate(settings: Settings) -> Snapshot:
    """The snapshot that the settings name. Raises `ModelUnready`: what is missing, where, and how to get it."""
    if settings.model_source == "demo":
        return _complete(Snapshot(DEMO_FOLDER, DEMO_ID, "", demo=True), "run scripts/train_demo_model.py")
    fetch = f"hf download {settings.model_id}"
    if settings.model_revision:
        fetch += f" --revision {settings.model_revision}"
    root = _hugging_face_cache()
    if settings.model_source == "private" and settings.model_cache_dir:
        root = settings.model_cache_dir
        fetch += f" --cache-dir {root}"
    folder = _revision_folder(root, settings, fetch)
    return _complete(Snapshot(folder, settings.model_id, folder.name, demo=False), fetch)


def _hugging_face_cache() -> Path:
    """The cache of huggingface_hub, by its own rules and without importing it."""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()


def _revision_folder(root: Path, settings: Settings, fetch: str) -> Path:
    """`models--org--name/snapshots/<commit>`: the named one, or the only one when none is named."""
    if settings.model_id.startswith(("/", ".")) or ".." in settings.model_id or settings.model_id.count("/") > 1:
        raise ModelUnready(f"MODEL_ID={settings.model_id} is not of the form org/name.")
    repository = root / f"models--{settings.model_id.replace('/', '--')}"
    snapshots = repository / "snapshots"
    present = sorted(path.name for path in snapshots.iterdir() if path.is_dir()) if snapshots.is_dir() else []
    wanted = settings.model_revision
    if not present:
        raise ModelUnready(f"{settings.model_id} is not in {root}. Get it with: {fetch}")
    if wanted:
        # A branch or tag is a file that holds the commit it meant when it was downloaded.
        reference = repository / "refs" / wanted
        commit = reference.read_text().strip() if ".." not in wanted and reference.is_file() else wanted
        if commit not in present:
            raise ModelUnready(
                f"{settings.model_id} at {wanted} is not in {root} (there: {', '.join(present)}). Get it with: {fetch}"
            )
        return snapshots / commit
    if len(present) > 1:
        raise ModelUnready(
            f"{snapshots} holds {len(present)} snapshots; set MODEL_REVISION to one of: " + ", ".join(present)
        )
    return snapshots / present[0]


def _complete(snapshot: Snapshot, fetch: str) -> Snapshot:
    missing = [name for name in NEEDED if not (snapshot.folder / name).is_file()]
    if not snapshot.weights:
        missing.append("*.safetensors (pickled weights such as pytorch_model.bin are refused)")
    if missing:
        raise ModelUnready(f"{snapshot.folder} lacks {', '.join(missing)}. Get it with: {fetch}")
    return snapshot
