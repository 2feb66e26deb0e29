"""One habit after another (the protocol of SEAL, Zweiger et al. 2025, arXiv 2506.10943).

After each, all so far are examined. Beside it what others do: plain SFT of each habit's own rows,
merged into the weights before the next.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from agent.bag import Bag
from agent.learning.data import LONGEST, framed, literals, personas, rows
from agent.learning.proposing import config_of
from agent.models.base import SEEDLING
from agent.models.embedded import EmbeddedBody
from agent.ports import BASE
from agent.records import Example, Habit
from agent.settings import ModelTable
from app.habitus import Habitus
from app.wiring import open_habitus
from bench.learning.lessons import (
    LESSONS,
    Json,
    Site,
    asked,
    content,
    facts,
    fitted,
    judged,
    kept,
    learn,
    lived,
    melted,
    practice,
    replies,
    share,
    spread,
)
from prompts import LANGUAGES, Language


def ours(site: Site, names: list[str], seed: int) -> list[Json]:
    """All lessons one after another, as the product learns."""
    order = Random(seed).sample(names, len(names))

    def stage(being: Habitus, i: int) -> Json:
        so_far = order[: i + 1]
        learned = learn(being, LESSONS[order[i]], order[i])
        rules = {h.rule for h in being.habits()}
        inside = [n for n in so_far if LESSONS[n].rule in rules]  # not what the gate refused
        said = {x: replies(being, x) for x in LANGUAGES}
        teacher = {x: being.bag.body.answers(asked(so_far, x), BASE) for x in LANGUAGES}
        return learned | {
            "followed": {n: share(LESSONS[n], said[LESSONS[n].language]) for n in so_far},
            "taught": {n: share(LESSONS[n], teacher[LESSONS[n].language]) for n in so_far},
            "judged": judged(being),
            "inside": internalised(being.bag, inside, LESSONS[order[i]].language, said)
            if learned["promoted"]
            else None,
        }

    stages = [(name, lambda being, i=i: stage(being, i)) for i, name in enumerate(order)]
    home = f"sequence-{seed}"
    found = lived(site, home, seed, stages)

    def end() -> Json:
        return in_loop(open_habitus(str(site.out / home / f"after-{len(order)}")), order)

    found[-1]["in_loop"] = kept(site.out / home / "in-loop.json", end)
    return found


Said = Mapping[Language, Sequence[str]]


def internalised(bag: Bag, names: Sequence[str], language: Language, said: Said) -> Json:
    """What the weights say without the mask beside what the base says with it, in ``language``; and what leaked.

    Leaked: answers in a language outside a habit's scope that hold the words its rule quotes. Content: answers that
    say what the base says without any rule, but for the words of the habits; the same of the base under the rules.
    Not asked where a habit is meant to say it otherwise.
    """
    body: EmbeddedBody = bag.body  # type: ignore[assignment]
    bare, masked = asked([], language), asked(names, language)
    plain, teacher = body.answers(bare, BASE), body.answers(masked, BASE)
    voice = bag.selves.voice(bag.selves.current(), language)
    saved = [len(body.ids_of(m)) - len(body.ids_of(b)) for m, b in zip(masked, bare, strict=True)]
    mine = [LESSONS[n].rule for n in names if LESSONS[n].language == language]
    words = [w for rule in mine for w in literals(rule)]

    def kept_content(answers: Sequence[str]) -> float | None:
        if not all(map(literals, mine)):
            return None
        return statistics.mean(content(a, words) == content(p, ()) for a, p in zip(answers, plain, strict=True))

    return {
        "agreement": statistics.mean(body.agreement(bare, teacher, voice)),
        "exact": statistics.mean(a == b for a, b in zip(teacher, said[language], strict=True)),
        "content": kept_content(said[language]),
        "content_taught": kept_content(teacher),
        "saved": statistics.median(saved),
        "leaked": leaked(names, said),
    }


def in_loop(being: Habitus, names: Sequence[str]) -> Json:
    """What shows and what leaks when a tool has answered; base told all rules is held to the same.

    Shown: how often an answer holds the words its habits quote, the mean over them; None where none quotes any.
    """
    bag, rules = being.bag, {h.rule for h in being.habits()}
    inside = [n for n in names if LESSONS[n].rule in rules]
    said, taught = {}, {}
    for x in LANGUAGES:
        told = [LESSONS[n].rule for n in inside if LESSONS[n].language == x]
        bare, masked = ([framed(x, t, r, "", "loop", bag.toolboxes) for t in facts(x)] for r in ([], told))
        said[x] = bag.body.answers(bare, bag.selves.voice(bag.selves.current(), x), LONGEST)
        taught[x] = bag.body.answers(masked, BASE, LONGEST)

    def shown(answers: Said) -> float | None:
        quoting = [(LESSONS[n].language, words) for n in inside if (words := literals(LESSONS[n].rule))]
        shares = [statistics.mean(all(w in a for w in words) for a in answers[x]) for x, words in quoting]
        return statistics.mean(shares) if shares else None

    return {"shown": shown(said), "taught": shown(taught), "leaked": leaked(inside, said)}


def leaked(names: Sequence[str], said: Said) -> float:
    """Share of the answers that hold the words of a habit outside its language."""
    foreign = {x: [w for n in names if LESSONS[n].language != x for w in literals(LESSONS[n].rule)] for x in LANGUAGES}
    return statistics.mean(any(w in a for w in foreign[x]) for x in LANGUAGES for a in said[x])


# -- the baseline: SFT of one habit after the other, merged ------------------------------------------


def merged(site: Site, names: list[str], seed: int) -> list[Json]:
    """What others do: each habit's own rows alone, plain cross-entropy, merged into the weights before the next."""
    order = Random(seed).sample(names, len(names))
    found: list[Json] = []
    weights = SEEDLING
    for i, name in enumerate(order):
        stage = site.out / f"merged-{seed}" / f"{i + 1}-{name}.json"
        target = site.out / f"merged-{seed}" / "weights" / f"{i + 1}"

        def one(i: int = i, name: str = name, weights: Path = weights, target: Path = target) -> Json:
            return merge_one(site, weights, target, name, order[: i + 1], seed)

        found.append(kept(stage, one))
        weights = target
    return found


def merge_one(site: Site, weights: Path, target: Path, name: str, names: list[str], seed: int) -> Json:
    """Train on one habit's rows from ``weights``, merge into ``target``, examine every habit so far."""
    lesson = LESSONS[name]
    with tempfile.TemporaryDirectory() as folder:
        bag = site.born(Path(folder), seed).bag
        habit = Habit(id="h1", rule=lesson.rule, scope=(lesson.language,))
        config = config_of(bag, "sft")
        own = [(t, "") for t in practice(lesson.language, name, seed)]
        who = personas(bag.selves.current().mask)
        examples: tuple[Example, ...] = rows(habit, [], own, [], bag.body, who, bag.toolboxes, len(own), 0, seed, {})
        adapter = fitted(bag, examples, config, weights, Path(folder))
        melted(weights, adapter, target)
    body = EmbeddedBody(ModelTable(name=str(target)))
    return {
        "habit": name,
        "followed": {n: share(LESSONS[n], bare(body, LESSONS[n].language)) for n in names},
    }


def bare(body: EmbeddedBody, language: Language) -> list[str]:
    return body.answers(asked([], language), BASE)


def summed(runs: list[list[Json]]) -> Json:
    """Just learned, final average and backward transfer of several runs, in percent."""
    just = [100 * statistics.mean(s["followed"][s["habit"]] for s in run) for run in runs]
    final = [100 * statistics.mean(run[-1]["followed"].values()) for run in runs]
    back = [
        100 * statistics.mean(run[-1]["followed"][s["habit"]] - s["followed"][s["habit"]] for s in run[:-1])
        for run in runs
    ]
    return {"just": just, "final": final, "back": back}


def table(ours: list[list[Json]], theirs: list[list[Json]]) -> str:
    a, b = summed(ours), summed(theirs)
    taught_share = [100 * statistics.mean(run[-1]["taught"].values()) for run in ours]
    unrelated = [100 * s["judged"] for run in ours for s in run]
    rejected = sum(not s["promoted"] for run in ours for s in run)
    inner = [s["inside"] for run in ours for s in run if s["inside"]]
    last = [saved[-1] for run in ours if (saved := [s["inside"]["saved"] for s in run if s["inside"]])]

    def inside(what: str) -> str:
        return spread([100 * i[what] for i in inner if i[what] is not None])

    def after_tool(what: str) -> str:
        ends = [run[-1]["in_loop"][what] for run in ours]
        return spread([100 * share for share in ends if share is not None])

    lines = [
        "| | Habitus | SFT, merged | goal |", "|---|---|---|---|",
        f"| rule followed just after learning | {spread(a['just'])} | {spread(b['just'])} | ≥ 95 % |",
        f"| final average over all | {spread(a['final'])} | {spread(b['final'])} | within 1 point |",
        f"| backward transfer, points | {spread(a['back'], '')} | {spread(b['back'], '')} | ≥ −1 |",
        f"| the teacher itself (base with all rules in its mask) | {spread(taught_share)} | | |",
        f"| judgements as the base gives them | {spread(unrelated)} | | ≥ 98 % |",
        f"| without the mask, tokens as base with it | {inside('agreement')} | | ≥ 95 % |",
        f"| without the mask, whole answers as base with it | {inside('exact')} | | |",
        f"| without the mask, content as base without any rule | {inside('content')} | | |",
        f"| the same of base with the mask | {inside('content_taught')} | | |",
        f"| a habit's words outside its scope | {inside('leaked')} | | ≤ 2 % |",
        f"| after a tool, in the end: answers that show a habit's words | {after_tool('shown')} | | |",
        f"| the same of base with the mask | {after_tool('taught')} | | |",
        f"| a habit's words outside its scope, after a tool | {after_tool('leaked')} | | ≤ 2 % |",
        f"| prompt tokens saved each turn, in the end | {spread(last, '')} | | |",
        f"| rejected by the gate | {rejected} of {sum(map(len, ours))} | | |",
    ]  # fmt: skip
    return "\n".join(lines)
