"""The models that read pages: text, data bars, layout; with the weights of the installed packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from loadtest.drawn import PARAGRAPH, font, lines, png
from PIL import Image, ImageDraw
from pydantic import ValidationError

from serve_app.errors import ModelUnready
from serve_app.models.contract import Answer, Model, Schema
from serve_app.models.layout import Layout
from serve_app.models.ocr import Ocr, OcrParams
from serve_app.models.pages import LONGEST_SIDE
from serve_app.settings import Settings
from tests.checkpoints import save

SETTINGS = Settings(inference_threads=1)


@pytest.fixture(scope="module")
def ocr() -> Ocr:
    model = Ocr()
    model.load(SETTINGS)
    return model


def answers(model: Model, images: list[Image.Image], **params: Any) -> list[Any]:
    """Results of one batch."""
    chosen = model.Params(**params)
    prepared = [model.preprocess(png(image), chosen, model.recipe) for image in images]
    outputs = model.forward([one.item for one in prepared])
    pairs = zip(outputs, prepared, strict=True)
    return [model.postprocess(output, chosen, one.notes) for output, one in pairs]


def test_text_is_read_whichever_way_up(ocr: Ocr) -> None:
    page = lines(PARAGRAPH)
    turned = [page.rotate(90, expand=True), page.rotate(3, expand=True, fillcolor=255)]
    for result in answers(ocr, turned):
        assert result.text.split("\n") == list(PARAGRAPH)
        assert result.confidence > 0.9
        assert not result.truncated


def test_boxes_are_in_pixels_of_the_image(ocr: Ocr) -> None:
    page = lines(PARAGRAPH[:1])
    small, large = answers(ocr, [page, page.resize((page.width * 5, page.height * 5))], polygons=True)
    for one, other in zip(small.boxes, large.boxes, strict=True):
        assert one.text == other.text
        assert other.x2 == pytest.approx(5 * one.x2, rel=0.02)
        assert one.polygon[0] == pytest.approx((one.x1, one.y1), abs=3)


def test_a_page_without_text_has_none(ocr: Ocr) -> None:
    strip = Image.new("L", (60_000, 1), 255)  # is padded to an eighth of its width: 1.3 GB if it kept its size
    for result in answers(ocr, [Image.new("L", (300, 200), 255), strip]):
        assert (result.text, result.confidence, result.boxes) == ("", 0, ())
    assert max(ocr.preprocess(png(strip), OcrParams(), SETTINGS).item.pixels.shape) == LONGEST_SIDE


def test_more_text_than_a_result_holds_is_in_a_file(ocr: Ocr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.models.pages.RESULT_ROOM", 400)
    monkeypatch.setattr("serve_app.models.ocr.TEXT_ROOM", 120)
    [answer] = answers(ocr, [lines(PARAGRAPH)])
    assert isinstance(answer, Answer)
    assert answer.result.truncated
    assert answer.result.text == "\n".join(PARAGRAPH[:2])
    assert 0 < len(answer.result.boxes) < len(PARAGRAPH)
    whole = json.loads(answer.outputs["text.json"].data)
    assert whole["text"] == "\n".join(PARAGRAPH)
    assert len(whole["boxes"]) == len(PARAGRAPH)


def bar(fields: list[tuple[float, float, str]]) -> Image.Image:
    """White on black, each text at its place."""
    image = Image.new("L", (1024, 120), 0)
    for left, top, text in fields:
        ImageDraw.Draw(image).text((left, top), text, fill=255, font=font("", 20))
    return image


def test_fields_of_a_data_bar(ocr: Ocr) -> None:
    zeiss = bar(
        [(20, 20, "10 um"), (200, 20, "EHT = 25.00 kV"), (450, 20, "Signal A = SE1"), (700, 20, "WD = 14.8 mm")]
    )
    names = ("HV", "curr", "WD", "mag", "det", "HFW")
    values = ("5.00 kV", "86 pA", "4.1 mm", "20 000 x", "TLD", "10.4 um")
    fei = bar(
        [(20 + 140 * place, 15, name) for place, name in enumerate(names)]
        + [(20 + 140 * place, 60, value) for place, value in enumerate(values)]
    )
    first, second = answers(ocr, [zeiss, fei], data_bar=True)
    assert {name: (field.value, field.unit) for name, field in first.fields.items()} == {
        "accelerating_voltage": (25, "kV"),
        "working_distance": (14.8, "mm"),
        "detector": ("SE1", None),
        "scale_bar": (10, "µm"),
    }
    assert {name: (field.value, field.unit) for name, field in second.fields.items()} == {
        "accelerating_voltage": (5, "kV"),
        "beam_current": (86, "pA"),
        "working_distance": (4.1, "mm"),
        "magnification": (20_000, "x"),
        "detector": ("TLD", None),
        "field_width": (10.4, "µm"),
    }


def test_layout_finds_a_paragraph() -> None:
    model = Layout()
    model.load(SETTINGS)
    page = Image.new("L", (1000, 1400), 255)
    page.paste(lines(PARAGRAPH), (50, 200))
    page.paste(lines(PARAGRAPH), (50, 700))
    [result] = answers(model, [page])
    assert result.text.split(",") == [box.text for box in result.boxes]
    assert [box.y1 < 650 for box in result.boxes] == sorted((box.y1 < 650 for box in result.boxes), reverse=True)
    assert "text" in result.text
    assert {"table", "figure_caption"} <= set(model.labels)


def detector() -> Any:
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    backbone = RTDetrResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])
    small = {"d_model": 16, "encoder_hidden_dim": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    small |= {"encoder_in_channels": [8, 16, 16], "decoder_in_channels": [16, 16, 16], "num_queries": 8}
    small |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 2, "num_denoising": 0}
    named = {"id2label": {0: "Text", 1: "Table"}, "label2id": {"Text": 0, "Table": 1}}
    return RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=backbone, **small, **named))


def test_layout_by_a_checkpoint(tmp_path: Path) -> None:
    processor = {"image_processor_type": "RTDetrImageProcessor", "size": {"height": 64, "width": 64}}
    save(tmp_path, detector(), {**processor, "do_normalize": False})
    options = Layout.Options(source="checkpoint", model_source="private", model_id="org/tiny", model_cache_dir=tmp_path)
    assert Layout.missing(SETTINGS, options) is None
    model = Layout(options)
    model.load(SETTINGS)
    assert model.labels == ("Text", "Table")
    assert model.describe()["sha256"]
    for result in answers(model, [lines(PARAGRAPH)] * 2, min_confidence=0.3):
        assert {box.text for box in result.boxes} <= {"Text", "Table"}
        assert all(0 <= box.x1 < box.x2 <= 900 for box in result.boxes)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = Layout.Options(
        source="checkpoint",
        model_source="hugging_face",
        model_id="docling-project/docling-layout-heron",
        model_revision="a" * 40,
    )
    assert "hf download docling-project/docling-layout-heron" in str(Layout.missing(SETTINGS, options))
    with pytest.raises(ModelUnready):
        Layout(options).load(SETTINGS)


@pytest.mark.parametrize(
    "wrong", [{"source": "checkpoint"}, {"model_source": "demo"}, {"engine": "openvino"}, {"source": "other"}]
)
def test_options_that_contradict_each_other(wrong: Schema) -> None:
    with pytest.raises(ValidationError):
        Layout.Options.model_validate(wrong)
