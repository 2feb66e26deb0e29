"""What is learned stays learned: ``make bench-learning`` (hours; ``QUICK=1`` minutes). Resumable.

Habits are filed by hand and go the product's own road from there: rows, approval, training, gate. They are
examined on prompts that are in no corpus, no training row and no gate. Every result is a JSON file under
``--out``; what is there is not done again. ``--write`` puts each section into docs/benchmarks.md as soon as it is done,
and leaves what is written below its figures.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
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

SEEDS = (1, 2, 3)
QUICK = ["ko-name", "en-ending"]
QUICK_PAIRS = {"ko-ending": 3, "en-name": 2}
LIGHT = "[rumination]\nexamples = 32\nanchors = 96\n"  # fewer rows

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
    return [in_sequence(site, QUICK, (1,)), contradicting(pairs), gate(site, gating.QUICK)]


def full(site: Site) -> list[Section]:
    """Everything, what a reader wants first first."""
    pairs = [partial(conflict.conflicts, site, chain, 5) for chain in conflict.CHAINS]
    forgotten = [partial(forgetting.forgetting, site, pair, s) for s in SEEDS for pair in forgetting.PAIRS]
    ways = {way: [partial(methods.compared, site, way, n, 1) for n in ("ko-name", "en-ending")] for way in methods.WAYS}
    return [
        in_sequence(site, list(LESSONS), SEEDS),
        Section("Forgetting", {"forgotten": forgotten}, lambda f: forgetting.table(f["forgotten"])),
        contradicting(pairs),
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


def contradicting(pairs: Sequence[Callable[[], Any]]) -> Section:
    return Section("Conflict", {"pairs": pairs}, lambda f: conflict.table(f["pairs"]))


def gate(site: Site, bad: Sequence[str]) -> Section:
    """The good ones are all that the sections before learned."""
    plan = {"bad": [partial(gating.stopped, site, name) for name in bad]}
    learned = ("ours", "forgotten", "pairs")

    def text(found: Found) -> str:
        steps = [step for key in learned for run in found.get(key, ()) for step in run]
        return gating.table(found["bad"], [s for s in steps if "promoted" in s])

    return Section("The gate", plan, text)


def at_once(sections: Sequence[Section], workers: int, mark: str) -> Iterator[tuple[str, str]]:
    """The sections' titles and texts, several processes at work, each on its share of the cores.

    Two trainings on one core each are done sooner than one after the other on two. What fails leaves a line in
    its section and stops no other.
    """
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))  # inherited by every training
    found: Found = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        begun = [{name: [pool.submit(one) for one in ones] for name, ones in s.plan.items()} for s in sections]
        for section, futures in zip(sections, begun, strict=True):
            try:
                mine = {name: [f.result() for f in some] for name, some in futures.items()}
                found |= mine
                text = f"{section.text(found)}\n\n*{taken(mine, mark)}*"
            except Exception as error:
                traceback.print_exc()
                text = f"**Failed**: {type(error).__name__}: {error}\n\n*{date.today()}, code {mark}*"
            yield section.title, text


def code(settings: str) -> str:
    """Digest of everything a result depends on but the benchmark itself: results of other code are not gone on with."""
    rooms = (ROOT / d for d in ("agent", "tools", "graphs", "prompts", "app"))
    sources = [p for room in rooms for p in room.rglob("*") if p.suffix in (".py", ".md", ".toml")]
    digest = hashlib.sha256(f"{digest_of(SEEDLING)}\x1f{settings}".encode())
    for p in sorted(sources):
        digest.update(f"{p.relative_to(ROOT)}\x1f".encode() + p.read_bytes())
    return digest.hexdigest()[:12]


def taken(found: Any, mark: str) -> str:
    """When, on what code, and how long it took: what the reader needs to compare."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
    return f"{date.today()}, seedling, code {mark}; {seconds(found) / 3600:.1f} h of one core; {versions}"


def seconds(found: Any) -> float:
    """What these results took, together."""
    if isinstance(found, dict):
        return float(found["wall"]) if "wall" in found else sum(map(seconds, found.values()))
    return sum(map(seconds, found)) if isinstance(found, list) else 0.0


def put(page: str, title: str, text: str) -> str:
    """A page with this section in place of the one of that title, or at the end.

    What a person wrote about the figures stands below the line that says when they were taken, and stays.
    """
    head, *sections = page.rstrip().split("\n## ")
    new = f"{title}\n\n{text}"
    places = [i for i, s in enumerate(sections) if s.split("\n")[0] == title]
    for i in places:
        sections[i] = new + "".join(re.split(r"^\*\d{4}-.*\*$", sections[i], maxsplit=1, flags=re.M)[1:])
    return "\n## ".join(s.rstrip() + "\n" for s in (head, *sections, *([] if places else [new])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two habits, one seed; five contradicting pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    parser.add_argument("--only", nargs="+", metavar="TITLE", help="sections whose titles begin so")
    parser.add_argument("--write", action="store_true", help="put the sections into docs/benchmarks.md")
    parser.add_argument("--workers", type=int, default=2, help="processes at work at the same time")
    options = parser.parse_args()
    settings, plan = (LIGHT, quick) if options.quick else ("", full)
    mark = code(settings)
    sections = plan(Site(options.out / plan.__name__ / mark, settings))
    if options.only:
        sections = [s for s in sections if s.title.startswith(tuple(options.only))]
    failed = False
    for title, text in at_once(sections, options.workers, mark):
        print(f"\n## {title}\n\n{text}", flush=True)
        failed = failed or text.startswith("**Failed**")
        if options.write:
            page = ROOT / "docs" / "benchmarks.md"
            page.write_text(put(page.read_text("utf-8"), title, text), "utf-8")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
