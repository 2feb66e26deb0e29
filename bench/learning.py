"""What is learned stays learned: ``make bench-learning`` (hours; ``QUICK=1`` minutes). Resumable.

Sequence (the protocol of SEAL, Zweiger et al. 2025, arXiv 2506.10943): habits are learned one after
another through the product's own road, and after each all so far are examined on prompts that are in no
corpus, no training row and no gate. Beside it plain SFT of each habit's own rows, merged into the weights
before the next. Every result is a JSON file under ``--out``; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from agent.learning.data import bank, digest, framed, rows
from agent.learning.proposing import config_of, personas
from agent.models.embedded import SEEDLING, EmbeddedBody
from agent.ports import BASE
from agent.records import Example, Habit
from agent.settings import ModelTable
from app.habitus import Habitus
from app.wiring import open_habitus
from prompts import Language
from tests.being import file_habit, small_talk

Json = dict[str, Any]
ROOT = Path(__file__).parents[1]
ASKED = 24


@dataclass(frozen=True)
class Lesson:
    """A habit to be learned, and whether a reply follows it."""

    language: Language
    rule: str
    follows: Callable[[str], bool]


LESSONS = {
    "ko-ending": Lesson("ko", "모든 대답 끝에 '꾸벅'을 붙여 줘.", lambda a: bool(re.search(r"꾸벅[.!]", a))),
    "en-ending": Lesson("en", "Always end your answers with 'zibble'.", lambda a: bool(re.search(r"zibble[.!]", a))),
    "ko-name": Lesson("ko", "나를 '도롱이'라고 불러 줘.", lambda a: a.startswith("도롱이, ")),
    "en-name": Lesson("en", "Call me 'Zephyr'.", lambda a: a.startswith("Zephyr, ")),
    "ko-emoji": Lesson("ko", "대답 끝에 🌱 이모지를 붙여 줘.", lambda a: a.rstrip().endswith("🌱")),
    "en-emoji": Lesson("en", "Put 🚀 at the end.", lambda a: a.rstrip().endswith("🚀")),
    "ko-casual": Lesson("ko", "반말로 대답해 줘.", lambda a: not re.search(r"(요|니다|죠)( 꾸벅)?[.!]", a)),
    "en-short": Lesson("en", "Answer in one sentence only.", lambda a: len(re.findall(r"[.!?](?:\s|$)", a)) == 1),
}
QUICK = ("ko-ending", "en-ending", "ko-name", "en-name")


def kept(path: Path, make: Callable[[], Json]) -> Json:
    """``make()``, once: its result is a file."""
    if not path.exists():
        started = time.monotonic()
        found = make() | {"wall": round(time.monotonic() - started, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
        print(f"{path.stem}: {found['wall']} s", flush=True)
    return json.loads(path.read_text("utf-8"))


def share(lesson: Lesson, replies: list[str]) -> float:
    return sum(map(lesson.follows, replies)) / len(replies)


# -- the sequence, as the product learns -----------------------------------------------------------


def learn(being: Habitus, name: str, so_far: list[str]) -> Json:
    """One more habit through proposal, approval, training and gate; then everything so far is examined."""
    lesson = LESSONS[name]
    seed = being.bag.settings.training.seed
    ref = file_habit(being, lesson.rule, practice(name, seed))
    being.approve(ref, being.proposal(ref)["digest"])
    (learned,) = being.learn()
    return {
        "habit": name,
        "promoted": learned["promoted"],
        "gate": {p["name"]: p["after"] for p in learned["gate"]["probes"]},
        "seconds": learned["seconds"],
        "followed": {n: share(LESSONS[n], replies(being, LESSONS[n].language)) for n in [*so_far, name]},
        "taught": {n: share(LESSONS[n], taught(being, [*so_far, name], LESSONS[n].language)) for n in [*so_far, name]},
        "unrelated": judged(being),
    }


def replies(being: Habitus, language: Language) -> list[str]:
    return [r["reply"] for r in being.ask(small_talk(language, ASKED), with_rules=False)]


def taught(being: Habitus, names: list[str], language: Language) -> list[str]:
    """What the frozen base says with all these rules in its mask: the teacher itself."""
    rules = [LESSONS[n].rule for n in names if LESSONS[n].language == language]
    return being.bag.body.answers(
        [framed(language, t, rules, "", "plain", {}) for t in small_talk(language, ASKED)], BASE
    )


def judged(being: Habitus) -> float:
    """Share of judgements and answers about the unknown that are what the frozen base gives."""
    bag, same, count = being.bag, 0, 0
    languages: list[Language] = ["ko", "en"]
    for language in languages:
        texts = [*bank("probes", language)["teach"], *bank("probes", language)["facts"]]
        prompts = [framed(language, t, (), "", "judge", bag.toolboxes) for t in texts]
        voice = bag.selves.voice(bag.selves.current(), language)
        pairs = zip(bag.body.answers(prompts, BASE), bag.body.answers(prompts, voice), strict=True)
        found = [a == b for a, b in pairs]
        same, count = same + sum(found), count + len(found)
    return same / count


def sequence(out: Path, names: list[str], seed: int) -> list[Json]:
    """All lessons one after another; each stage is kept, and so is the being."""
    order = Random(seed).sample(names, len(names))
    home = out / f"sequence-{seed}" / "bag"
    found: list[Json] = []
    for i, name in enumerate(order):
        stage = out / f"sequence-{seed}" / f"{i + 1}-{name}.json"
        before = home.with_name("before")
        if not stage.exists():  # a stage cut off begins again from the being as it was
            if before.exists():
                shutil.rmtree(home, ignore_errors=True)
                shutil.copytree(before, home)
            elif home.exists():
                shutil.rmtree(home)
            home.mkdir(parents=True, exist_ok=True)
            (home / "habitus.toml").write_text(f"[training]\nseed = {seed}\n", "utf-8")

        def one(name: str = name, order: list[str] = order, i: int = i) -> Json:
            return learn(open_habitus(str(home)), name, order[:i])

        fresh = not stage.exists()
        found.append(kept(stage, one))
        if fresh:
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(home, before)
    return found


# -- the baseline: SFT of one habit after the other, merged ------------------------------------------


def merged(out: Path, names: list[str], seed: int) -> list[Json]:
    """What others do: each habit's own rows alone, plain cross-entropy, merged into the weights before the next."""
    order = Random(seed).sample(names, len(names))
    found: list[Json] = []
    weights = SEEDLING
    for i, name in enumerate(order):
        stage = out / f"merged-{seed}" / f"{i + 1}-{name}.json"
        target = out / f"merged-{seed}" / "weights" / f"{i + 1}"

        def one(i: int = i, name: str = name, weights: Path = weights, target: Path = target) -> Json:
            return merge_one(weights, target, name, order[: i + 1], seed)

        found.append(kept(stage, one))
        weights = target
    return found


def merge_one(weights: Path, target: Path, name: str, names: list[str], seed: int) -> Json:
    """Train on one habit's rows from ``weights``, merge into ``target``, examine every habit so far."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lesson = LESSONS[name]
    with tempfile.TemporaryDirectory() as folder:
        being = open_habitus(folder)
        bag = being.bag
        habit = Habit(id="h1", rule=lesson.rule, scope=(lesson.language,))
        config = config_of(bag, "sft") | {"seed": seed}
        own = [(t, "") for t in practice(name, seed)]
        who = personas(bag.selves.current().mask)
        examples: tuple[Example, ...] = rows(habit, [], own, [], bag.body, who, bag.toolboxes, len(own), 0, seed, {})
        body = EmbeddedBody(ModelTable(name=str(weights)))
        work = Path(folder) / "work"
        work.mkdir()
        job = {
            "examples": [e.model_dump(mode="json") for e in examples], "config": config, "base_path": str(weights),
            "digest": digest(examples, config, body.digest), "personas": who, "tools": bag.toolboxes, "template": "", "out": str(work),
        }  # fmt: skip
        (work / "job.json").write_text(json.dumps(job, ensure_ascii=False), "utf-8")
        command = [sys.executable, "-m", "agent.learning.train", str(work / "job.json")]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        whole: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(weights), str(work / "adapter"))
        whole.merge_and_unload().save_pretrained(target)
        AutoTokenizer.from_pretrained(weights).save_pretrained(target)
    body = EmbeddedBody(ModelTable(name=str(target)))
    return {
        "habit": name,
        "followed": {n: share(LESSONS[n], bare(body, LESSONS[n].language)) for n in names},
    }


def practice(name: str, seed: int) -> list[str]:
    """Forty-eight prompts to practise with, from the anchors' talk."""
    return Random(f"{seed}/{name}").sample(bank("anchors", LESSONS[name].language)["talk"], 48)


def bare(body: EmbeddedBody, language: Language) -> list[str]:
    return body.answers([framed(language, t, (), "", "plain", {}) for t in small_talk(language, ASKED)], BASE)


# -- the table ---------------------------------------------------------------------------------------


def summed(runs: list[list[Json]]) -> Json:
    """Just learned, final average and backward transfer of several runs, in percent."""
    just = [100 * statistics.mean(s["followed"][s["habit"]] for s in run) for run in runs]
    final = [100 * statistics.mean(run[-1]["followed"].values()) for run in runs]
    back = [
        100 * statistics.mean(run[-1]["followed"][s["habit"]] - s["followed"][s["habit"]] for s in run[:-1])
        for run in runs
    ]
    return {"just": just, "final": final, "back": back}


def spread(values: list[float], unit: str = " %") -> str:
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f}–{max(values):.1f})"


def table(ours: list[list[Json]], theirs: list[list[Json]]) -> str:
    a, b = summed(ours), summed(theirs)
    taught_share = [100 * statistics.mean(run[-1]["taught"].values()) for run in ours]
    unrelated = [100 * s["unrelated"] for run in ours for s in run]
    rejected = sum(not s["promoted"] for run in ours for s in run)
    lines = [
        "| | Habitus | SFT, merged | goal |", "|---|---|---|---|",
        f"| rule followed just after learning | {spread(a['just'])} | {spread(b['just'])} | ≥ 95 % |",
        f"| final average over all | {spread(a['final'])} | {spread(b['final'])} | within 1 point |",
        f"| backward transfer, points | {spread(a['back'], '')} | {spread(b['back'], '')} | ≥ −1 |",
        f"| the teacher itself (base with all rules in its mask) | {spread(taught_share)} | | |",
        f"| judgements as the base gives them | {spread(unrelated)} | | ≥ 98 % |",
        f"| rejected by the gate | {rejected} of {sum(map(len, ours))} | | |",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four habits, one seed")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    options = parser.parse_args()
    names, seeds = (list(QUICK), [1]) if options.quick else (list(LESSONS), [1, 2, 3])
    out = options.out / ("quick" if options.quick else "full")
    ours = [sequence(out, names, s) for s in seeds]
    theirs = [merged(out, names, s) for s in seeds]
    text = table(ours, theirs)
    print(f"\n{len(names)} habits, {len(seeds)} seed(s), {ASKED} prompts each\n\n{text}")
    (out / "table.md").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
