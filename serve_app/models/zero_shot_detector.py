"""Finds objects that the caller names: OWL-ViT, OWLv2 and Grounding DINO, by any checkpoint of transformers'
AutoModelForZeroShotObjectDetection.

The weights are not part of this package. The default checkpoint is google/owlvit-base-patch32 at REVISION in the cache
of Hugging Face; without it submits are refused with the command that downloads it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from serve_app.contracts import Json
from serve_app.errors import JobError, ModelRejected, ModelUnready
from serve_app.images.decode import read_pixels
from serve_app.images.resize import Geometry
from serve_app.models.checkpoint import load_network
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.models.detection import Detections, detection, digest, how_many_fit
from serve_app.models.engines import processors
from serve_app.models.preprocessing import OwnProcessor, Preprocessing, choose, load_processor, probes
from serve_app.models.snapshot import CheckpointOptions, Snapshot, fetch_command, locate
from serve_app.settings import Settings

DEFAULT_ID: Final = "google/owlvit-base-patch32"
REVISION: Final = "cbc355fb364588351c5d51c7f74465e8e7ec6f72"
"""Of DEFAULT_ID: the commit that transformers 5.23 pins for its own pipeline."""
TOKENIZERS: Final = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Files of which a checkpoint needs one group, for its labels."""
ALL_LABELS_AT_ONCE: Final = ("owlvit", "owlv2")
"""Networks that score labels independently: one pass looks at the image once for all its labels."""

Label = Annotated[str, Field(min_length=1, max_length=100)]


class DetectorOptions(CheckpointOptions):
    """The checkpoint; without `model_source` it is DEFAULT_ID at REVISION."""

    engine: Literal["torch"] | None = None

    def over(self, settings: Settings) -> Settings:
        default = {"model_source": "hugging_face", "model_id": DEFAULT_ID, "model_revision": REVISION}
        chosen = self if self.model_source else self.model_copy(update=default)
        return super(DetectorOptions, chosen).over(settings)


class ZeroShotParams(Schema):
    """What a submit may choose."""

    label: Label | None = Field(default=None, description="What to find; `coin` by default")
    labels: tuple[Label, ...] | None = Field(
        default=None, min_length=1, max_length=20, description="In place of `label`: several things to find"
    )
    threshold: float = Field(default=0.1, ge=0, le=1, description="Objects with a higher score are in the result")
    page: int | None = Field(
        default=None,
        ge=1,
        description="Which page or frame of the file, from 1. By default TIFF's largest picture, else the first",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.label is not None and self.labels is not None:
            raise ValueError("send label or labels, not both")
        return self

    @property
    def wanted(self) -> tuple[str, ...]:
        """The labels, each once."""
        return tuple(dict.fromkeys(self.labels or (self.label or "coin",)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a decode worker needs to know about the model and the limits."""

    preparation: Geometry | OwnProcessor
    settings: Settings


@dataclass(frozen=True, slots=True)
class Item:
    """One image on its way to the forward pass."""

    inputs: Any
    size: tuple[int, int]
    """Height and width of the upright image."""
    labels: tuple[str, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Found:
    """One object as transformers' own pipeline answers it."""

    score: float
    label: str
    box: tuple[int, int, int, int]


class ZeroShotDetector(Model):
    """Boxes and scores are those of transformers' pipeline `zero-shot-object-detection`."""

    Params = ZeroShotParams
    Result = Detections
    Options = DetectorOptions

    _network: Any
    _tokenizer: Any
    _processor: Any
    _preprocessing: Preprocessing
    _longest: int
    """Most tokens of a label."""
    _device: str
    _description: Json

    @classmethod
    def missing(cls, settings: Settings, options: DetectorOptions) -> str | None:
        try:
            _find(options.over(settings))
        except ModelUnready as error:
            return error.detail
        return None

    def load(self, settings: Settings) -> None:
        settings = self.options.over(settings)
        snapshot = _find(settings)
        network = load_network(snapshot, "AutoModelForZeroShotObjectDetection", "zero-shot object detection")
        import torch

        torch.set_num_threads(settings.inference_threads or processors())
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self._device)
        self._tokenizer = _load_tokenizer(snapshot)
        self._longest = _longest_label(network.config)
        self._processor = load_processor(snapshot.folder)
        self._preprocessing = choose(snapshot.folder, 3)
        self.recipe = Recipe(self._preprocessing.preparation, settings)
        self._description = {
            "id": snapshot.id,
            "revision": snapshot.revision,
            "sha256": snapshot.sha256(),
            "engine": "torch",
            "precision": "fp32",
        }
        self._check_fit()

    def _check_fit(self) -> None:
        """Run an image through processor and network. Raises `ModelUnready` if they do not fit each other."""
        try:
            pixels = probes()[0]
            item = self.recipe.preparation.item(pixels)
            self.forward([Item(item, (pixels.shape[0], pixels.shape[1]), ("coin",), 0.1)])
        except Exception as error:  # processors and networks raise every builtin exception
            raise ModelUnready(
                f"Network, image processor and tokenizer of the checkpoint do not fit: {error}"
            ) from error

    @staticmethod
    def prepare_worker(recipe: Recipe) -> None:
        if isinstance(recipe.preparation, OwnProcessor):
            recipe.preparation.prepare_worker()

    @staticmethod
    def preprocess(data: bytes | None, params: ZeroShotParams, recipe: Recipe) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        pixels = read_pixels(data, recipe.settings, params.page)
        height, width = pixels.array.shape[:2]
        item = Item(recipe.preparation.item(pixels.array), (height, width), params.wanted, params.threshold)
        notes = {**pixels.how, "resized_to": recipe.preparation.describe(), "digest": digest(data)}
        return Prepared(item, notes)

    def forward(self, items: Sequence[Item]) -> list[list[Found] | JobError]:
        """The objects of each image, best first. Images of one shape share a pass."""
        refused = {place: reason for place, item in enumerate(items) if (reason := self._refusal(item.labels))}
        places = [place for place in range(len(items)) if place not in refused]
        found: dict[int, list[Found]] = {place: [] for place in places}
        for some, inputs in self._preprocessing.batches([items[place].inputs for place in places]):
            for at, one in self._passes([items[places[index]] for index in some], inputs):
                found[places[some[at]]].append(one)
        return [
            refused[place] if place in refused else sorted(found[place], key=lambda one: -one.score)
            for place in range(len(items))
        ]

    def _refusal(self, labels: Sequence[str]) -> JobError | None:
        for label in labels:
            if (count := len(self._tokenizer(label)["input_ids"])) > self._longest:
                return ModelRejected(
                    f"The label {label!r} is too long: it has {count} tokens, and this model takes {self._longest}."
                )
        return None

    def _passes(self, items: Sequence[Item], inputs: Json) -> Iterator[tuple[int, Found]]:
        """Every object, with the index of its image."""
        if self._network.config.model_type in ALL_LABELS_AT_ONCE:
            yield from self._all_labels(items, inputs)
            return
        for label in dict.fromkeys(label for item in items for label in item.labels):
            some = [index for index, item in enumerate(items) if label in item.labels]
            text = self._tokenizer([label] * len(some), return_tensors="pt")
            outputs = self._run({name: array[some] for name, array in inputs.items()}, text)
            for row, index in enumerate(some):
                yield from self._objects(index, items[index], label, outputs.logits[row], outputs.pred_boxes[row])

    def _all_labels(self, items: Sequence[Item], inputs: Json) -> Iterator[tuple[int, Found]]:
        """One pass: column n of an image's scores is that of its n-th label. Images with fewer labels repeat one."""
        most = max(len(item.labels) for item in items)
        texts = [label for item in items for label in (*item.labels, *item.labels[:1] * (most - len(item.labels)))]
        outputs = self._run(inputs, self._tokenizer(texts, padding=True, return_tensors="pt"))
        for index, item in enumerate(items):
            for column, label in enumerate(item.labels):
                logits = outputs.logits[index, :, column : column + 1]
                yield from self._objects(index, item, label, logits, outputs.pred_boxes[index])

    def _run(self, inputs: Json, text: Any) -> Any:
        import torch

        with torch.inference_mode():
            images = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
            return self._network(**images, **{name: tensor.to(self._device) for name, tensor in text.items()})

    def _objects(self, index: int, item: Item, label: str, logits: Any, boxes: Any) -> Iterator[tuple[int, Found]]:
        """The objects of one label in one image, by the checkpoint's own arithmetic."""
        import torch

        outputs = SimpleNamespace(logits=logits[None].cpu(), pred_boxes=boxes[None].cpu())
        [chosen] = self._processor.post_process_object_detection(
            outputs, threshold=item.threshold, target_sizes=torch.tensor([item.size])
        )
        for score, box in zip(chosen["scores"].tolist(), chosen["boxes"].int().tolist(), strict=True):
            if score:  # as the pipeline does
                yield index, Found(score, label, tuple(box))

    def postprocess(self, output: list[Found] | JobError, params: ZeroShotParams, notes: Json) -> Detections:
        if isinstance(output, JobError):
            raise output
        image_digest = notes["digest"]
        most = min(how_many_fit(label) for label in params.wanted)
        best: dict[Any, Found] = {}  # of equal boxes of one label, which would share their id, the best
        for one in output:
            if one.box[0] < one.box[2] and one.box[1] < one.box[3]:
                best.setdefault((one.label, one.box), one)
        found = tuple(detection(image_digest, one.box, one.score, one.label) for one in list(best.values())[:most])
        image = {name: value for name, value in notes.items() if name != "digest"}
        return Detections(count=len(found), detections=found, model=self._description, image=image)

    def warm_up_input(self) -> tuple[bytes, ZeroShotParams]:
        from PIL import Image

        file = io.BytesIO()
        Image.linear_gradient("L").save(file, "PNG")
        return file.getvalue(), ZeroShotParams()

    def describe(self) -> Json:
        return {**super().describe(), "device": self._device, **self._description}


def _find(settings: Settings) -> Snapshot:
    """The snapshot, complete with the files of a tokenizer. Raises `ModelUnready`."""
    snapshot = locate(settings)
    if not any(all((snapshot.folder / name).is_file() for name in group) for group in TOKENIZERS):
        raise ModelUnready(
            f"{snapshot.folder} lacks tokenizer.json, by which it reads labels. Get it with: {fetch_command(settings)}"
        )
    return snapshot


def _load_tokenizer(snapshot: Snapshot) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(snapshot.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers lets its parsers' exceptions through; all are caused by the folder
        raise ModelUnready(f"The tokenizer of {snapshot.folder} cannot be loaded: {error}") from error


def _longest_label(config: Any) -> int:
    """Most tokens of a text that the network takes."""
    text = getattr(config, "text_config", None)
    limits = (getattr(text, "max_position_embeddings", None), getattr(config, "max_text_len", None))
    return min(limit for limit in (*limits, 512) if limit)
