"""What the classifier answers to each file of a folder, each alone: no service, queue or batch.

In a process of its own, which prints JSON: the caller needs no torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from serve_app.contracts import Json
from serve_app.models.sem_classifier import ClassifierParams, SemClassifier
from serve_app.settings import Settings

DEADLINE_S = 240


def answers_one_at_a_time(folder: Path, settings: Mapping[str, str]) -> list[Json]:
    """The results for the files of the folder in the order of their names, from the model that these settings name."""
    command = [sys.executable, __file__, str(folder)]
    # One thread: several that wait for each other on processors that others use take a hundred times as long.
    environment = {**os.environ, **settings, "INFERENCE_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr.decode()
    answers: list[Json] = json.loads(done.stdout)
    return answers


def main() -> None:
    """Answer on standard output."""
    model = SemClassifier()
    model.load(Settings())
    answers = []
    for path in sorted(Path(sys.argv[1]).iterdir()):
        prepared = model.preprocess(path.read_bytes(), ClassifierParams(), model.recipe)
        [output] = model.forward([prepared.item])
        answers.append(model.postprocess(output, ClassifierParams(), prepared.notes).model_dump(mode="json"))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
