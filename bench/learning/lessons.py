"""What is learned in the benchmarks, how it is examined, and how a benchmark that was cut off goes on."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from agent.bag import Bag
from agent.learning.data import bank, digest, framed
from agent.learning.running import write_job
from agent.models.base import digest_of
from agent.ports import BASE, Prompt
from agent.records import Example
from app.habitus import Habitus
from app.wiring import open_habitus
from prompts import LANGUAGES, Language
from tests.being import file_habit, small_talk

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
ASKED = 24  # prompts in no corpus, no training row and no gate


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
    "ko-casual": Lesson(
        "ko",
        "반말로 대답해 줘.",
        lambda a: bool(re.search(r"[.!?]", a)) and not re.search(r"(요|니다|죠)( 꾸벅)?[.!]", a),
    ),
    "en-short": Lesson("en", "Answer in one sentence only.", lambda a: len(re.findall(r"[.!?](?:\s|$)", a)) == 1),
}


def kept(path: Path, make: Callable[[], Json]) -> Json:
    """``make()``, once: its result is a file."""
    if not path.exists():
        started = time.monotonic()
        found = make() | {"wall": round(time.monotonic() - started, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
        print(f"{path.parent.name} {path.stem}: {found['wall']} s", flush=True)
    result: Json = json.loads(path.read_text("utf-8"))
    return result


@dataclass(frozen=True)
class Site:
    """Where results are kept, and the settings that every being there is born with."""

    out: Path
    settings: str = ""

    def born(self, home: Path, seed: int) -> Habitus:
        """A being in an empty folder."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "habitus.toml").write_text(f"[training]\nseed = {seed}\n{self.settings}", "utf-8")
        return open_habitus(str(home))


def lived(site: Site, name: str, seed: int, stages: Sequence[tuple[str, Callable[[Habitus], Json]]]) -> list[Json]:
    """A being that lives through ``stages``; each result is kept, and so is the being after it.

    A stage that was cut off begins again from the being as it was.
    """
    home = site.out / name
    found = []
    for i, (stage_name, stage) in enumerate(stages, 1):

        def live(i: int = i, stage: Callable[[Habitus], Json] = stage) -> Json:
            bag = home / f"bag-{i}"  # Chroma holds on to a path as long as its process lives
            shutil.rmtree(bag, ignore_errors=True)
            if i == 1:
                site.born(bag, seed)
            else:
                shutil.copytree(home / f"after-{i - 1}", bag)
            result = stage(open_habitus(str(bag)))
            shutil.rmtree(home / f"after-{i}", ignore_errors=True)
            bag.rename(home / f"after-{i}")
            return result

        found.append(kept(home / f"{i}-{stage_name}.json", live))
    return found


def learn(being: Habitus, lesson: Lesson, name: str) -> Json:
    """One habit through proposal, approval, training and gate."""
    ref = file_habit(being, lesson.rule, practice(lesson.language, name, being.bag.settings.training.seed))
    shown = being.proposal(ref)
    being.approve(ref, shown["digest"])
    (learned,) = being.learn()
    return {
        "habit": name,
        "id": shown["habit"],
        "kind": shown["kind"],
        "conflicts": [c["rule"] for c in shown["conflicts"]],
        "promoted": learned["promoted"],
        "gate": {p["name"]: p["after"] for p in learned["gate"]["probes"]},
        "broke": [p["name"] for p in learned["gate"]["probes"] if not p["passed"]],
        "seconds": learned["seconds"],
    }


def fitted(bag: Bag, examples: Sequence[Example], config: Json, weights: Path, work: Path) -> Path:
    """Weights trained over ``weights`` on these rows of one language, outside the product's road."""
    (language,) = {e.language for e in examples}
    file = write_job(bag, examples, config, digest(examples, config, digest_of(weights)), weights, work, language)
    done = subprocess.run(
        [sys.executable, "-m", "agent.learning.train", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the training ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return work / "adapter"


def melted(weights: Path, adapter: Path, target: Path) -> Path:
    """``adapter`` merged into ``weights``, as a base of its own under ``target``."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(
        weights, dtype=torch.float32
    )  # a merge in bf16 loses a part of the change
    whole: Any = PeftModel.from_pretrained(plain, str(adapter))
    whole.merge_and_unload().save_pretrained(target)
    AutoTokenizer.from_pretrained(weights).save_pretrained(target)
    return target


def practice(language: Language, name: str, seed: int) -> list[str]:
    """Forty-eight prompts to practise with, from the anchors' talk."""
    return Random(f"{seed}/{name}").sample(bank("anchors", language)["talk"], 48)


def facts(language: Language) -> list[str]:
    """What a person tells, for prompts in which a tool has answered."""
    told: dict[str, list[str]] = tomllib.loads((Path(__file__).parent / "facts.toml").read_text("utf-8"))
    return told[language]


def asked(names: Sequence[str], language: Language) -> list[Prompt]:
    """The examined prompts, with the rules of these habits in the mask: put to the base, the teacher itself."""
    rules = [LESSONS[n].rule for n in names if LESSONS[n].language == language]
    return [framed(language, t, rules, "", "plain", {}) for t in small_talk(language, ASKED)]


def replies(being: Habitus, language: Language, masked: bool = False) -> list[str]:
    return [r["reply"] for r in being.ask(small_talk(language, ASKED), with_rules=masked)]


def share(lesson: Lesson, said: Sequence[str]) -> float:
    return sum(map(lesson.follows, said)) / len(said)


def judged(being: Habitus) -> float:
    """Share of judgements of unseen turns that are what the frozen base gives, word for word."""
    bag, same, count = being.bag, 0, 0
    for language in LANGUAGES:
        prompts = [framed(language, t, (), "", "judge", bag.toolboxes) for t in small_talk(language, ASKED)]
        voice = bag.selves.voice(bag.selves.current(), language)
        pairs = zip(bag.body.answers(prompts, BASE), bag.body.answers(prompts, voice), strict=True)
        found = [a == b for a, b in pairs]
        same, count = same + sum(found), count + len(found)
    return same / count


def content(reply: str, words: Sequence[str]) -> str:
    """What a reply says, without the words of the habits and how it is set."""
    for word in words:
        reply = reply.replace(word, "")
    return re.sub(r"\W+", "", reply)


def spread(values: Sequence[float], unit: str = " %") -> str:
    """Median (lowest–highest)."""
    if not values:
        return "–"
    middle, low, high = (round(x, 1) + 0.0 for x in (statistics.median(values), min(values), max(values)))  # no -0.0
    return f"{middle}{unit} ({low}–{high})"
