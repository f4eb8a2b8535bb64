"""What a model must be to be served: one class, one file.

    gateway          Params, Result, input_layer              reads the class, never makes an instance
    decode worker    preprocess(data, params, recipe)         a separate process, bounded in memory and time
    forward thread   load(settings), forward(items)           the one thread of the replica that computes
    event loop       postprocess(output, params, notes)       small arithmetic only

A model module is imported by the gateway and by every decode worker: it imports heavy libraries (torch,
transformers) inside `load` and `forward` only.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

from serve_app.contracts import Json, Output
from serve_app.errors import ModelRejected
from serve_app.settings import Settings

OUTPUTS_MAX: Final = 16
OUTPUT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MEDIA_TYPE: Final = re.compile(r"[a-z]+/[A-Za-z0-9.+-]{1,80}")


class Schema(BaseModel):
    """Base of every `Params` and `Result`. Unknown keys are refused, so that a misspelt key does not silently become a
    default; so are numbers that JSON lacks (a client may send them as text: "nan")."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OutputEntry(Schema):
    """One file of a result: GET /api/v1/jobs/{job_id}/outputs/{name} gives it."""

    name: str
    media_type: str
    bytes: int


class ResultWithOutputs(Schema):
    """Base of the `Result` of a model that also returns files. The replica fills in the list."""

    outputs: tuple[OutputEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A result and the files that belong to it, by name: at most 16 of letters, digits, `.`, `_` and `-`, and
    OUTPUT_MAX_BYTES together. They live as long as the job's record."""

    result: ResultWithOutputs
    outputs: Mapping[str, Output]

    def check(self, max_bytes: int) -> None:
        """Raises `ModelRejected` if there are too many files, they are too large together, or a name or type is not
        allowed."""
        if len(self.outputs) > OUTPUTS_MAX:
            raise ModelRejected(f"The model gave more than {OUTPUTS_MAX} files.")
        for name, output in self.outputs.items():
            if not (OUTPUT_NAME.fullmatch(name) and MEDIA_TYPE.fullmatch(output.media_type)):
                raise ModelRejected("The model gave a file whose name or media type is not allowed.")
        if sum(len(output.data) for output in self.outputs.values()) > max_bytes:
            raise ModelRejected(f"The model's files are larger than {max_bytes} bytes.")

    def listed(self) -> ResultWithOutputs:
        """The result with the list of its files."""
        entries = [
            OutputEntry(name=name, media_type=output.media_type, bytes=len(output.data))
            for name, output in self.outputs.items()
        ]
        return self.result.model_copy(update={"outputs": tuple(entries)})


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input, ready for the forward pass.

    `item` goes to `forward`: picklable and small, because it crosses from the decode worker to the replica.
    `notes` go to `postprocess`: what the result should say about how the input was read.
    """

    item: Any
    notes: Json = field(default_factory=dict)


class Model(ABC):
    """Base of all models. The replica makes one instance and calls `load` first."""

    input_layer: ClassVar[Literal["image", "none"]] = "image"
    """`image`: a job carries one image. `none`: a job has parameters only, and `preprocess` gets no data."""
    reads_in_steps: ClassVar[bool] = False
    """True: `preprocess` reads large TIFF and JPEG files in steps (`images.reduced`), so jobs of this model may have
    images of up to IMAGE_MAX_PIXELS_IN_STEPS."""
    Params: ClassVar[type[Schema]]
    """What a submit may carry beside the input."""
    Result: ClassVar[type[Schema]]
    """What a completed job holds; at most 64 kB as JSON."""
    Options: ClassVar[type[Schema]] = Schema
    """What an operator may set for this model in its block of the Serve config (`settings`): a checkpoint, an engine, a
    threshold. An instance has the values as `options`."""

    recipe: Any = None
    """What `preprocess` needs to know about the loaded model (an input size, a limit). Set by `load`, picklable."""
    labels: tuple[str, ...] = ()
    """The classes the model can answer, in the order of its outputs. Set by `load`; empty when it has none."""

    def __init__(self, options: Schema | None = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    @classmethod
    def missing(cls, settings: Settings, options: Any) -> str | None:
        """What this machine lacks to serve the model, in one sentence with the command that gets it, or None.

        Called when a gateway starts, for models that may have no replica: submits to one that lacks something are
        refused with this sentence. Look at packages and files only; import no heavy library.
        """
        return None

    @abstractmethod
    def load(self, settings: Settings) -> None:
        """Read the weights from local files. Called once, in the forward thread; may take minutes.

        Raises `ModelUnready` with a sentence that names what is missing and how to get it.
        """

    @staticmethod
    def prepare_worker(recipe: Any) -> None:
        """Import what `preprocess` needs besides this module. Runs once in every decode worker, before its memory is
        limited: the limit is for inputs, not for libraries."""
        return None

    @staticmethod
    @abstractmethod
    def preprocess(data: bytes | None, params: Any, recipe: Any) -> Prepared:
        """Turn one input into one item. Runs in a decode worker process that a hostile input may kill.

        Raises a `JobError` (`ImageUndecodable`, `ModelRejected`) when the input is at fault, and `TransientFailure`,
        as `forward` and `postprocess` may, when the same input may succeed a little later.
        """

    @abstractmethod
    def forward(self, items: Sequence[Any]) -> Sequence[Any]:
        """One output per item, in order. One batch at a time, always in the thread that ran `load`."""

    @abstractmethod
    def postprocess(self, output: Any, params: Any, notes: Json) -> BaseModel | Answer:
        """The `Result` of one output, or an `Answer` with files. Encode their bytes in `forward`, because it takes
        time.

        Raises `ModelRejected` if the output is unusable."""

    @abstractmethod
    def warm_up_input(self) -> tuple[bytes | None, BaseModel]:
        """An input that always works, and its parameters; it goes through all steps to tell a bad input from a bad
        model."""

    def describe(self) -> Json:
        """What the API shows about the loaded model: id, revision, weights' sha256, engine, precision, labels.

        The entry `device` names where the forward pass runs.
        """
        return {"device": "cpu", "labels": list(self.labels)}
