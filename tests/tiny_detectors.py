"""Very small zero-shot detectors with random weights: a network, an image processor and a tokenizer, saved as those of
their families are."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import COMMIT, spread

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LETTERS = string.ascii_lowercase + string.digits
WORD_ENDS = [f"{letter}</w>" for letter in LETTERS]
CLIP_IDS = {token: at for at, token in enumerate([*LETTERS, *WORD_ENDS, "<|startoftext|>", "<|endoftext|>"])}


def owlvit() -> Any:
    from transformers import OwlViTConfig, OwlViTForObjectDetection

    return OwlViTForObjectDetection(OwlViTConfig(**_owl()))


def owlv2() -> Any:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    return Owlv2ForObjectDetection(Owlv2Config(**_owl()))


def _owl() -> dict[str, Any]:
    ends = {"bos_token_id": CLIP_IDS["<|startoftext|>"], "eos_token_id": CLIP_IDS["<|endoftext|>"], "pad_token_id": 0}
    text = {**SMALL, "vocab_size": len(CLIP_IDS), "max_position_embeddings": 16, **ends}
    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    return {"text_config": text, "vision_config": vision, "projection_dim": 32}


def grounding_dino() -> Any:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=4, out_indices=[2, 3, 4], image_size=64
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=BertConfig(**SMALL, vocab_size=len(_bert_words())),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=30,
        num_feature_levels=3,
        max_text_len=32,
    )
    return GroundingDinoForObjectDetection(config)


def clip_tokenizer(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(CLIP_IDS))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "a"}))


def _bert_words() -> list[str]:
    pieces = [f"##{letter}" for letter in LETTERS]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *LETTERS, *pieces]


def bert_tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(_bert_words()) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


OWLVIT = {"image_processor_type": "OwlViTImageProcessor", "size": {"height": 64, "width": 64}, "do_center_crop": False}
OWLV2 = {"image_processor_type": "Owlv2ImageProcessor", "size": {"height": 64, "width": 64}}
DINO = {"image_processor_type": "GroundingDinoImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 96}}

FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any], Callable[[Path], None]]] = {
    "OWL-ViT": (owlvit, OWLVIT, clip_tokenizer),
    "OWLv2": (owlv2, OWLV2, clip_tokenizer),
    "Grounding DINO": (grounding_dino, DINO, bert_tokenizer),
}


def save(root: Path, family: str) -> Path:
    """As a snapshot in a cache at `root`; its folder."""
    import torch

    network, processor, tokenizer = FAMILIES[family]
    folder = root / "models--org--tiny" / "snapshots" / COMMIT
    torch.manual_seed(7)
    made = network()
    spread(made)
    made.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tokenizer(folder)
    return folder
