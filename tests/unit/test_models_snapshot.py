"""MODEL_SOURCE, MODEL_ID, MODEL_REVISION and MODEL_CACHE_DIR name one complete local folder, or say what is missing."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.errors import ModelUnready
from serve_app.models.snapshot import locate
from serve_app.settings import Settings

COMMIT = "4d00fc90d2127ca2ce683703bfed07b4d8a25bb2"
OTHER = "0" * 40
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("config.json", "preprocessor_config.json", "model.safetensors"):
        (folder / name).write_bytes(b"{}")
    return folder


def shards(folder: Path) -> Path:
    """Weights in two files, as large models have them."""
    index = {"weight_map": {"b": SHARDS[1], "a": SHARDS[0], "c": SHARDS[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in SHARDS:
        (folder / name).write_text(name)
    return folder


def reference(root: Path, name: str, content: str) -> None:
    path = root / "models--org--name" / "refs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


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
    reference(tmp_path, "main", COMMIT)
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
    note = tmp_path / "note"
    note.write_text("a secret")
    with pytest.raises(ModelUnready, match="is not in") as refused:
        locate(private(tmp_path, str(note)))
    assert "a secret" not in str(refused.value)


def test_a_reference_that_is_no_text_names_no_snapshot(tmp_path: Path):
    fill(snapshots(tmp_path) / COMMIT)
    reference = snapshots(tmp_path).parent / "refs" / "main"
    reference.parent.mkdir()
    reference.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelUnready, match="is not in"):
        locate(private(tmp_path))


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (["config.json", "preprocessor_config.json", "pytorch_model.bin"], r"model\.safetensors \(pickled"),
        (["model.safetensors"], r"config\.json, preprocessor_config\.json"),
        (["config.json", "model.safetensors"], r"preprocessor_config\.json .*fine-tuned from"),
    ],
)
def test_an_incomplete_folder_names_every_missing_file_and_where_to_take_it(
    tmp_path: Path, names: list[str], lacking: str
):
    fill(snapshots(tmp_path) / COMMIT, *names)
    with pytest.raises(ModelUnready, match=f"lacks {lacking}"):
        locate(private(tmp_path))


FOUND = """
import sys
from huggingface_hub import snapshot_download, try_to_load_from_cache
from serve_app.models.snapshot import locate
from serve_app.settings import Settings

for revision in sys.argv[1:]:
    ours = locate(Settings(model_source="hugging_face", model_id="org/name", model_revision=revision)).folder
    assert str(ours.resolve()) == snapshot_download("org/name", revision=revision, local_files_only=True), ours
    assert str(ours / "config.json") == try_to_load_from_cache("org/name", "config.json", revision=revision), ours
"""


@pytest.mark.parametrize(
    ("below", "environment"),
    [
        ("", {"HF_HUB_CACHE": "{root}"}),
        ("", {"HUGGINGFACE_HUB_CACHE": "{root}"}),
        ("hub", {"HF_HOME": "{root}"}),
        ("huggingface/hub", {"XDG_CACHE_HOME": "{root}"}),
        (".cache/huggingface/hub", {"HOME": "{root}"}),
        ("models", {"MODELS": "{root}", "HF_HUB_CACHE": "$MODELS/models"}),
        ("a/hub", {"HOME": "{root}", "HF_HOME": "~/a"}),
        ("b/hub", {"MODELS": "{root}", "HF_HOME": "${{MODELS}}/b"}),
        ("c", {"HF_HUB_CACHE": "{root}/c", "HUGGINGFACE_HUB_CACHE": "{root}/d", "HF_HOME": "{root}/e"}),
    ],
)
@pytest.mark.slow(reason="huggingface_hub is imported in a process of its own")
def test_a_cache_is_found_where_huggingface_hub_finds_it(tmp_path: Path, below: str, environment: dict[str, str]):
    fill(snapshots(tmp_path / below) / COMMIT)
    reference(tmp_path / below, "main", COMMIT)
    given = {name: value.format(root=tmp_path) for name, value in environment.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE", "XDG_"))}
    command = [sys.executable, "-W", "ignore", "-c", FOUND, COMMIT, "main"]
    done = subprocess.run(command, env={**kept, **given}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_nothing_named_means_refs_main_as_for_huggingface_hub(tmp_path: Path):
    for commit in (COMMIT, OTHER):
        fill(snapshots(tmp_path) / commit)
    reference(tmp_path, "main", COMMIT)
    assert locate(private(tmp_path)).revision == COMMIT
    reference(tmp_path, "main", f"{OTHER}\n")  # written by hand
    assert locate(private(tmp_path)).revision == OTHER
    reference(tmp_path, "main", "2" * 40)
    with pytest.raises(
        ModelUnready, match=f"main \\(refs/main means {'2' * 40}\\) is not in .*there: {OTHER}, {COMMIT}"
    ):
        locate(private(tmp_path))


def test_a_cache_folder_may_be_written_with_home_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = fill(snapshots(tmp_path) / COMMIT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tmp_path))
    for written in ("~", "$MODELS", "${MODELS}/."):
        monkeypatch.setenv("MODEL_CACHE_DIR", written)
        assert locate(Settings(model_source="private", model_id="org/name")).folder == folder


def test_a_folder_of_local_dir_is_read_as_it_is(tmp_path: Path):
    fill(tmp_path)
    assert (locate(private(tmp_path)).folder, locate(private(tmp_path)).revision) == (tmp_path, "")
    assert locate(private(tmp_path, "v1")).revision == "v1"
    note(tmp_path, COMMIT)
    assert locate(private(tmp_path)).revision == COMMIT
    assert locate(private(tmp_path, "main")).revision == COMMIT
    with pytest.raises(
        ModelUnready, match=f"at {COMMIT}, not at {OTHER}.*hf download org/name --revision {OTHER} --local"
    ):
        locate(private(tmp_path, OTHER))


def note(folder: Path, commit: str) -> None:
    """What `hf download --local-dir` leaves beside a file: commit, etag, time."""
    path = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    path.parent.mkdir(parents=True)
    path.write_text(f"{commit}\n{'e' * 40}\n1790000000.0\n")


def test_the_folder_of_one_model_in_place_of_a_cache_says_what_to_set(tmp_path: Path):
    fill(tmp_path)
    settings = Settings(model_source="hugging_face", model_id="org/name", model_revision=COMMIT)
    with pytest.raises(ModelUnready, match=f"--local-dir.*MODEL_SOURCE=private and MODEL_CACHE_DIR={tmp_path}"):
        locate(settings, cache=tmp_path)


def test_a_home_in_place_of_its_cache_says_which_folder(tmp_path: Path):
    fill(snapshots(tmp_path / "hub") / COMMIT)
    with pytest.raises(ModelUnready, match=f"but in {tmp_path / 'hub'}: name that folder"):
        locate(private(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "model-00002-of-00002.safetensors"])
def test_a_git_lfs_pointer_is_called_one(tmp_path: Path, name: str):
    folder = fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json")
    if "00002" in name:
        shards(folder)
    (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 346293852\n")
    with pytest.raises(ModelUnready, match=f"{name} is a Git LFS pointer.*git lfs pull.*hf download org/name"):
        locate(private(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_link_without_its_blob_says_so(tmp_path: Path, name: str):
    folder = fill(snapshots(tmp_path) / COMMIT)
    (folder / name).unlink()
    (folder / name).symlink_to(f"../../blobs/{'a' * 64}")
    with pytest.raises(ModelUnready, match=rf"lacks {name}.*link to a blob that is not there.*cp -a.*hf download"):
        locate(private(tmp_path))


def test_an_unfinished_download_says_so(tmp_path: Path):
    folder = fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json")
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    (blobs / f"{'a' * 64}.incomplete").write_bytes(b"half")
    with pytest.raises(ModelUnready, match=r"lacks model\.safetensors.*download was not finished"):
        locate(private(tmp_path))
    shutil.rmtree(folder)
    with pytest.raises(ModelUnready, match=r"is not in .*download was not finished"):
        locate(private(tmp_path))


def test_shards_are_those_of_the_index_and_a_missing_one_is_named(tmp_path: Path):
    folder = shards(fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json"))
    (folder / "optimizer.safetensors").write_bytes(b"not the model's")
    assert [path.name for path in locate(private(tmp_path)).weights] == list(SHARDS)
    (folder / SHARDS[1]).unlink()
    with pytest.raises(ModelUnready, match=f"lacks {SHARDS[1]}"):
        locate(private(tmp_path))


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../../x.safetensors"}}, {"weight_map": []}]
)
def test_an_index_that_names_no_shards_is_refused(tmp_path: Path, index: object):
    folder = fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnready, match="does not name the shards"):
        locate(private(tmp_path))


def test_a_checkpoint_of_timm_needs_no_preprocessor_config(tmp_path: Path):
    folder = fill(snapshots(tmp_path) / COMMIT, "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    assert locate(private(tmp_path)).is_timm


def test_the_sum_is_of_all_shards_in_order_of_their_names(tmp_path: Path):
    shards(fill(snapshots(tmp_path) / COMMIT, "config.json", "preprocessor_config.json"))
    assert locate(private(tmp_path)).sha256() == hashlib.sha256("".join(SHARDS).encode()).hexdigest()


def test_a_damaged_file_is_named(tmp_path: Path):
    (fill(snapshots(tmp_path) / COMMIT) / "config.json").write_bytes(b"{} and more")
    with pytest.raises(ModelUnready, match=r"config\.json cannot be read"):
        locate(private(tmp_path)).read_json("config.json")
