"""What the benchmark works on: generated micrographs, and a ViT-B/32 with random weights. Made once, in build/."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

MODEL_ID = "bench/vit-base-patch32-random"
SEED = 20261120


def pictures(folder: Path, count: int, size: tuple[int, int] = (1024, 768)) -> Path:
    """`count` greyscale JPEG files with the spectrum of a micrograph: smooth structures, edges and shot noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(SEED)
    for number in range(count):
        path = folder / f"{number:04}.jpg"
        if not path.exists():
            _picture(generator, size).save(path, quality=90)
    return folder


def small_jpeg(size: int = 64_000) -> bytes:
    """One JPEG of `size` bytes within a twentieth."""
    picture, low, high = _picture(np.random.default_rng(SEED), (640, 480)), 1, 100
    while True:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if abs(buffer.tell() - size) < size / 20 or low >= high:
            return buffer.getvalue()
        low, high = (quality + 1, high) if buffer.tell() < size else (low, quality - 1)


def snapshot(cache: Path) -> Path:
    """A cache folder with one snapshot of MODEL_ID in the layout of the Hugging Face cache; random weights."""
    organisation, name = MODEL_ID.split("/")
    folder = cache / f"models--{organisation}--{name}" / "snapshots" / "random"
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

        torch.manual_seed(SEED)
        labels = {number: f"class_{number}" for number in range(10)}
        config = ViTConfig(patch_size=32, id2label=labels, label2id={label: n for n, label in labels.items()})
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessorPil().save_pretrained(folder)
    return folder


def _picture(generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    width, height = size
    smooth = generator.normal(128, 45, (height // 16, width // 16)).clip(0, 255).astype(np.uint8)
    ground = np.asarray(Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = ground + generator.normal(0, 6, ground.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
