"""`make train-demo`: train the demo model, a small vision transformer, on drawn SEM textures.

The demo model stands in for the real classifier where that cannot be downloaded. It has seen no micrograph, only the
drawings of `demo_model.pictures`. Everything is seeded: two runs on one machine give the same weights.
`make report-demo` measures the model and writes docs/demo-model.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from demo_model.pictures import TRAINING_PICTURES, squashed, training
from demo_model.scenes import LABELS

FOLDER = Path(__file__).resolve().parents[2] / "serve_app" / "models" / "demo"
SIDE = 128
STEPS = 800
BATCH = 64
WARM_UP = 60
PEAK_RATE = 4e-3
SMOOTHING = 0.04
"""Share of the target spread over all classes, so that the model never learns to be certain."""
SEED = 11


def main() -> None:
    """Draw, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the model")
    parser.add_argument("--pictures", type=int, default=TRAINING_PICTURES, help="drawn pictures to train on")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
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
    """Training pictures (count, side, side), uint8, and their classes; class `len(LABELS)` is none of them."""
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
    """Train from scratch for a fixed number of steps; returns the running average of the weights."""
    torch.manual_seed(SEED)
    model = untrained()
    whiten(model, pixels)
    model.train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimisers = optimisers_for(model)
    schedules = [OneCycleLR(one, PEAK_RATE, total_steps=steps, pct_start=WARM_UP / steps) for one in optimisers]
    targets = soft_targets(labels)
    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(labels))
        chosen, order = order[:BATCH], order[BATCH:]
        logits = model(pixel_values=augmented(pixels[chosen])).logits
        loss = nn.functional.cross_entropy(logits, targets[chosen])
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        average.update_parameters(model)
        if step % 100 == 99:
            print(f"step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return model


def whiten(model: ViTForImageClassification, pixels: Tensor) -> None:
    """Start the patch embedding from the whitened principal components of the pictures' patches.

    Fine texture is faint beside brightness; whitened, both reach the first layer equally strong.
    """
    projection = model.vit.embeddings.patch_embeddings.projection
    patches = pixels[:1000, None].float() / 127.5 - 1
    patches = nn.functional.unfold(patches, 16, stride=16).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    kept = vectors[:, -len(projection.weight) :] / (values[-len(projection.weight) :] + 1e-2).sqrt() * 0.3
    with torch.no_grad():
        projection.weight.copy_(kept.T.reshape(-1, 1, 16, 16) / 3)


def optimisers_for(model: ViTForImageClassification) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, where it needs half the steps of AdamW; AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weights in model.named_parameters():
        (matrices if weights.ndim == 2 and ".layers." in name else rest).append(weights)
    return [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_RATE, weight_decay=0.05),
    ]


def soft_targets(labels: Tensor) -> Tensor:
    """Target probabilities: a little less than certain for a class, uniform for pictures of no class."""
    known = nn.functional.one_hot(labels, len(LABELS) + 1)[:, :-1] * (1 - SMOOTHING) + SMOOTHING / len(LABELS)
    return torch.where(labels[:, None] < len(LABELS), known, torch.tensor(1 / len(LABELS)))


def augmented(batch: Tensor) -> Tensor:
    """Model inputs (batch, 3, side, side): turned, mirrored, stretched, with other contrast, focus and noise."""
    grey = batch[:, None].float() / 127.5 - 1
    one = (len(grey), 1, 1, 1)
    grid = nn.functional.affine_grid(placements(len(grey)), list(grey.shape), align_corners=False)
    grey = nn.functional.grid_sample(grey, grid, padding_mode="reflection", align_corners=False)
    soft = nn.functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    grey = torch.lerp(grey, soft, torch.empty(one).uniform_(-0.3, 0.7))
    middle = grey.mean((2, 3), keepdim=True)
    grey = (grey - middle) * torch.empty(one).uniform_(0.6, 1.4) + middle + torch.empty(one).uniform_(-0.2, 0.2)
    grey = grey + torch.randn_like(grey) * torch.empty(one).uniform_(0, 0.12)
    return grey.clamp(-1, 1).expand(-1, 3, -1, -1)


def placements(count: int) -> Tensor:
    """Affine maps (count, 2, 3) from a model input into its picture: four turns and a little more, mirrored or not, and
    0.8 to 1.25 times the scale, differently along x and y."""
    turn = torch.randint(0, 4, (count,)) * (math.pi / 2) + torch.empty(count).uniform_(-0.3, 0.3)
    scale = torch.exp(torch.empty(2, count).uniform_(-0.22, 0.22)) * torch.exp(torch.empty(count).uniform_(-0.1, 0.1))
    mirror = torch.randint(0, 2, (count,)) * 2 - 1
    rows = [torch.stack([turn.cos() * scale[0] * mirror, -turn.sin() * scale[1]], 1)]
    rows.append(torch.stack([turn.sin() * scale[0] * mirror, turn.cos() * scale[1]], 1))
    return torch.cat([torch.stack(rows, 1), torch.empty(count, 2, 1).uniform_(-0.15, 0.15)], 2)


def save(model: ViTForImageClassification, folder: Path) -> None:
    """Write weights (half precision, to be small), configuration, preprocessing and the weights' checksum."""
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"  # the precision to compute in; only the stored weights are half precision
    config |= {"demo": True, "description": "Demo model, trained on drawn textures only. Not for real micrographs."}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.safetensors.sha256").write_text(f"{digest}  model.safetensors\n")


if __name__ == "__main__":
    main()
