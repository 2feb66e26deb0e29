"""What is learned stays learned: ``make bench-learning`` (hours; ``QUICK=1`` minutes). Resumable.

Habits are filed by hand and go the product's own road from there: rows, approval, training, gate. They are
examined on prompts that are in no corpus, no training row and no gate. Every result is a JSON file under
``--out``; what is there is not done again. ``--write`` puts the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import date
from importlib.metadata import version
from pathlib import Path

from bench.learning import conflict, forgetting, gating, methods, persona, sequence
from bench.learning.lessons import ASKED, LESSONS, ROOT, Json, Site

QUICK = ["ko-ending", "en-ending", "ko-name"]
LIGHT = "epochs = 4\n[rumination]\nexamples = 32\nanchors = 96\n"  # of [training] and below
MARK = "<!-- results -->"


def quick(site: Site) -> list[str]:
    """Three habits, one seed; five contradicting pairs; three bad adapters."""
    ours, theirs = [sequence.ours(site, QUICK, 1)], [sequence.merged(site, QUICK, 1)]
    pairs = conflict.conflicts(site, next(iter(conflict.CHAINS)), 5)
    bad = [gating.stopped(site, name) for name in gating.QUICK]
    return [*sequence_parts(len(QUICK), ours, theirs), *conflict_parts(pairs), "## The gate", gating.table(bad, [])]


def full(site: Site) -> list[str]:
    """Everything, the parts that a first reader wants first."""
    names, seeds = list(LESSONS), (1, 2, 3)
    ours = [sequence.ours(site, names, s) for s in seeds]
    theirs = [sequence.merged(site, names, s) for s in seeds]
    pairs = [p for chain in conflict.CHAINS for p in conflict.conflicts(site, chain, 5)]
    forgotten = [forgetting.forgetting(site, pair) for pair in forgetting.PAIRS]
    bad = [gating.stopped(site, name) for name in gating.BAD]
    good = [gating.passed(site, name, seed) for seed in (1, 2) for name in names[:6]]
    ways = {
        way: [methods.compared(site, way, name, seed) for name in ("ko-name", "en-ending") for seed in (1, 2)]
        for way in methods.WAYS
    }
    return [
        *sequence_parts(len(names), ours, theirs),
        *("## Forgetting", forgetting.table(forgotten)),
        *conflict_parts(pairs),
        *("## The gate", gating.table(bad, good)),
        *("## Two manners", persona.table(persona.personas(site))),
        *("## Ways to train", methods.table(ways)),
    ]


def sequence_parts(count: int, ours: list[list[Json]], theirs: list[list[Json]]) -> list[str]:
    head = f"## {count} habits one after another\n\n{len(ours)} seed(s), {ASKED} prompts for each habit."
    return [head, sequence.table(ours, theirs)]


def conflict_parts(pairs: list[Json]) -> list[str]:
    return ["## Conflict", conflict.table(pairs)]


def taken(out: Path) -> str:
    """When, on what, and how long it took: what the reader needs to compare."""
    files = [json.loads(f.read_text("utf-8")) for f in out.rglob("*.json")]
    hours = sum(f.get("wall", 0) for f in files if isinstance(f, dict)) / 3600
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    return f"Taken {date.today()}, {os.cpu_count()} CPU cores, {hours:.1f} h in all, seedling; {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three habits, one seed; five contradicting pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    out = options.out / ("quick" if options.quick else "full")
    parts = quick(Site(out, LIGHT)) if options.quick else full(Site(out))
    text = "\n\n".join([taken(out), *parts]) + "\n"
    (out / "table.md").write_text(text, "utf-8")
    print(f"\n{text}")
    if options.write:
        page = ROOT / "docs" / "benchmarks.md"
        page.write_text(page.read_text("utf-8").split(MARK)[0] + f"{MARK}\n\n{text}", "utf-8")


if __name__ == "__main__":
    main()
