"""From clean pixels to what a network takes, exactly as the checkpoint's own image processor makes it.

There are two ways. `Fast` resizes, crops, rescales and normalises by itself: pixels stay uint8 until the forward thread
normalises the batch, so a quarter of the bytes cross between processes, grey images are resized once instead of three
times, and decode workers need no transformers. It is used only if, at load, its output for a few images equals the
processor's bit for bit. `Own` is the processor itself (transformers' Pillow backend), run in the decode worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ModelRejected, ModelUnready
from serve_app.images.resize import MAX_SIDE, Geometry, as_image

Inputs = dict[str, NDArray[Any]]
"""The network's arguments: arrays by name, with the images of a batch along the first axis."""

LEVELS = 256
MAX_VALUES = 1 << 24
"""Most values of one image, and of one forward pass, if the processor lets sizes vary (64 MiB as float32)."""

ALIKE = {
    "BeitImageProcessorPil": ("_preprocess", "preprocess", "_preprocess_image_like_inputs"),
    "ConvNextImageProcessorPil": ("_preprocess", "resize"),
}
"""Processors that override these steps in a way that `_plan` knows."""
STEPS = (
    "preprocess",
    "process_image",
    "_prepare_image_like_inputs",
    "_preprocess_image_like_inputs",
    "_preprocess",
    "resize",
    "center_crop",
    "rescale",
    "normalize",
)


class Preprocessing(Protocol):
    """Both halves: `preparation` goes to the decode workers, `batches` runs in the forward thread."""

    @property
    def preparation(self) -> Geometry | OwnProcessor: ...

    def batches(self, items: Sequence[Any]) -> list[tuple[list[int], Inputs]]:
        """The items as batches of equal shapes: their indices in `items`, and the network's arguments."""
        ...


@dataclass(frozen=True, slots=True)
class Fast:
    """`Geometry` in the decode worker, then one table look-up per value here."""

    preparation: Geometry
    table: NDArray[np.float32]
    """What each of the 256 levels becomes, per channel: (channels, 256)."""

    def batches(self, items: Sequence[NDArray[np.uint8]]) -> list[tuple[list[int], Inputs]]:
        """Always one batch (n, channels, height, width) of float32."""
        channels = self.preparation.channels
        batch = np.empty((len(items), channels, *self.preparation.shape), dtype=np.float32)
        for place, image in zip(batch, items, strict=True):
            for channel in range(channels):
                plane = image if image.ndim == 2 else image[:, :, channel]
                np.take(self.table[channel], plane, out=place[channel], mode="clip")  # clip: `raise` would buffer
        return [(list(range(len(items))), {"pixel_values": batch})]


@dataclass(frozen=True, slots=True)
class OwnProcessor:
    """The processor of the checkpoint in `folder`."""

    folder: Path
    channels: int
    needs_torch: bool

    def prepare_worker(self) -> None:
        """Hide torch: transformers imports it if it can, which costs 4 s and 600 MB that no Pillow processor needs."""
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # about the hidden torch
        if not self.needs_torch:
            sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # the import system allows None
        load_processor(self.folder)

    def item(self, pixels: NDArray[np.uint8]) -> Inputs:
        """The processor's output for the image, without the batch axis."""
        processor = load_processor(self.folder)
        image = as_image(pixels, self.channels)
        if self.channels != 1:
            image = image.convert("RGB")
        made = processor(image, return_tensors="pt" if self.needs_torch else "np")
        item = {name: _single(np.asarray(value)) for name, value in made.items()}
        values = sum(array.size for array in item.values())
        if values > MAX_VALUES:
            raise ModelRejected(
                f"This model takes images in their own size; this one makes {values} values of at most {MAX_VALUES}."
            )
        return item

    def describe(self) -> str:
        return f"by the model's own processor ({type(load_processor(self.folder)).__name__})"


def _single(values: NDArray[Any]) -> NDArray[Any]:
    """The only image of a batch, as float32 like the networks' weights; integers other than uint8 stay."""
    if len(values) != 1:
        raise ModelRejected(f"The model's image processor makes {len(values)} pictures of this one.")
    kept = values[0] if np.issubdtype(values.dtype, np.integer) and values.dtype != np.uint8 else values[0].astype("f4")
    return np.asarray(kept)


@dataclass(frozen=True, slots=True)
class Own:
    preparation: OwnProcessor

    def batches(self, items: Sequence[Inputs]) -> list[tuple[list[int], Inputs]]:
        """Items of one shape share a batch, of MAX_VALUES values at most."""
        groups: dict[Any, list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(tuple((name, array.shape) for name, array in item.items()), []).append(place)
        batches = []
        for places in groups.values():
            first = items[places[0]]
            most = max(1, MAX_VALUES // max(1, sum(array.size for array in first.values())))
            for start in range(0, len(places), most):
                some = places[start : start + most]
                batches.append((some, {name: np.stack([items[place][name] for place in some]) for name in first}))
        return batches


@lru_cache(maxsize=1)
def load_processor(folder: Path) -> Any:
    """The checkpoint's own image processor: local files, no foreign code. Raises `ModelUnready`."""
    from transformers import AutoImageProcessor
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # no warning that this is not torchvision's variant
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers lets its parsers' exceptions through; all are caused by the folder
        raise ModelUnready(f"The image processor of {folder} cannot be loaded: {error}") from error


def choose(folder: Path, channels: int) -> Preprocessing:
    """The fast way if it is exact, else the checkpoint's own processor. Raises `ModelUnready`."""
    from transformers.image_processing_backends import PilBackend

    processor = load_processor(folder)
    own = OwnProcessor(folder, channels, needs_torch=not isinstance(processor, PilBackend))
    fast = _plan(processor, channels)
    if fast is not None and _proven(fast, own):
        return fast
    return Own(own)


def probes() -> list[NDArray[np.uint8]]:
    """Noise images: grey and colour, larger and smaller than usual inputs, portrait and landscape."""
    source = np.random.default_rng(20_240_607)
    shapes = ((517, 300), (301, 640, 3), (90, 61, 3), (40, 75))
    return [source.integers(0, LEVELS, shape, np.uint8) for shape in shapes]


def _proven(fast: Fast, own: OwnProcessor) -> bool:
    for pixels in probes():
        try:
            expected = own.item(pixels)
        except Exception:  # the processor itself will report the error
            return False
        [(_, inputs)] = fast.batches([fast.preparation.item(pixels)])
        if set(expected) != {"pixel_values"} or not np.array_equal(inputs["pixel_values"][0], expected["pixel_values"]):
            return False
    return True


def _plan(processor: Any, channels: int) -> Fast | None:
    """This processor as a `Geometry` and a table; None if it does more."""
    if not _has_known_steps(processor) or not processor.do_resize or getattr(processor, "do_pad", None):
        return None
    geometry = _geometry(processor, channels)
    if geometry is None or not all(1 <= side <= MAX_SIDE for side in geometry.shape):
        return None
    smallest = geometry.size if isinstance(geometry.size, tuple) else (geometry.size, geometry.size)
    if geometry.crop is None and isinstance(geometry.size, int):
        return None  # shapes vary
    if geometry.crop is not None and (geometry.crop[0] > smallest[0] or geometry.crop[1] > smallest[1]):
        return None  # it pads
    table = _table(processor, channels)
    return None if table is None else Fast(geometry, table)


def _has_known_steps(processor: Any) -> bool:
    from transformers.image_processing_backends import PilBackend

    kind = type(processor)
    if not issubclass(kind, PilBackend):
        return False
    changed = {step for step in STEPS if getattr(kind, step) is not getattr(PilBackend, step)}
    return changed <= set(ALIKE.get(kind.__name__, ()))


def _geometry(processor: Any, channels: int) -> Geometry | None:
    size, filter_ = processor.size, processor.resample
    try:
        resample = Image.Resampling.BILINEAR if filter_ is None else Image.Resampling(int(filter_))
    except ValueError:
        return None
    crop = processor.crop_size if processor.do_center_crop else None
    cut = (crop.height, crop.width) if crop is not None and crop.height and crop.width else None
    if processor.do_center_crop and cut is None:
        return None
    if type(processor).__name__ == "ConvNextImageProcessorPil":
        edge = size.shortest_edge
        if not edge or cut is not None:
            return None
        if edge >= 384:  # from this size on ConvNext warps instead of cropping
            return Geometry((edge, edge), resample, None, channels)
        return Geometry(int(edge / processor.crop_pct), resample, (edge, edge), channels)
    if size.longest_edge or size.max_height or size.max_width:
        return None
    if size.shortest_edge:
        return Geometry(size.shortest_edge, resample, cut, channels)
    return Geometry((size.height, size.width), resample, cut, channels) if size.height and size.width else None


def _table(processor: Any, channels: int) -> NDArray[np.float32] | None:
    """The processor's arithmetic (float64 product, then float32), once per level and channel."""
    levels = np.arange(LEVELS, dtype=np.float64)
    if processor.do_rescale:
        levels = levels * processor.rescale_factor
    table = np.tile(levels.astype(np.float32), (channels, 1))
    if processor.do_normalize:
        mean, std = (_per_channel(value, channels) for value in (processor.image_mean, processor.image_std))
        if mean is None or std is None or not std.all():
            return None
        table = (table - mean[:, None]) / std[:, None]
    return table


def _per_channel(value: Any, channels: int) -> NDArray[np.float32] | None:
    values = np.atleast_1d(np.array(value, dtype=np.float32))
    if np.ndim(value) and len(values) != channels:
        return None
    return np.broadcast_to(values, (channels,))
