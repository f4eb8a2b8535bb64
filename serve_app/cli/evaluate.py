"""`semapi evaluate coco`: how well a detector finds the annotated objects of a set of images."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import Progress

from serve_app.cli.access import DEFAULT_ISSUER, Issuer, find_token
from serve_app.cli.classify import AT_ONCE, json_object
from serve_app.cli.coco import AnnotatedImage, read_dataset
from serve_app.cli.config import settings_or_give_up
from serve_app.cli.console import errors, give_up, output
from serve_app.client import ServiceClient
from serve_app.contracts import Json
from serve_app.errors import JobError, ModelOutage, RequestError, ServiceError

if TYPE_CHECKING:
    from serve_app.cli.evaluation_report import Evaluation, Found, ImageRow

commands = typer.Typer(help="Measure a model against annotated data.", no_args_is_help=True)

REQUIREMENT: Final = re.compile(
    r"(?:(f1|precision|recall)@(0\.[3579])|(jaccard|jaccard_weighted))=(1(?:\.0*)?|0?\.\d+|0)"
)
KEPT: Final = "results.jsonl"

Ask = Callable[[AnnotatedImage, bytes], "list[Found]"]
"""What the model finds in an image. Raises `ImageFailed` if the model does not answer this image."""


class ImageFailed(Exception):
    """The model refused or failed one image; the others go on."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A figure that must be reached: `f1@0.5=0.95`, `jaccard=0.85`."""

    metric: str
    threshold: float | None
    least: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Raises ValueError if it is none."""
        if not (found := REQUIREMENT.fullmatch(text)):
            raise ValueError(
                f"--require {text} is none of f1@T=X, precision@T=X, recall@T=X (T is 0.3, 0.5, 0.7 or 0.9), "
                "jaccard=X and jaccard_weighted=X, with X from 0 to 1"
            )
        curve, threshold, index, least = found.groups()
        return cls(curve or index, float(threshold) if threshold else None, float(least))

    def value(self, evaluation: Evaluation) -> float:
        if self.threshold is not None:
            return float(getattr(evaluation.counts[self.threshold], self.metric))
        return float(getattr(evaluation.jaccard, {"jaccard": "simple", "jaccard_weighted": "weighted"}[self.metric]))

    def __str__(self) -> str:
        return f"{self.metric}{'' if self.threshold is None else f'@{self.threshold}'} >= {self.least}"


@commands.command()
def coco(
    dataset: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with _annotations.coco.json and its images, or that file.")
    ],
    model: Annotated[
        str, typer.Option(help="Name of the model; without --server also a `module:Class`.", show_default=False)
    ],
    server: Annotated[
        str | None,
        typer.Option(envvar="SEMAPI_URL", help="A running service. Default: run the model in this process."),
    ] = None,
    params: Annotated[str, typer.Option(help="The model's parameters, as JSON.")] = "{}",
    category: Annotated[int, typer.Option(help="Id of the category whose annotations are the true objects.")] = 1,
    require: Annotated[
        list[str] | None,
        typer.Option(help="End with 1 unless reached: f1@0.5=0.95, precision@…, recall@…, jaccard=…; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the report as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the report as one HTML file.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="For pictures and kept results. Default: evaluation/DATASET-MODEL."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask for every image again; use no kept result.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for one image's answer.")] = 300.0,
    issuer: Issuer = DEFAULT_ISSUER,
) -> None:
    """Run a detector on images with COCO annotations and print Jaccard index, precision, recall and F1.

    Results are kept for each image: after a broken run the same command asks only for the others. Ends with 1 when an
    image got no answer or a figure is below --require.
    """
    try:
        needed = [Requirement.parse(text) for text in require or ()]
        images = read_dataset(dataset, category)
        about = {"dataset": dataset.absolute().name, "model": model, "params": params, "category": category}
        about["service"] = server or "in this process"
        folder = folder or Path("evaluation") / re.sub(r"[^\w.-]+", "-", f"{dataset.absolute().stem}-{model}")
        folder.mkdir(parents=True, exist_ok=True)
        kept = Kept(folder / KEPT, about, fresh=fresh)
        with _asking(model, server, json_object(params), timeout, issuer) as (ask, at_once):
            evaluation = _evaluate(Run(images, ask, at_once, kept, folder, about))
        _write(evaluation, out, html, folder)
    except typer.Exit:  # also a RuntimeError; its reason is already printed
        raise
    except (ServiceError, ModelOutage, ValueError, OSError, RuntimeError) as error:  # RuntimeError: torch's
        give_up(str(error))
    output.print(evaluation.as_text(), markup=False)
    output.print(f"\npictures: {folder}", markup=False)
    short = _check(needed, evaluation)
    if short or evaluation.failed:
        raise typer.Exit(1)


class Kept:
    """The answers of earlier runs, one line of JSON each. A line counts if model, parameters, service and image are
    those of this run; a line that a killed run left half is skipped."""

    def __init__(self, file: Path, about: Json, *, fresh: bool) -> None:
        self._file = file
        self._run = json.dumps([about["model"], about["params"], about["service"]])
        self._known: dict[str, list[Json]] = {}
        if fresh:
            file.unlink(missing_ok=True)
        elif file.exists():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self._known[str(entry["key"])] = list(entry["detections"])
        except (ValueError, KeyError, TypeError):
            return

    def _key(self, data: bytes) -> str:
        return hashlib.sha256(self._run.encode() + b"\0" + data).hexdigest()

    def get(self, data: bytes) -> list[Found] | None:
        from serve_app.cli.evaluation_report import Found

        known = self._known.get(self._key(data))
        return None if known is None else [Found(**one) for one in known]

    def put(self, data: bytes, found: Sequence[Found]) -> None:
        detections = [{"bbox": list(one.bbox), "score": one.score, "label": one.label} for one in found]
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n" if self._torn() else "")
            file.write(json.dumps({"key": self._key(data), "detections": detections}) + "\n")

    def _torn(self) -> bool:
        """Whether the file's last line was not finished."""
        with self._file.open("rb") as file:
            return bool(file.seek(0, 2)) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: its images, what answers them, and where results go."""

    images: Sequence[AnnotatedImage]
    ask: Ask
    at_once: int
    kept: Kept
    folder: Path
    about: Json


@contextmanager
def _asking(model: str, server: str | None, params: Json, timeout_s: float, issuer: str) -> Iterator[tuple[Ask, int]]:
    """What answers images, and how many it takes at a time: a service, or the model in this process."""
    if server:
        with ServiceClient(server, find_token(issuer)) as client:
            yield _of_service(client, model, params, timeout_s), AT_ONCE
    else:
        yield _of_process(model, params), 1


def _of_service(client: ServiceClient, model: str, params: Json, timeout_s: float) -> Ask:
    def ask(image: AnnotatedImage, _: bytes) -> list[Found]:
        try:
            job = client.wait(client.submit(image.path, model=model, params=params)["job_id"], timeout_s)
        except RequestError as error:
            if error.slug.startswith("image-") or error.slug == "body-too-large":
                raise ImageFailed(error.detail) from error
            raise
        if job["status"] != "COMPLETED":
            raise ImageFailed((job.get("problem") or {}).get("detail") or job["status"])
        return _detections(job["result"], model)

    return ask


def _of_process(model: str, params: Json) -> Ask:
    from serve_app.cli.local_model import LocalModel

    local = LocalModel(model, json.dumps(params))
    if local.input_layer == "none":
        raise ValueError(f"{model} takes no image")

    def ask(_: AnnotatedImage, data: bytes) -> list[Found]:
        try:
            return _detections(local.answer(data), model)
        except JobError as error:
            raise ImageFailed(error.detail) from error

    return ask


def _detections(result: Json, model: str) -> list[Found]:
    from serve_app.cli.evaluation_report import Found

    try:
        return [
            Found([float(side) for side in one["bbox"]], float(one["score"]), str(one["label"]))
            for one in result["detections"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{model} is no detector: its result has no detections with bbox, score and label") from error


def _evaluate(run: Run) -> Evaluation:
    """Every image answered, scored and drawn. Raises ValueError if no image got an answer."""
    from serve_app.cli.evaluation_report import Evaluation, picture_names

    pictures = picture_names([image.name for image in run.images])
    rows: dict[str, ImageRow] = {}
    failed: dict[str, str] = {}
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("evaluating", total=len(run.images))
        for image, answer in _answers(run):
            try:
                if isinstance(answer, ImageFailed):
                    raise answer
                rows[image.name] = _score(run, image, answer, run.folder / pictures[image.name])
            except ImageFailed as error:
                failed[image.name] = str(error)
            progress.advance(bar)
    if not rows:
        name, reason = next(iter(failed.items()))
        raise ValueError(f"no image got an answer; {name}: {reason}")
    ordered = [rows[image.name] for image in run.images if image.name in rows]
    return Evaluation(run.about, ordered, dict(sorted(failed.items())))


def _answers(run: Run) -> Iterator[tuple[AnnotatedImage, list[Found] | ImageFailed]]:
    """Kept answers first, then those of the model as they come; these are kept."""
    waiting = []
    for image in run.images:
        found = run.kept.get(image.path.read_bytes())
        if found is None:
            waiting.append(image)
        else:
            yield image, found
    if len(waiting) < len(run.images):
        errors.print(
            f"{len(run.images) - len(waiting)} of {len(run.images)} results are from an earlier run; "
            "--fresh asks for all again",
            markup=False,
        )
    for image, answer in _ask_all(run, waiting):
        if not isinstance(answer, ImageFailed):
            run.kept.put(image.path.read_bytes(), answer)
        yield image, answer


def _ask_all(run: Run, images: Sequence[AnnotatedImage]) -> Iterator[tuple[AnnotatedImage, list[Found] | ImageFailed]]:
    def one(image: AnnotatedImage) -> list[Found] | ImageFailed:
        try:
            return run.ask(image, image.path.read_bytes())
        except ImageFailed as error:
            return error

    if run.at_once == 1:  # a model in this process computes in the thread that loaded it
        yield from ((image, one(image)) for image in images)
        return
    with ThreadPoolExecutor(run.at_once) as threads:
        asked = {threads.submit(one, image): image for image in images}
        try:
            for future in as_completed(asked):
                yield asked[future], future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _score(run: Run, image: AnnotatedImage, found: list[Found], picture: Path) -> ImageRow:
    """The image's row; writes its annotated picture."""
    from serve_app.cli.detection_metrics import count, jaccard
    from serve_app.cli.evaluation_report import ImageRow, draw
    from serve_app.images.decode import read_pixels

    try:
        page = json_object(run.about["params"]).get("page")
        pixels = read_pixels(image.path.read_bytes(), settings_or_give_up(), page).array
    except JobError as error:
        raise ImageFailed(error.detail) from error
    height, width = pixels.shape[:2]
    if image.size not in (None, (width, height)):
        raise ValueError(
            f"{image.name} has {width} x {height} pixels when it is upright, but its annotations are for "
            f"{image.size[0]} x {image.size[1]}"
        )
    boxes = [one.bbox for one in found]
    row = ImageRow(
        name=image.name,
        width=width,
        height=height,
        true=image.boxes,
        found=found,
        jaccard=jaccard(boxes, image.boxes, width, height),
        counts=count(boxes, image.boxes),
    )
    draw(pixels, row).save(picture, "JPEG", quality=90)
    return row


def _write(evaluation: Evaluation, out: Path | None, html: Path | None, folder: Path) -> None:
    from serve_app.cli.evaluation_report import as_html, picture_names

    if out:
        out.write_text(json.dumps(evaluation.as_json(), indent=1) + "\n", encoding="utf-8")
    if html:
        names = picture_names([row.name for row in evaluation.rows] + list(evaluation.failed))
        pictures = {row.name: folder / names[row.name] for row in evaluation.rows}
        html.write_text(as_html(evaluation, pictures), encoding="utf-8")


def _check(needed: Sequence[Requirement], evaluation: Evaluation) -> bool:
    """Print whether each required figure is reached; whether one is not."""
    short = False
    for one in needed:
        value = one.value(evaluation)
        short = short or value < one.least
        output.print(f"required {one}: {value:.4f} {'short' if value < one.least else 'ok'}", markup=False)
    return short
