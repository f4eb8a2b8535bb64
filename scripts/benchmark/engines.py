"""ENGINE=openvino against ENGINE=torch on this machine: images per second of the forward pass alone, for the model that
MODEL_SOURCE names (the demo model where nothing is set).

One thread each, and seconds of processor time, so that what else the machine does counts little.

    python scripts/benchmark/engines.py
"""

from __future__ import annotations

import statistics
import time

from serve_app.models.sem_classifier import SemClassifier
from serve_app.settings import Settings

ENGINES = ("torch", "openvino")
RUNS = 7
RUN_S = 2.0
WARM_UP = 5


def rate(model: SemClassifier, batch: int) -> float:
    """Images per second of processor time, over RUN_S of them."""
    data, params = model.warm_up_input()
    items = [model.preprocess(data, params, model.recipe).item] * batch
    for _ in range(WARM_UP):
        model.forward(items)
    passes, started = 0, time.process_time()
    while (taken := time.process_time() - started) < RUN_S:
        model.forward(items)
        passes += 1
    return passes * batch / taken


def main() -> None:
    """Alternating runs; medians, and the ratios of neighbours."""
    models = {}
    for engine in ENGINES:
        models[engine] = SemClassifier()
        models[engine].load(Settings.model_validate({"engine": engine, "inference_threads": 1}))
    for batch in (1, 8):
        pairs = [[rate(models[engine], batch) for engine in ENGINES] for _ in range(RUNS)]
        torch, openvino = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(second / first for first, second in pairs)
        print(
            f"batch of {batch}: torch {torch:.0f}/s, openvino {openvino:.0f}/s, ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {RUNS} runs)"
        )


if __name__ == "__main__":
    main()
