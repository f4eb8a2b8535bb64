"""`make cluster-sim`: the RayService on simulated pods, one network namespace each, and what becomes of it in trouble.

Needs root on Linux; says what is missing. Everything that was asked and what came of it goes to
build/cluster-sim.json; from that one line per figure is computed and printed: `name value target ok|short`.
Ends with 1 when one is short, with 2 when the machine cannot run it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "scripts")]  # in the place of this folder, whose names are those of others too

from benchmark.origin import origin  # noqa: E402  the checkout's own modules come first

from serve_app.contracts import Json  # noqa: E402
from simulator import requirements, verdict  # noqa: E402
from simulator.campaign import Campaign  # noqa: E402
from simulator.scenarios.order import HEAD_LOSSES, SCENARIOS, WHOLE  # noqa: E402
from simulator.setting import Setting  # noqa: E402

RECORD = ROOT / "build" / "cluster-sim.json"
SCENARIO_HELP = f"{' '.join(SCENARIOS)}; without it {len(WHOLE)} of them: node-emptied stands for the three -stopped"
UNITS = "times in seconds since 1970 or as durations, memory in GiB, the rest are counts"


def main() -> int:
    """Look what is there, go over into namespaces, play, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=WHOLE, metavar="NAME", help=SCENARIO_HELP)
    parser.add_argument("--losses", type=int, default=1, help="how often the head is lost in each way")
    parser.add_argument("--haproxy", action="store_true", help="in HAProxy mode, to compare it with Serve's own proxy")
    parser.add_argument("--record", type=Path, default=RECORD, help="where the raw record goes")
    parser.add_argument(requirements.INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        if missing := requirements.missing():
            print("This machine cannot run the simulator. Missing:", *missing, sep="\n  ", file=sys.stderr)
            return 2
        requirements.go_inside()
    sys.argv.remove(requirements.INSIDE)  # nobody's word: the record says what was typed
    requirements.settle_inside()
    chosen = [name for name in SCENARIOS if name in options.scenarios]
    played = [name for name in chosen for _ in range(options.losses if name in HEAD_LOSSES else 1)]
    _play(played, options.record, haproxy=options.haproxy)
    record = json.loads(options.record.read_text())
    print(*(f"# {line}" for line in verdict.table(record["trials"])), sep="\n")
    found = verdict.measured(record)
    print(*(figure.line for figure in found), sep="\n")
    return int(any(figure.is_short for figure in found))


def _play(scenarios: Sequence[str], path: Path, *, haproxy: bool) -> None:
    started = time.time()
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="semapi-cluster-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Setting(folder, _progress(started), haproxy=haproxy) as setting:
            campaign = Campaign(setting.stage)
            try:
                for scenario in scenarios:
                    what, *_ = str(SCENARIOS[scenario].__doc__).splitlines()
                    setting.progress(f"{scenario}: {what}")
                    trial = json.loads(json.dumps(campaign.run(scenario)))
                    for line in [*filter(None, [trial["error"]]), *verdict.table([trial])]:
                        setting.progress(f"  {line}")
            finally:
                about: Json = {**origin("make cluster-sim"), "units": UNITS}
                about |= {"started_at": started, "seconds": time.time() - started, "peak_gib": setting.peak_gib}
                path.write_text(json.dumps({**about, "haproxy": haproxy, "trials": campaign.trials}, indent=1))


def _progress(started: float) -> Callable[[str], None]:
    return lambda text: print(f"# {time.time() - started:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # threads that wait for a dead pod must not hold up the end
