"""A checkpoint of transformers: the network, what its outputs mean and what it takes."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any

from serve_app.errors import ModelUnready
from serve_app.models.preprocessing import Preprocessing, probes
from serve_app.models.snapshot import Snapshot


def load_network(
    snapshot: Snapshot, kind: str = "AutoModelForImageClassification", task: str = "image classification"
) -> Any:
    """The snapshot's network as a torch module in float32: local safetensors, no foreign code. `kind` is the class of
    transformers that reads it, `task` names its head.

    Raises `ModelUnready`, also where weights are missing: transformers would fill them with random numbers.
    """
    _check_timm(snapshot)
    _check_weights(snapshot)
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would fill the replica's log
    try:
        network, found = getattr(transformers, kind).from_pretrained(
            snapshot.folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers lets its parsers' exceptions through; all are caused by the folder
        raise ModelUnready(f"{snapshot.folder} cannot be loaded: {error}") from error
    learned = dict(network.named_parameters())
    if missing := sorted(name for name in found["missing_keys"] if name in learned):
        raise ModelUnready(
            f"The weights in {snapshot.folder} lack {', '.join(missing[:4])}{' …' if missing[4:] else ''}: "
            f"the checkpoint has no trained head for {task}."
        )
    return network.eval()


def _check_timm(snapshot: Snapshot) -> None:
    """timm's checkpoints need two more packages."""
    wanted = [name for name in ("timm", "torchvision") if find_spec(name) is None]
    if wanted and snapshot.is_timm:
        raise ModelUnready(
            f"{snapshot.id} is a checkpoint of timm and needs {' and '.join(wanted)}: pip install "
            "'sem-image-classifier[timm]'; beside a CPU build of torch take torchvision from the index of that build "
            "(docs/swap-the-model.md)."
        )


def _check_weights(snapshot: Snapshot) -> None:
    """Check that no file is truncated or of another kind, by the length that its header names. Reads only headers."""
    from safetensors import SafetensorError, safe_open

    for path in snapshot.weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise ModelUnready(
                f"{path} ({path.stat().st_size} bytes) cannot be loaded: it is cut off or damaged ({error}). "
                "Get it again."
            ) from error


def is_multi_label(config: Any) -> bool:
    """Whether the labels are independent of each other. Raises `ModelUnready` if the head does not classify."""
    kind, count = config.problem_type, config.num_labels
    if kind == "regression":
        raise ModelUnready("config.json says problem_type: regression. This service serves only classifiers.")
    if kind == "multi_label_classification":
        return True
    if count < 2:
        raise ModelUnready(
            f"The checkpoint has {count} output, and the softmax of one is always 1. If it is the score of one label, "
            "set problem_type: multi_label_classification in its config.json."
        )
    return False


def read_labels(config: Any) -> tuple[str, ...]:
    """`id2label` in the order of the outputs; without it LABEL_0 and so on, as in transformers.

    A name shared by several outputs gets the output's number: `crane [134]`."""
    named: dict[int, Any] = config.id2label or {index: f"LABEL_{index}" for index in range(config.num_labels or 0)}
    try:
        labels = [str(named[index]) for index in range(len(named))]
    except KeyError as error:
        raise ModelUnready(f"config.json: id2label has no entry {error}.") from error
    count = Counter(labels)
    return tuple(f"{label} [{index}]" if count[label] > 1 else label for index, label in enumerate(labels))


def read_channels(config: Any) -> int:
    """1 for grey or 3 for RGB. Raises `ModelUnready` for any other number."""
    channels = getattr(config, "num_channels", None) or getattr(
        getattr(config, "vision_config", None), "num_channels", None
    )
    if timm := getattr(config, "pretrained_cfg", None):
        channels = (getattr(config, "model_args", None) or {}).get("in_chans") or (timm.get("input_size") or [3])[0]
    if channels not in (None, 1, 3):
        raise ModelUnready(f"The network takes images of {channels} channels; images here are grey or RGB.")
    return channels or 3


def check_fit(network: Any, preprocessing: Preprocessing, classes: int) -> tuple[int, ...] | None:
    """Run two images of different shapes through processor and network. Returns the network's input shape (channels,
    height, width), or None if it varies.

    Raises `ModelUnready` if processor, network and labels do not fit each other.
    """
    import torch

    try:
        items = [preprocessing.preparation.item(pixels) for pixels in probes()[:2]]
        batches = preprocessing.batches(items)
        with torch.inference_mode():
            answers = [
                network(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
                for _, inputs in batches
            ]
    except Exception as error:  # processors and networks raise every builtin exception
        raise ModelUnready(f"The network does not take what its image processor makes: {error}") from error
    for answer in answers:
        if answer.ndim != 2 or answer.shape[1] != classes:
            raise ModelUnready(f"The network gives {tuple(answer.shape)[1:]} numbers for {classes} labels.")
    [(_, inputs), *others] = batches
    alone = set(inputs) == {"pixel_values"} and inputs["pixel_values"].ndim == 4
    return inputs["pixel_values"].shape[1:] if alone and not others else None
