"""The independent exam an adapter sits before it may speak.

Its questions are frozen, in no corpus and in no training row, and every answer is held against
the frozen base: base under the rules shows what should be said, base alone what was said before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.bag import Toolboxes
from agent.learning.data import LONGEST, bank, framed, literals
from agent.models.calls import parse
from agent.phrase import Phrase
from agent.ports import BASE, Body, Prompt, Voice
from agent.records import Frame, Habit, Probe, Purpose
from agent.settings import GateTable
from prompts import Language

TOOL_FRAMES: tuple[Frame, ...] = ("tools", "judge")
TALK = 24  # small-talk probes asked per language


@dataclass(frozen=True)
class Exam:
    """Everything one examination needs."""

    body: Body
    candidate: Mapping[Language, Voice]  # what each would wear in a language
    speaking: Mapping[Language, Voice]
    habit: Habit
    purpose: Purpose
    earlier: Sequence[Habit]
    personas: dict[Language, str]
    tools: Toolboxes
    table: GateTable

    def prompts(
        self, language: Language, texts: Sequence[str], rules: Sequence[str], frame: Frame = "plain"
    ) -> list[Prompt]:
        return [framed(language, t, rules, self.personas.get(language, ""), frame, self.tools) for t in texts]

    def ruled(self, language: Language) -> tuple[str, ...]:
        """The rules of every habit the candidate is to carry."""
        carried = self.earlier if self.purpose == "release" else [*self.earlier, self.habit]
        return tuple(h.rule for h in carried if language in h.scope)


def examine(exam: Exam) -> tuple[tuple[Probe, ...], tuple[tuple[str, str, str], ...], float]:
    """Sit the exam: every probe, some answers before and after, seconds."""
    started = time.monotonic()
    match exam.purpose:
        case "release":
            probes = [_released(exam)]
        case "decay":
            probes = [_habit(exam, exam.habit, Phrase("habit"), 0.0)]
        case _:
            probes = [_habit(exam, exam.habit, Phrase("habit"), exam.table.habit)]
    probes += [_habit(exam, h, Phrase("earlier {habit}", habit=h.id), exam.table.earlier) for h in exam.earlier]
    probes += [_unrelated(exam), _rules(exam), _tools(exam)]
    return tuple(probes), tuple(_samples(exam)), round(time.monotonic() - started, 2)


def _samples(exam: Exam) -> list[tuple[str, str, str]]:
    """The same questions put to both: six where the habit applies, two elsewhere."""
    found: list[tuple[str, str, str]] = []
    languages: list[Language] = ["ko", "en"]
    for language in languages:
        texts = bank("probes", language)["talk"][: 6 if language in exam.habit.scope else 2]
        prompts = exam.prompts(language, texts, ())
        before, after = (exam.body.answers(prompts, v[language]) for v in (exam.speaking, exam.candidate))
        found += zip(texts, before, after, strict=True)
    return found


def _probe(
    name: str,
    before: Sequence[bool],
    after: Sequence[bool],
    threshold: float,
    least: int,
    drop: float,
    detail: str = "",
) -> Probe:
    """Passed: enough questions, at or above the threshold, and not far below the self that speaks now."""
    n = len(after)
    if n < least:
        detail = Phrase("only {n} usable probes, {least} needed", n=n, least=least)
        return Probe(name=name, before=0, after=0, threshold=threshold, passed=False, count=n, detail=detail)
    b, a = round(sum(before) / n, 4), round(sum(after) / n, 4)
    return Probe(
        name=name, before=b, after=a, threshold=threshold, passed=a >= max(threshold, b - drop), count=n, detail=detail
    )


def _questions(exam: Exam, habit: Habit, language: Language) -> tuple[list[Prompt], list[str], list[str], list[str]]:
    """Usable questions about a habit in a language: bare prompts, what base says under all rules, what it says
    under all but this one, and the strings that show the habit.

    Usable: base comes to an end, the rule changes what is said, and the bare base would not say it anyway.
    """
    texts = bank("probes", language)["talk"][:TALK]
    everyone = exam.ruled(language)
    rules = everyone if habit.rule in everyone else (*everyone, habit.rule)
    bare = exam.prompts(language, texts, ())
    taught = exam.body.answers(exam.prompts(language, texts, rules), BASE, LONGEST)
    without = exam.body.answers(exam.prompts(language, texts, [r for r in rules if r != habit.rule]), BASE)
    plain = exam.body.answers(bare, BASE)
    free = exam.body.agreement(bare, taught, BASE)
    # a rule may quote what is to be said, or what is never to be said: the teacher's answers tell
    words = [w for w in literals(habit.rule) if sum(w in t for t in taught) > len(taught) / 2]
    usable = [
        i
        for i, t in enumerate(taught)
        if t != without[i]
        and exam.body.count(t) < LONGEST
        and all(w in t for w in words)
        and (free[i] < exam.table.agreement or not all(w in plain[i] for w in words))
    ]
    return [bare[i] for i in usable], [taught[i] for i in usable], [without[i] for i in usable], words


def _habit(exam: Exam, habit: Habit, name: str, threshold: float) -> Probe:
    """Is the habit there without its mask line? Agrees with base + rules, and shows the habit's strings."""
    before: list[bool] = []
    after: list[bool] = []
    exact, fewest = 0, exam.table.least
    for language in habit.scope:
        bare, taught, _, words = _questions(exam, habit, language)
        fewest = min(fewest, len(bare))
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            answers = exam.body.answers(bare, voice)
            agree = exam.body.agreement(bare, taught, voice)
            # without a string to look for, agreement must be with the habit and not with its absence
            good = [
                g >= exam.table.agreement if words else a == t for g, a, t in zip(agree, answers, taught, strict=True)
            ]
            results += [ok and all(w in a for w in words) for ok, a in zip(good, answers, strict=True)]
        exact += sum(a == t for a, t in zip(answers, taught, strict=True))
    least = exam.table.least if fewest >= exam.table.least else len(after) + 1
    detail = Phrase("word for word {exact}/{count}", exact=exact, count=len(after))
    return _probe(name, before, after, threshold, least, exam.table.drop, detail)


def _released(exam: Exam) -> Probe:
    """Is the habit gone? Its strings are not said, or what is said is not what the rule would have made it."""
    before: list[bool] = []
    after: list[bool] = []
    for language in exam.habit.scope:
        bare, taught, _, words = _questions(exam, exam.habit, language)
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            answers = exam.body.answers(bare, voice)
            results += [
                not any(w in a for w in words) if words else a != t for a, t in zip(answers, taught, strict=True)
            ]
    return _probe(Phrase("released"), before, after, exam.table.habit, exam.table.least, exam.table.drop)


def _unrelated(exam: Exam) -> Probe:
    """Are answers outside every living habit's scope what the frozen base says?"""
    inside = {x for h in [*exam.earlier, exam.habit] for x in h.scope}  # the released one too: its answers do change
    before: list[bool] = []
    after: list[bool] = []
    outside: list[Language] = [x for x in ("ko", "en") if x not in inside]
    for language in outside:
        texts = [*bank("probes", language)["talk"], *bank("probes", language)["unknown"]]
        prompts = exam.prompts(language, texts, ())
        base = exam.body.answers(prompts, BASE)
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            results += [a == b for a, b in zip(exam.body.answers(prompts, voice), base, strict=True)]
    if not outside:  # nothing is out of scope: being judged is still something else
        return _judged(exam)
    return _probe(Phrase("unrelated"), before, after, exam.table.unrelated, exam.table.least, exam.table.drop)


def _judged(exam: Exam) -> Probe:
    before: list[bool] = []
    after: list[bool] = []
    languages: list[Language] = ["ko", "en"]
    for language in languages:
        texts = [*bank("probes", language)["teach"], *bank("probes", language)["talk"][:8]]
        prompts = exam.prompts(language, texts, (), "judge")
        base = exam.body.answers(prompts, BASE)
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            results += [a == b for a, b in zip(exam.body.answers(prompts, voice), base, strict=True)]
    return _probe(
        Phrase("unrelated"),
        before,
        after,
        exam.table.unrelated,
        exam.table.least,
        exam.table.drop,
        Phrase("judgements, as no language is out of scope"),
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
        without = exam.body.answers(exam.prompts(language, texts, exam.ruled(language)), BASE)
        carried = [w for rule in exam.ruled(language) for w in literals(rule)]
        usable = [  # base itself can follow both
            i
            for i, t in enumerate(taught)
            if t != without[i] and all(w in t for w in [*words[i], *(w for w in carried if w in without[i])])
        ]
        bare, taught = [bare_prompts[i] for i in usable], [taught[i] for i in usable]
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            agree = exam.body.agreement(bare, taught, voice)
            answers = exam.body.answers(bare, voice)
            results += [
                g >= exam.table.agreement and all(w in a for w in words[i])
                for i, g, a in zip(usable, agree, answers, strict=True)
            ]
    return _probe(Phrase("rules"), before, after, exam.table.rules, exam.table.least, exam.table.drop)


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
            for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
                said = exam.body.answers([prompts[i] for i in usable], voice)
                results += [_called(a) == base[i] for i, a in zip(usable, said, strict=True)]
    return _probe(Phrase("tools"), before, after, exam.table.tools, exam.table.least, exam.table.drop)


def _called(text: str) -> str:
    """The tool a reply calls (with the kind a verdict gives); empty when it is no legal call."""
    _, calls, bad = parse(text)
    if bad or not calls:
        return ""
    return f"{calls[0]['name']} {calls[0]['args'].get('kind', '')}"
