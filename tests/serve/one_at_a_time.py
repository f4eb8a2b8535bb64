"""Prints, as JSON, what the classifier answers to each file of a folder: one file, one forward pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from serve_app.models.sem_classifier import NoParams, SemClassifier
from serve_app.settings import Settings


def main() -> None:
    model = SemClassifier()
    model.load(Settings())
    answers = []
    for path in sorted(Path(sys.argv[1]).iterdir()):
        prepared = model.preprocess(path.read_bytes(), NoParams(), model.recipe)
        [output] = model.forward([prepared.item])
        answers.append(model.postprocess(output, NoParams(), prepared.notes).model_dump(mode="json"))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
