"""A snapshot folder of a very small image classifier with random weights, made as a real one is saved."""

from __future__ import annotations

import json
from pathlib import Path

SIZE = 32
LABELS = ("Particles", "Powder", "Tips")


def write_snapshot(root: Path, revision: str = "a" * 40) -> Path:
    """Write `models--org--tiny/snapshots/<revision>` below `root`; the folder of the snapshot."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(7)
    config = ViTConfig(
        image_size=SIZE,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    network = ViTForImageClassification(config)
    torch.nn.init.normal_(network.classifier.weight, std=0.3)  # scores that differ from image to image
    folder = root / "models--org--tiny" / "snapshots" / revision
    network.half().save_pretrained(folder)
    preprocessing = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": SIZE, "width": SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder
