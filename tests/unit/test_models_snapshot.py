"""MODEL_SOURCE, MODEL_ID, MODEL_REVISION and MODEL_CACHE_DIR name one complete local folder, or say what is missing."""

import hashlib
from pathlib import Path

import pytest

from serve_app.errors import ModelUnready
from serve_app.models.snapshot import locate
from serve_app.settings import Settings

COMMIT = "4d00fc90d2127ca2ce683703bfed07b4d8a25bb2"
OTHER = "0" * 40


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("config.json", "preprocessor_config.json", "model.safetensors"):
        (folder / name).write_bytes(f"{{}} {name}".encode())
    return folder


def private(root: Path, revision: str = "") -> Settings:
    return Settings(model_source="private", model_id="org/name", model_revision=revision, model_cache_dir=root)


def snapshots(root: Path) -> Path:
    return root / "models--org--name" / "snapshots"


def test_the_only_snapshot_needs_no_revision(tmp_path: Path):
    folder = fill(snapshots(tmp_path) / COMMIT)
    found = locate(private(tmp_path))
    assert (found.folder, found.id, found.revision, found.demo) == (folder, "org/name", COMMIT, False)


def test_one_of_two_snapshots_must_be_named(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT)
    fill(snapshots(tmp_path) / OTHER)
    with pytest.raises(ModelUnready, match=f"MODEL_REVISION.*{OTHER}, {COMMIT}"):
        locate(private(tmp_path))
    assert locate(private(tmp_path, COMMIT)).revision == COMMIT


def test_a_branch_means_the_commit_it_was_downloaded_at(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT)
    reference = tmp_path / "models--org--name" / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text(COMMIT)
    assert locate(private(tmp_path, "main")).revision == COMMIT


def test_a_missing_model_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(ModelUnready, match=f"hf download org/name --revision {COMMIT} --cache-dir {tmp_path}"):
        locate(private(tmp_path, COMMIT))


def test_a_missing_revision_says_which_are_there(tmp_path: Path):
    fill(snapshots(tmp_path) / OTHER)
    with pytest.raises(ModelUnready, match=f"{COMMIT} is not in .*there: {OTHER}.*hf download"):
        locate(private(tmp_path, COMMIT))


@pytest.mark.parametrize("model_id", ["../../etc", "/etc/passwd", "org/name/more", ".hidden"])
def test_an_id_cannot_leave_the_cache(tmp_path: Path, model_id: str):
    with pytest.raises(ModelUnready, match="org/name"):
        locate(Settings(model_source="private", model_id=model_id, model_cache_dir=tmp_path))


def test_a_revision_cannot_leave_the_cache(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT)
    fill(tmp_path / "elsewhere")
    with pytest.raises(ModelUnready, match="is not in"):
        locate(private(tmp_path, "../../../elsewhere"))


def test_pickled_weights_are_refused(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json", "pytorch_model.bin")
    with pytest.raises(ModelUnready, match=r"lacks \*\.safetensors"):
        locate(private(tmp_path))


def test_an_incomplete_folder_names_every_missing_file(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT, "model.safetensors")
    with pytest.raises(ModelUnready, match=r"lacks config\.json, preprocessor_config\.json"):
        locate(private(tmp_path))


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_hugging_face_reads_the_local_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}[variable]
    folder = fill(snapshots(tmp_path / below) / COMMIT)
    settings = Settings(model_source="hugging_face", model_id="org/name", model_revision=COMMIT)
    assert locate(settings).folder == folder


def test_the_sum_is_of_all_shards_in_order_of_their_names(tmp_path: Path):
    folder = fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json")
    (folder / "model-2.safetensors").write_bytes(b"second")
    (folder / "model-1.safetensors").write_bytes(b"first")
    assert locate(private(tmp_path)).sha256() == hashlib.sha256(b"firstsecond").hexdigest()


def test_a_damaged_file_is_named(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT)
    with pytest.raises(ModelUnready, match=r"config\.json cannot be read"):
        locate(private(tmp_path)).read_json("config.json")
