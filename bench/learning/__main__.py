"""What is learned stays learned: ``make bench-learning`` (hours; ``QUICK=1`` minutes). Resumable.

Habits are filed by hand and go the product's own road from there: rows, approval, training, gate. They are
examined on prompts that are in no corpus, no training row and no gate. Every result is a JSON file under
``--out``; what is there is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.learning import conflict, forgetting, gating, methods, persona, sequence
from bench.learning.lessons import ASKED, LESSONS

QUICK = ["ko-ending", "en-ending", "ko-name"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three habits, one seed; five contradicting pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    options = parser.parse_args()
    out = options.out / ("quick" if options.quick else "full")
    names, seeds = (QUICK, [1]) if options.quick else (list(LESSONS), [1, 2, 3])
    chains = list(conflict.CHAINS)[: 1 if options.quick else None]
    ours = [sequence.ours(out, names, s) for s in seeds]
    theirs = [sequence.merged(out, names, s) for s in seeds]
    pairs = [p for chain in chains for p in conflict.conflicts(out, chain, 5)]
    parts = [
        f"## {len(names)} habits one after another\n\n{len(seeds)} seed(s), {ASKED} prompts each.",
        sequence.table(ours, theirs),
        "## Conflict",
        conflict.table(pairs),
    ]
    bad = [gating.stopped(out, name) for name in (gating.QUICK if options.quick else gating.BAD)]
    good = [] if options.quick else [gating.passed(out, name, seed) for seed in (1, 2) for name in list(LESSONS)[:6]]
    parts += ["## The gate", gating.table(bad, good)]
    if not options.quick:
        parts += ["## Two manners", persona.table(persona.personas(out))]
        compared = {
            way: [methods.compared(out, way, name, seed) for name in ("ko-name", "en-ending") for seed in (1, 2)]
            for way in methods.WAYS
        }
        parts += ["## Ways to train", methods.table(compared)]
        runs = [forgetting.forgetting(out, pair) for pair in forgetting.PAIRS]
        parts += ["## Forgetting", forgetting.table(runs)]
    text = "\n\n".join(parts) + "\n"
    (out / "table.md").write_text(text, "utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
