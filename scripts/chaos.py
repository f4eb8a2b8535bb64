"""`make chaos`: kills, freezes, fills and stops one part after the other under load, and checks that nothing was lost.

Starts a service of its own. Every answer, row and look at the queue goes to build/chaos.json; from that one line per
figure is computed and printed: `name value target ok|short`. Ends with 1 when one is short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmark.origin import origin  # noqa: E402  the checkout's own modules come first
from reliability import page, pictures, verdict  # noqa: E402
from reliability.campaign import Campaign, Plan, document  # noqa: E402
from reliability.faults import FAULTS  # noqa: E402
from reliability.service import MODEL, ToughService  # noqa: E402

RECORD = ROOT / "build" / "chaos.json"
PICTURES = 60


def main() -> int:
    """Strike, write, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5000, help="jobs of the whole run, at least")
    parser.add_argument("--seconds", type=float, default=30, help="how long the load of one fault lasts, at least")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME", help=" ".join(FAULTS)
    )
    parser.add_argument("--seed", type=int, default=1, help="of the pictures and their order")
    parser.add_argument("--page", type=Path, help="also write the table between the marks of this page")
    options = parser.parse_args()
    plan = Plan(-(-options.jobs // len(options.faults)), options.seconds, options.seed)
    started = time.time()
    RECORD.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="semapi-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        print("# drawing pictures", flush=True)
        drawn = pictures.draw(folder / "pictures", PICTURES, options.seed)
        with ToughService(folder) as service:
            campaign = Campaign(service, MODEL, drawn, plan)
            try:
                asyncio.run(_strike(campaign, options.faults))
            finally:
                _write(campaign, plan, started)
    record = json.loads(RECORD.read_text())
    if options.page:
        page.write(options.page, record)
    found = verdict.measured(record["trials"])
    print(*(figure.line for figure in found), sep="\n")
    return int(any(figure.is_short for figure in found))


async def _strike(campaign: Campaign, faults: list[str]) -> None:
    for name in faults:
        print(f"# {name}: {FAULTS[name].__doc__}", flush=True)
        record = await campaign.run(name)
        for strike in record["strikes"]:
            print(f"#   {strike['evidence']}; it held {len(strike['held'])} jobs", flush=True)
        print(f"#   {verdict.summarise(json.loads(json.dumps(record)))}", flush=True)


def _write(campaign: Campaign, plan: Plan, started: float) -> None:
    record = document(campaign, plan, started, **origin("python3 scripts/chaos.py"))
    RECORD.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
