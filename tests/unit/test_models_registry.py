"""One block of configuration becomes a model and its card; what is wrong with it is named."""

import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from serve_app.errors import ModelRefused
from serve_app.gateway.context import Models
from serve_app.models.contract import Schema
from serve_app.models.registry import ModelConfig, card, load, make, refusal
from serve_app.models.snapshot import CheckpointOptions
from serve_app.settings import Settings
from tests.toy_model import WordStatistics

TOY = "tests.toy_model:WordStatistics"


class Lenient(WordStatistics):
    """Its parameters would let numbers through that JSON does not have."""

    class Params(BaseModel):
        threshold: float


def test_a_block_becomes_a_card():
    made = card(ModelConfig(name="words", implementation=TOY, min_replicas=0, chunks_per_replica=2))
    assert (made.name, made.input_layer, made.wakes_from_zero, made.chunks_per_replica) == ("words", "none", True, 2)
    assert made.params_schema["required"] == ["text"]
    assert made.params_schema["additionalProperties"] is False
    assert set(made.result_schema["properties"]) == {"words", "most_common", "mean_length"}
    assert load(made.implementation) is WordStatistics


@pytest.mark.parametrize(
    ("implementation", "reason"),
    [
        ("nowhere.at_all:Model", "PYTHONPATH"),
        ("tests.toy_model:Missing", "not a subclass"),
        ("tests.toy_model:Text", "not a subclass"),
        ("serve_app.models.contract:Model", "Params"),
        (f"{__name__}:Lenient", "Schema named Params"),
    ],
)
def test_a_wrong_implementation_is_named(implementation: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        load(implementation)


class Greeting(WordStatistics):
    """Has a setting of its own, and a phrase that may be missing on a machine."""

    class Options(Schema):
        phrase: str = "hello"

    @classmethod
    def missing(cls, settings: Settings, options: Options) -> str | None:
        return f"There is no {options.phrase} here: pip install {options.phrase}." if options.phrase == "hi" else None


def greeting(**options: object) -> ModelConfig:
    return ModelConfig(name="greeting", implementation=f"{__name__}:Greeting", min_replicas=0, settings=options)


def test_two_blocks_of_a_class_have_settings_of_their_own():
    assert [make(greeting()).options.phrase, make(greeting(phrase="hi")).options.phrase] == ["hello", "hi"]
    with pytest.raises(ValueError, match=r"model greeting: its settings are not valid: frase: Extra inputs"):
        card(greeting(frase="hi"))


def test_a_sleeping_model_that_lacks_something_is_refused_with_the_command():
    settings = Settings()
    assert refusal(card(greeting()), settings) is None
    assert refusal(card(greeting(phrase="hi")), settings) == "There is no hi here: pip install hi."
    models = Models({"greeting": card(greeting())}, {"greeting": Greeting.Params}, {"greeting": "pip install hi"})
    assert models.card("greeting").name == "greeting"
    with pytest.raises(ModelRefused, match="pip install hi"):
        models.takes_jobs(None)


def test_a_checkpoint_of_a_block_takes_the_place_of_the_process_wide_one():
    process = Settings().model_copy(update={"model_source": "private", "model_id": "a/b", "model_revision": "main"})
    assert CheckpointOptions().over(process) == process
    assert CheckpointOptions().over(process).model_id == "a/b"
    own = CheckpointOptions(model_source="demo", engine="openvino").over(process)
    assert (own.model_source, own.model_id, own.model_revision, own.engine) == ("demo", "", "", "openvino")


@pytest.mark.parametrize(
    "block",
    [
        {"model_id": "a/b"},
        {"model_source": "hugging_face", "model_id": "a/b"},
        {"model_source": "private", "model_id": "a/b"},
        {"model_source": "private", "model_id": "a/b", "model_cache_dir": "relative"},
    ],
)
def test_half_a_checkpoint_is_refused(block: dict[str, object]):
    with pytest.raises(ValidationError):
        CheckpointOptions.model_validate(block)


@pytest.mark.parametrize("number", ["nan", "inf", "-Infinity", float("nan")])
def test_a_number_that_json_does_not_have_is_refused(number: object):
    class Threshold(Schema):
        threshold: float

    with pytest.raises(ValidationError):
        Threshold.model_validate({"threshold": number})


@pytest.mark.parametrize(
    "block",
    [
        {"name": "words", "implementation": TOY, "max_batch_sise": 4},
        {"name": "Words!", "implementation": TOY},
        {"name": "words", "implementation": "tests.toy_model"},
        {"name": "words", "implementation": TOY, "min_replicas": 3, "max_replicas": 2},
        {"name": "words", "implementation": TOY, "max_batch_size": 0},
    ],
)
def test_a_wrong_block_is_refused(block: dict[str, object]):
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(block)


def test_the_gateway_s_view_of_a_model_loads_no_heavy_library():
    code = (
        "import sys; from serve_app.models.registry import ModelConfig, card;"
        "card(ModelConfig(name='sem', implementation='serve_app.models.sem_classifier:SemClassifier'));"
        "print(sorted({'torch', 'transformers', 'openvino', 'ray'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
