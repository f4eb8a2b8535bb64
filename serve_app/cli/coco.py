"""Reads a folder of images with annotations in COCO format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import BaseModel, Field, ValidationError

from serve_app.cli.console import explain

ANNOTATIONS: Final = "_annotations.coco.json"
NAMED_MAX: Final = 3
"""Most files that a message names."""

Length = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Place = Annotated[float, Field(allow_inf_nan=False)]


class CocoImage(BaseModel):
    id: int
    file_name: Annotated[str, Field(min_length=1)]
    width: int | None = None
    height: int | None = None


class CocoAnnotation(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[Place, Place, Length, Length]
    """x, y, width, height."""


class CocoCategory(BaseModel):
    id: int
    name: str = ""


class CocoFile(BaseModel):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] = []


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image and the boxes of its true objects: x_min, y_min, x_max, y_max."""

    name: str
    path: Path
    size: tuple[int, int] | None
    """Width and height, if the annotations have them."""
    boxes: tuple[tuple[float, float, float, float], ...]


def read_dataset(place: Path, category: int) -> list[AnnotatedImage]:
    """The images that `place` names, in the order of their names: a folder with `_annotations.coco.json`, or such a
    file under any name. Raises ValueError with what is wrong."""
    file = _find(place)
    content = _parse(file)
    if not content.images:
        raise ValueError(f"{file} lists no images")
    if not any(one.category_id == category for one in content.annotations):
        raise ValueError(f"{file} has no annotations of category {category}; {_categories(content)}")
    _check_ids(content, file)
    boxes: dict[int, list[tuple[float, float, float, float]]] = {image.id: [] for image in content.images}
    for one in content.annotations:
        if one.category_id == category:
            x, y, width, height = one.bbox
            boxes[one.image_id].append((x, y, x + width, y + height))
    images = [_annotated(image, file.parent, boxes[image.id]) for image in content.images]
    if missing := sorted(image.name for image in images if not image.path.is_file()):
        more = f" and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
        raise ValueError(f"{file} lists images that are not in {file.parent}: {', '.join(missing[:NAMED_MAX])}{more}")
    return sorted(images, key=lambda image: image.name)


def _find(place: Path) -> Path:
    if place.is_file():
        return place
    if not place.is_dir():
        raise ValueError(f"{place} is neither a folder nor a file")
    if not any(place.iterdir()):
        raise ValueError(f"{place} is empty; it must hold {ANNOTATIONS} and its images")
    if not (place / ANNOTATIONS).is_file():
        raise ValueError(f"{place} has no {ANNOTATIONS}; if the annotations have another name, name that file")
    return place / ANNOTATIONS


def _parse(file: Path) -> CocoFile:
    try:
        return CocoFile.model_validate(json.loads(file.read_bytes()))
    except ValidationError as error:
        raise ValueError(f"{file} is not in COCO format: {explain(error)[:400]}") from error
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise ValueError(f"{file} is not JSON: {error}") from error


def _categories(content: CocoFile) -> str:
    names = {one.id: one.name for one in content.categories}
    used = sorted({one.category_id for one in content.annotations})
    if not used:
        return "it has no annotations at all"
    listed = ", ".join(f"{number} ({names[number]})" if names.get(number) else str(number) for number in used[:20])
    return f"there are: {listed}. Choose one with --category"


def _check_ids(content: CocoFile, file: Path) -> None:
    ids = {image.id for image in content.images}
    if len(ids) < len(content.images):
        raise ValueError(f"{file} has two images with the same id")
    if len({image.file_name for image in content.images}) < len(content.images):
        raise ValueError(f"{file} lists an image twice")
    if strays := sorted({one.image_id for one in content.annotations} - ids):
        raise ValueError(f"{file} has annotations of images that it does not list: image_id {strays[0]}")


def _annotated(image: CocoImage, folder: Path, boxes: list[tuple[float, float, float, float]]) -> AnnotatedImage:
    name = PurePosixPath(image.file_name)
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"the image {image.file_name} is outside {folder}")
    size = (image.width, image.height) if image.width and image.height else None
    return AnnotatedImage(image.file_name, folder / name, size, tuple(boxes))
