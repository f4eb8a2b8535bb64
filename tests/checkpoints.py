"""Very small checkpoints with random weights, one per family, each saved as those of its family are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 32
LABELS = ("Particles", "Powder", "Tips")
NAMED = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"height": SIDE, "width": SIDE}
COMMIT = "a" * 40


def vit(**more: Any) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(**{"image_size": SIDE, "patch_size": 8, **sizes, **NAMED, **more}))


def deit() -> Any:
    from transformers import DeiTConfig, DeiTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return DeiTForImageClassification(DeiTConfig(image_size=SIDE, patch_size=8, **sizes, **NAMED))


def swin() -> Any:
    from transformers import SwinConfig, SwinForImageClassification

    sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    return SwinForImageClassification(SwinConfig(image_size=SIDE, patch_size=4, **sizes, **NAMED))


def convnext() -> Any:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return ConvNextForImageClassification(ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], **NAMED))


def beit() -> Any:
    from transformers import BeitConfig, BeitForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BeitForImageClassification(BeitConfig(image_size=SIDE, patch_size=8, **sizes, **NAMED))


def resnet(**more: Any) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**{**sizes, **NAMED, **more}))


def siglip2() -> Any:
    from transformers import Siglip2Config, Siglip2ForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    vision = {**sizes, "num_patches": 16, "patch_size": 8}
    return Siglip2ForImageClassification(Siglip2Config(vision_config=vision, text_config=sizes, **NAMED))


Made = tuple[Callable[[], Any], dict[str, Any], str]

FAMILIES: dict[str, Made] = {
    "ViT": (vit, {"image_processor_type": "ViTImageProcessorFast", "size": SQUARE, "resample": 2}, "fast"),
    "DeiT": (
        deit,
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": SIDE, "resample": 3, **IMAGENET},
        "fast",
    ),
    "Swin": (swin, {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "resample": 3, **IMAGENET}, "fast"),
    "ConvNeXT": (
        convnext,
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": SIDE}, "crop_pct": 0.875},
        "fast",
    ),
    "BEiT": (
        beit,
        {"image_processor_type": "BeitImageProcessor", "size": {"height": 40, "width": 48}, "do_center_crop": True}
        | {"crop_size": SQUARE},
        "fast",
    ),
    "ResNet": (
        resnet,
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3, **IMAGENET},
        "fast",
    ),
    "ResNet that reads BGR": (
        resnet,
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 40}, "do_center_crop": True}
        | {"crop_size": SQUARE, "do_flip_channel_order": True},
        "own",
    ),
    "SigLIP 2": (
        siglip2,
        {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16},
        "own",
    ),
}
"""By name: the network, its preprocessor_config.json, and whether the fast way or its own processor prepares images."""


def save(root: Path, network: Any, processor: dict[str, Any], name: str = "org/tiny") -> Path:
    """As a snapshot in a cache at `root`; its folder."""
    import torch

    folder = root / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
    torch.manual_seed(7)
    spread(network)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def spread(network: Any) -> None:
    """Weights large enough for scores that differ from image to image."""
    import torch

    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 / parameter[0].numel() ** 0.5)


def save_timm(root: Path) -> Path:
    """As timm pushes its own to the hub: no preprocessor_config.json, and a config.json that is not transformers'."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = root / "models--org--tiny" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=len(LABELS))
    spread(network)
    save_file(network.state_dict(), folder / "model.safetensors")
    pretrained = {"input_size": [3, SIDE, SIDE], "interpolation": "bicubic", "crop_pct": 0.875, "num_classes": 3}
    pretrained |= {"mean": IMAGENET["image_mean"], "std": IMAGENET["image_std"], "crop_mode": "center"}
    config = {"architecture": "test_resnet", "num_classes": 3, "label_names": LABELS, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_timm_wrapper(root: Path, name: str, labels: tuple[str, ...]) -> Path:
    """As transformers saves a network of timm: bicubic, and of the centre nine tenths."""
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    pretrained = {"input_size": [3, SIDE, SIDE], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    pretrained |= {"mean": IMAGENET["image_mean"], "std": IMAGENET["image_std"], "num_classes": len(labels)}
    config = {"architecture": "test_vit", "pretrained_cfg": pretrained, "label_names": list(labels)}
    sizes = {"num_classes": len(labels), "model_args": {"img_size": SIDE}}
    folder = root / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
    torch.manual_seed(7)
    network = TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(config | sizes))
    spread(network)
    network.save_pretrained(folder)
    return folder


def libraries() -> dict[str, bool]:
    """Which heavy ones this process has loaded; run in a decode worker."""
    return {name: sys.modules.get(name) is not None for name in ("torch", "transformers")}
