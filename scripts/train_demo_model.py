"""Train the demo model: a small vision transformer on drawn SEM textures. About five minutes on two cores.

The demo model stands in for the real classifier where that cannot be downloaded. It has seen no micrograph, only the
drawings of `sem_textures`. Everything is seeded; two runs on one machine give the same weights.

    python scripts/train_demo_model.py            # writes serve_app/models/demo
    python scripts/report_demo_model.py           # measures it and writes docs/demo-model.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sem_textures.dataset import LABELS, TRAINING_PICTURES, squashed, training
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

FOLDER = Path(__file__).parent.parent / "serve_app" / "models" / "demo"
SIDE = 128
STEPS = 1000
BATCH = 64
WARM_UP = 60
PEAK_RATE = 1.2e-3
SMOOTHING = 0.04
"""Share of the target spread over all classes, so that the model never learns to be certain."""
SEED = 11


def main() -> None:
    """Draw, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the model")
    parser.add_argument("--pictures", type=int, default=TRAINING_PICTURES, help="drawn pictures to learn from")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (a number, not a time: repeatable)")
    options = parser.parse_args()
    torch.set_num_threads(2)
    began = time.monotonic()
    pixels, labels = draw(options.pictures)
    print(f"{options.pictures} pictures drawn in {time.monotonic() - began:.0f} s", flush=True)
    save(train(pixels, labels, options.steps), options.out)
    print(f"model in {options.out} after {time.monotonic() - began:.0f} s, {core_minutes():.1f} core-minutes")


def core_minutes() -> float:
    """Processor time of this process and its ended children: comparable even where others use the machine too."""
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) / 60


def draw(count: int) -> tuple[Tensor, Tensor]:
    """Training pictures (count, side, side), uint8, and their classes; class `len(LABELS)` is "none of them"."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        drawn = pool.map(_one, range(count), chunksize=40)
    return torch.from_numpy(np.stack([pixels for pixels, _ in drawn])), torch.tensor([label for _, label in drawn])


def _one(number: int) -> tuple[NDArray[np.uint8], int]:
    image, label = training(number)
    return squashed(image, SIDE), label


def untrained() -> ViTForImageClassification:
    """A vision transformer of 1.4 million parameters with the ten classes as its labels."""
    config = ViTConfig(
        hidden_size=160,
        num_hidden_layers=5,
        num_attention_heads=5,
        intermediate_size=480,
        image_size=SIDE,
        patch_size=16,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    # At this size plain attention is faster than the fused kernel.
    model: ViTForImageClassification = AutoModelForImageClassification.from_config(config, attn_implementation="eager")
    return model


def train(pixels: Tensor, labels: Tensor, steps: int) -> ViTForImageClassification:
    """Train from scratch for a fixed number of steps; the running average of the weights is what comes back."""
    torch.manual_seed(SEED)
    model = untrained()
    model.train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps, pct_start=WARM_UP / steps)
    targets = soft_targets(labels)
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(labels))
        chosen, order = order[:BATCH], order[BATCH:]
        logits = model(pixel_values=augmented(pixels[chosen])).logits
        loss = nn.functional.cross_entropy(logits, targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(model)
        if step % 100 == 99:
            print(f"step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return model


def soft_targets(labels: Tensor) -> Tensor:
    """Probabilities to learn: a little less than certain for a class, all classes alike for what belongs to none."""
    known = nn.functional.one_hot(labels, len(LABELS) + 1)[:, :-1] * (1 - SMOOTHING) + SMOOTHING / len(LABELS)
    return torch.where(labels[:, None] < len(LABELS), known, torch.tensor(1 / len(LABELS)))


def augmented(batch: Tensor) -> Tensor:
    """Model inputs (batch, 3, side, side): turned, mirrored, cut, and with other contrast, brightness and noise."""
    grey = batch[:, None].float() / 127.5 - 1
    half = len(grey) // 2
    grey = torch.cat([grey[:half].transpose(2, 3), grey[half:]])
    for axes in ((2,), (3,)):
        mirrored = torch.rand(len(grey)) < 0.5
        grey[mirrored] = grey[mirrored].flip(axes)
    side = int(torch.randint(108, SIDE + 1, ()))
    top, left = (int(torch.randint(0, SIDE - side + 1, ())) for _ in range(2))
    cut = grey[:, :, top : top + side, left : left + side]
    grey = nn.functional.interpolate(cut, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    one = (len(grey), 1, 1, 1)
    grey = grey * torch.empty(one).uniform_(0.7, 1.2) + torch.empty(one).uniform_(-0.15, 0.15)
    grey = grey + torch.randn_like(grey) * torch.empty(one).uniform_(0, 0.08)
    return grey.clamp(-1, 1).expand(-1, 3, -1, -1)


def save(model: ViTForImageClassification, folder: Path) -> None:
    """Write weights (half precision, to be small), configuration, preprocessing and the weights' checksum."""
    model.half().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"  # what to compute in: half precision is only how the weights are stored
    config |= {"demo": True, "description": "Demo model, trained on drawn textures only. Not for real micrographs."}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.safetensors.sha256").write_text(f"{digest}  model.safetensors\n")


if __name__ == "__main__":
    main()
