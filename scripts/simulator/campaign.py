"""Scenarios one after the other on one simulated cluster, and the raw record of each."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

from serve_app.contracts import Json
from simulator.scenarios.order import SCENARIOS, UNDER_LOAD
from simulator.stage import Stage


class Campaign:
    """`trials` are the records, in plain JSON."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.trials: list[Json] = []

    def run(self, name: str) -> Json:
        """Play one scenario; its record, which is also kept, whatever happens."""
        stage = self.stage
        stage.notes, stage.piled, stage.extra = [], [], []
        record: Json = {"scenario": name, "began": time.time(), "notes": stage.notes, "error": ""}
        self.trials.append(record)
        before = stage.ledger()
        try:
            self._play(name, record)
        except Exception as error:  # the others are played nevertheless; the verdict counts this one
            record["error"] = f"{type(error).__name__}: {error}"
            with suppress(Exception):
                record["applications"] = stage.operator.applications(stage.running)
        record["ids"] = [job_id for job_id, _ in record.get("held", [])] + stage.piled
        record["jobs"] = stage.settle(record["ids"])
        after = stage.ledger()
        record["ledger"] = {counter: after[counter] - before[counter] for counter in after}
        record["seconds"] = time.time() - record["began"]
        return record

    def _play(self, name: str, record: Json) -> None:
        stage = self.stage
        if name not in UNDER_LOAD:
            SCENARIOS[name](stage)
            return
        load = stage.load(f"{name}-{uuid.uuid4().hex[:8]}")
        try:
            with load:
                SCENARIOS[name](stage)
        finally:
            record |= load.record()
            record["asked"] += stage.extra
