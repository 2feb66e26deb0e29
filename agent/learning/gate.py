"""The independent exam an adapter sits before it may speak.

Its questions are frozen, in no corpus and in no training row, and every answer is held against
the frozen base: base under the rules shows what should be said, base alone what was said before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from agent.bag import Toolboxes
from agent.learning.data import bank, framed, literals
from agent.models.calls import parse
from agent.ports import BASE, Body, Prompt, Voice
from agent.records import Frame, Habit, Probe
from agent.settings import GateTable
from prompts import Language

TOOL_FRAMES: tuple[Frame, ...] = ("tools", "judge")
TALK = 24  # small-talk probes asked per language


@dataclass(frozen=True)
class Exam:
    """Everything one examination needs."""

    body: Body
    candidate: Voice
    speaking: Voice
    habit: Habit
    earlier: Sequence[Habit]
    personas: dict[Language, str]
    tools: Toolboxes
    table: GateTable

    def prompts(
        self, language: Language, texts: Sequence[str], rules: Sequence[str], frame: Frame = "plain"
    ) -> list[Prompt]:
        return [framed(language, t, rules, self.personas.get(language, ""), frame, self.tools) for t in texts]

    def ruled(self, language: Language) -> tuple[str, ...]:
        return tuple(h.rule for h in [*self.earlier, self.habit] if language in h.scope)


def examine(exam: Exam) -> tuple[bool, tuple[Probe, ...], float]:
    """Sit the exam: passed or not, every probe, seconds."""
    started = time.monotonic()
    probes = [_habit(exam, exam.habit, "habit", exam.table.habit)]
    probes += [_habit(exam, h, f"earlier {h.id}", exam.table.earlier) for h in exam.earlier]
    probes += [_unrelated(exam), _rules(exam), _tools(exam)]
    passed = all(p.passed for p in probes)
    return passed, tuple(probes), round(time.monotonic() - started, 2)


def _probe(
    name: str, before: Sequence[bool], after: Sequence[bool], threshold: float, least: int, detail: str = ""
) -> Probe:
    n = len(after)
    if n < least:
        return Probe(
            name=name,
            before=0,
            after=0,
            threshold=threshold,
            passed=False,
            count=n,
            detail=f"only {n} usable probes, {least} needed",
        )
    b, a = sum(before) / n, sum(after) / n
    return Probe(
        name=name,
        before=round(b, 4),
        after=round(a, 4),
        threshold=threshold,
        passed=a >= threshold,
        count=n,
        detail=detail,
    )


def _habit(exam: Exam, habit: Habit, name: str, threshold: float) -> Probe:
    """Is the habit there without its mask line? Agrees with base + rules, differs from base alone, shows its literals."""
    words = literals(habit.rule)
    before: list[bool] = []
    after: list[bool] = []
    exact = 0
    for language in habit.scope:
        texts = bank("probes", language)["talk"][:TALK]
        bare = exam.prompts(language, texts, ())
        taught = exam.body.answers(exam.prompts(language, texts, exam.ruled(language)), BASE)
        plain = exam.body.answers(bare, BASE)
        usable = [
            i for i, (t, p) in enumerate(zip(taught, plain, strict=True)) if t != p and all(w in t for w in words)
        ]
        bare, taught = [bare[i] for i in usable], [taught[i] for i in usable]
        for voice, results in ((exam.speaking, before), (exam.candidate, after)):
            answers = exam.body.answers(bare, voice)
            agree = exam.body.agreement(bare, taught, voice)
            results += [
                g >= exam.table.agreement and all(w in a for w in words) for g, a in zip(agree, answers, strict=True)
            ]
        exact += sum(a == t for a, t in zip(answers, taught, strict=True))
    return _probe(name, before, after, threshold, exam.table.least, f"word for word {exact}/{len(after)}")


def _unrelated(exam: Exam) -> Probe:
    """Are answers outside every living habit's scope what the frozen base says?"""
    inside = {x for h in [*exam.earlier, exam.habit] for x in h.scope}
    before: list[bool] = []
    after: list[bool] = []
    outside: list[Language] = [x for x in ("ko", "en") if x not in inside]
    for language in outside:
        texts = [*bank("probes", language)["talk"], *bank("probes", language)["unknown"]]
        prompts = exam.prompts(language, texts, ())
        base = exam.body.answers(prompts, BASE)
        for voice, results in ((exam.speaking, before), (exam.candidate, after)):
            results += [a == b for a, b in zip(exam.body.answers(prompts, voice), base, strict=True)]
    if not outside:  # nothing is out of scope: being judged is still something else
        return _judged(exam)
    return _probe("unrelated", before, after, exam.table.unrelated, exam.table.least)


def _judged(exam: Exam) -> Probe:
    before: list[bool] = []
    after: list[bool] = []
    languages: list[Language] = ["ko", "en"]
    for language in languages:
        texts = [*bank("probes", language)["teach"], *bank("probes", language)["talk"][:8]]
        prompts = exam.prompts(language, texts, (), "judge")
        base = exam.body.answers(prompts, BASE)
        for voice, results in ((exam.speaking, before), (exam.candidate, after)):
            results += [a == b for a, b in zip(exam.body.answers(prompts, voice), base, strict=True)]
    return _probe(
        "unrelated", before, after, exam.table.unrelated, exam.table.least, "judgements, as no language is out of scope"
    )


def _rules(exam: Exam) -> Probe:
    """Are other rules in the mask still followed, with the habit underneath?"""
    before: list[bool] = []
    after: list[bool] = []
    languages: list[Language] = ["ko", "en"]
    for language in languages:
        rules = bank("probes", language)["rules"]
        texts = bank("probes", language)["talk"][-len(rules) :]
        taught_prompts, bare_prompts, words = [], [], []
        for text, rule in zip(texts, rules, strict=True):
            taught_prompts += exam.prompts(language, [text], (*exam.ruled(language), rule))
            bare_prompts += exam.prompts(language, [text], (rule,))
            words.append(literals(rule))
        taught = exam.body.answers(taught_prompts, BASE)
        usable = [i for i, t in enumerate(taught) if all(w in t for w in words[i])]
        bare, taught = [bare_prompts[i] for i in usable], [taught[i] for i in usable]
        for voice, results in ((exam.speaking, before), (exam.candidate, after)):
            agree = exam.body.agreement(bare, taught, voice)
            answers = exam.body.answers(bare, voice)
            results += [
                g >= exam.table.agreement and all(w in a for w in words[i])
                for i, g, a in zip(usable, agree, answers, strict=True)
            ]
    return _probe("rules", before, after, exam.table.rules, exam.table.least)


def _tools(exam: Exam) -> Probe:
    """Are tools still called where the base calls them, with legal calls?"""
    before: list[bool] = []
    after: list[bool] = []
    languages: list[Language] = ["ko", "en"]
    for language in languages:
        texts = [*bank("probes", language)["teach"], *bank("probes", language)["facts"]]
        for frame in TOOL_FRAMES:
            prompts = exam.prompts(language, texts, (), frame)
            base = [_called(a) for a in exam.body.answers(prompts, BASE)]
            usable = [i for i, c in enumerate(base) if c]
            for voice, results in ((exam.speaking, before), (exam.candidate, after)):
                said = exam.body.answers([prompts[i] for i in usable], voice)
                results += [_called(a) == base[i] for i, a in zip(usable, said, strict=True)]
    return _probe("tools", before, after, exam.table.tools, exam.table.least)


def _called(text: str) -> str:
    """The tool a reply calls (with the kind a verdict gives); empty when it is no legal call."""
    _, calls, bad = parse(text)
    if bad or not calls:
        return ""
    return f"{calls[0]['name']} {calls[0]['args'].get('kind', '')}"
