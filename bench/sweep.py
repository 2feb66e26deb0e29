"""How well a habit takes under different settings: ``python -m bench.sweep 'training.seed=1' 'training.seed=2; lora.rank=8'``.

Each argument is one set of settings. For each a being is told a rule, ruminates, is approved and
learns, all by the product's own road; what its gate saw is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from app.wiring import open_habitus
from tests.being import TELLINGS, told


def once(home: Path, habit: str, settings: str) -> str:
    """One loop; the probes as ``passed/asked``, and the seconds of the training."""
    home.mkdir()
    (home / "habitus.toml").write_text(settings.replace(";", "\n") + "\n", "utf-8")
    being = told(open_habitus(str(home)), habit)
    found = being.ruminate()
    if not found["proposals"]:
        return f"abstained: {found['reason']}"
    proposal = being.proposal(found["proposals"][0])
    being.approve(proposal["id"], proposal["digest"])
    (learned,) = being.learn()
    probes = [f"{p['name']} {round(p['after'] * p['count'])}/{p['count']}" for p in learned["gate"]["probes"]]
    return f"{'promoted' if learned['promoted'] else 'rejected'} | {' | '.join(probes)} | {learned['seconds']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", default=["training.seed=7"])
    parser.add_argument("--habit", choices=sorted(TELLINGS), default="ko-name")
    options = parser.parse_args()
    for settings in options.settings:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{settings} | {once(Path(folder) / 'bag', options.habit, settings)}", flush=True)


if __name__ == "__main__":
    main()
