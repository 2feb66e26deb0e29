"""What is learned stays learned: ``make bench-learning`` (hours; ``QUICK=1`` minutes). Resumable.

Habits are filed by hand and go the product's own road from there: rows, approval, training, gate. They are
examined on prompts that are in no corpus, no training row and no gate. Every result is a JSON file under
``--out``; what is there is not done again. ``--write`` puts the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent.models.base import SEEDLING, digest_of
from bench.learning import conflict, forgetting, gating, methods, persona, sequence
from bench.learning.lessons import ASKED, LESSONS, ROOT, Site

QUICK = ["ko-name", "en-ending"]
QUICK_PAIRS = {"ko-ending": 3, "en-name": 2}
LIGHT = "epochs = 5\n[rumination]\nexamples = 32\nanchors = 96\n"  # of [training] and below
MARK = "<!-- results -->"


Found = dict[str, list[Any]]


@dataclass(frozen=True)
class Section:
    """What is to be done for it, under names, and the text made of it and of the sections before."""

    title: str
    plan: Mapping[str, Sequence[Callable[[], Any]]]
    text: Callable[[Found], str]


def quick(site: Site) -> list[Section]:
    """Two habits, one seed; five contradicting pairs; two bad adapters."""
    pairs = [partial(conflict.conflicts, site, chain, n) for chain, n in QUICK_PAIRS.items()]
    return [
        in_sequence(site, QUICK, (1,)),
        Section("Conflict", {"pairs": pairs}, pairs_table),
        gate(site, gating.QUICK),
    ]


def full(site: Site) -> list[Section]:
    """Everything, what a reader wants first first."""
    pairs = [partial(conflict.conflicts, site, chain, 5) for chain in conflict.CHAINS]
    forgotten = [partial(forgetting.forgetting, site, pair) for pair in forgetting.PAIRS]
    ways = {way: [partial(methods.compared, site, way, n, 1) for n in ("ko-name", "en-ending")] for way in methods.WAYS}
    return [
        in_sequence(site, list(LESSONS), (1, 2, 3)),
        Section("Forgetting", {"forgotten": forgotten}, lambda f: forgetting.table(f["forgotten"])),
        Section("Conflict", {"pairs": pairs}, pairs_table),
        gate(site, list(gating.BAD)),
        Section(
            "Two manners", {"manners": [partial(persona.personas, site)]}, lambda f: persona.table(f["manners"][0])
        ),
        Section("Ways to train", ways, lambda f: methods.table({way: f[way] for way in ways})),
    ]


def in_sequence(site: Site, names: list[str], seeds: Sequence[int]) -> Section:
    plan = {key: [partial(one, site, names, s) for s in seeds] for key, one in
            (("ours", sequence.ours), ("theirs", sequence.merged))}  # fmt: skip
    head = f"{len(seeds)} seed(s), {ASKED} prompts for each habit.\n\n"
    title = f"{len(names)} habits one after another"
    return Section(title, plan, lambda f: head + sequence.table(f["ours"], f["theirs"]))


def pairs_table(found: Found) -> str:
    return conflict.table([pair for chain in found["pairs"] for pair in chain])


def gate(site: Site, bad: Sequence[str]) -> Section:
    """The good ones are those that the sequence learned."""
    plan = {"bad": [partial(gating.stopped, site, name) for name in bad]}
    return Section("The gate", plan, lambda f: gating.table(f["bad"], [step for run in f["ours"] for step in run]))


def at_once(sections: Sequence[Section], workers: int) -> Iterator[str]:
    """The sections' texts, several processes at work, each on its share of the cores.

    Two trainings on one core each are done sooner than one after the other on two. What fails leaves a line in
    its section and stops no other.
    """
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))  # inherited by every training
    found: Found = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        begun = [{name: [pool.submit(one) for one in ones] for name, ones in s.plan.items()} for s in sections]
        for section, futures in zip(sections, begun, strict=True):
            try:
                found |= {name: [f.result() for f in some] for name, some in futures.items()}
                text = section.text(found)
            except Exception as error:
                traceback.print_exc()
                text = f"**Failed**: {type(error).__name__}: {error}"
            yield f"## {section.title}\n\n{text}"


def code(settings: str) -> str:
    """Digest of everything a result depends on but the benchmark itself: results of other code are not gone on with."""
    rooms = (ROOT / d for d in ("agent", "tools", "graphs", "prompts"))
    sources = [p for room in rooms for p in room.rglob("*") if p.suffix in (".py", ".md", ".toml")]
    digest = hashlib.sha256(f"{digest_of(SEEDLING)}\x1f{settings}".encode())
    for p in sorted(sources):
        digest.update(f"{p.relative_to(ROOT)}\x1f".encode() + p.read_bytes())
    return digest.hexdigest()[:12]


def taken(out: Path) -> str:
    """When, on what, and how long it took: what the reader needs to compare."""
    files = [json.loads(f.read_text("utf-8")) for f in out.rglob("*.json")]
    hours = sum(f.get("wall", 0) for f in files if isinstance(f, dict)) / 3600
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    return f"Taken {date.today()}, {os.cpu_count()} CPU cores, {hours:.1f} h in all, seedling; {versions}; code {out.name}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two habits, one seed; five contradicting pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--workers", type=int, default=2, help="processes at work at the same time")
    options = parser.parse_args()
    settings, plan = (LIGHT, quick) if options.quick else ("", full)
    out = options.out / plan.__name__ / code(settings)
    sections = plan(Site(out, settings))
    parts: list[str] = []
    for part in at_once(sections, options.workers):
        print(f"\n{part}", flush=True)
        parts.append(part)
        so_far = "" if len(parts) == len(sections) else f" {len(parts)} of {len(sections)} sections so far."
        text = "\n\n".join([taken(out) + so_far, *parts]) + "\n"
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.md").write_text(text, "utf-8")
        if options.write:
            page = ROOT / "docs" / "benchmarks.md"
            page.write_text(page.read_text("utf-8").split(MARK)[0] + f"{MARK}\n\n{text}", "utf-8")
    if any("**Failed**" in part for part in parts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
