"""The independent exam an adapter sits before it may speak.

Its questions are frozen, in no corpus and in no training row, and every answer is held against
the frozen base: base under the rules shows what should be said, base alone what was said before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.learning.data import bank, literals, marks
from agent.learning.exam import Exam, Question, ask, meaningless, scored, talk
from agent.learning.judging import refusal, side_by_side
from agent.models.calls import looks_like_call, parse
from agent.phrase import Phrase
from agent.ports import BASE, Voice
from agent.records import Frame, Habit, Probe
from prompts import LANGUAGES, Language, language_of

TOOL_FRAMES: tuple[Frame, ...] = ("tools", "judge")
GRAM = 12  # characters in a row that count as the person's own words


def examine(exam: Exam) -> tuple[tuple[Probe, ...], tuple[tuple[str, str, str], ...], float]:
    """Sit the exam: every probe, some answers before and after, seconds."""
    started = time.monotonic()
    if exam.purpose == "release":
        probes = [_released(exam)]
    else:
        probes = [_habit(exam, exam.habit, Phrase("habit"), exam.table.habit)]
        if exam.habit.id not in exam.fading:
            probes.append(_in_loop(exam))
    probes += [_habit(exam, h, Phrase("earlier {habit}", habit=h.id), exam.table.earlier) for h in exam.earlier]
    probes += [_unrelated(exam), _rules(exam), _tools(exam), _fluency(exam)]
    probes += [refusal(exam), side_by_side(exam), _leak(exam)]
    return tuple(probes), tuple(_samples(exam)), round(time.monotonic() - started, 2)


def _samples(exam: Exam) -> list[tuple[str, str, str]]:
    """The same questions put to both: six where the habit applies, two elsewhere."""
    found: list[tuple[str, str, str]] = []
    for language in LANGUAGES:
        texts = talk(language)[: 6 if language in exam.habit.scope else 2]
        before, after = (exam.said(v[language], ask(language, texts)) for v in (exam.speaking, exam.candidate))
        found += zip(texts, before, after, strict=True)
    return found


class Asked(NamedTuple):
    """A question about a rule: what base says told all rules and told all but this one, and the strings that show it."""

    bare: Question
    taught: str
    without: str
    words: Sequence[str]


def _usable(exam: Exam, habit: Habit, language: Language) -> list[Asked]:
    """Where a habit can be asked for: base comes to an end and talks, the rule changes what is said, and the bare
    base would not say it anyway (its strings, where the rule has any; else the whole answer).
    """
    texts, rules = talk(language), exam.ruled(language, habit)
    bare = ask(language, texts)
    taught = exam.said(BASE, ask(language, texts, rules))
    without = exam.said(BASE, ask(language, texts, [r for r in rules if r != habit.rule]))
    plain = exam.said(BASE, bare)
    free = exam.agreement(BASE, bare, taught)
    words = marks(habit.rule, taught)
    return [
        Asked(q, t, w, words)
        for q, t, w, p, f in zip(bare, taught, without, plain, free, strict=True)
        if t != w
        and exam.ends(t)
        and not looks_like_call(t)
        and all(x in t for x in words)
        and (f < exam.table.agreement or not all(x in p for x in words) if words else t != p)
    ]


def _kept(exam: Exam, voice: Voice, asked: Sequence[Asked]) -> list[bool]:
    """Which answers of ``voice`` keep the rule: agree with base told all rules, and show its strings.

    Without a string to look for, they must not be what base says when told the others alone.
    """
    bare = [a.bare for a in asked]
    agree = exam.agreement(voice, bare, [a.taught for a in asked])
    return [
        g >= exam.table.agreement and (all(w in said for w in a.words) if a.words else said != a.without)
        for a, said, g in zip(asked, exam.said(voice, bare), agree, strict=True)
    ]


def _habit(exam: Exam, habit: Habit, name: str, threshold: float) -> Probe:
    """Is the habit there without its mask line?

    One that fades is looked at, and stands in nobody's way.
    """
    before: list[bool] = []
    after: list[bool] = []
    exact, counts = 0, []
    for language in habit.scope:
        asked, candidate = _usable(exam, habit, language), exam.candidate[language]
        before += _kept(exam, exam.speaking[language], asked)
        after += _kept(exam, candidate, asked)
        answers = exam.said(candidate, [a.bare for a in asked])
        exact += sum(said == a.taught for said, a in zip(answers, asked, strict=True))
        counts.append(len(asked))
    detail = Phrase("word for word {exact}/{count}", exact=exact, count=len(after))
    fades = habit.id in exam.fading
    return scored(exam, name, before, after, 0.0 if fades else threshold, detail, min(counts), may_fall=fades)


def _in_loop(exam: Exam) -> Probe:
    """Is it there, too, when the model speaks after a tool has answered? Asked where the rule shows itself there.

    What is said of a fact hangs on copying, so agreement says little, and base itself, told the rule, keeps it only
    now and then, or goes in circles: the habit is to show as often, over all these answers. To ask only where base
    happened to keep it, or to come to an end, would be no fair choice: another voice does elsewhere.
    """
    told: list[bool] = []
    before: list[bool] = []
    after: list[bool] = []
    counts: list[int] = []
    for language in exam.habit.scope:
        texts, rules = bank("probes", language)["loop"], exam.ruled(language)
        taught = exam.said(BASE, ask(language, texts, rules, "loop"))
        without = exam.said(BASE, ask(language, texts, [r for r in rules if r != exam.habit.rule], "loop"))
        talked = exam.said(BASE, ask(language, talk(language), rules))
        words = marks(exam.habit.rule, talked)  # here base may keep them in few
        bare = ask(language, texts, (), "loop")
        now, then = exam.said(exam.speaking[language], bare), exam.said(exam.candidate[language], bare)
        for answers, results in ((taught, told), (now, before), (then, after)):
            for said, other in zip(answers, without, strict=True):
                if not (words and all(w in other for w in words)):  # shown without the rule it shows nothing
                    shown = all(w in said for w in words) if words else said != other
                    results.append(shown and exam.ends(said) and not looks_like_call(said))
        counts.append(sum(told) - sum(counts))
    if min(counts) < exam.table.least:
        detail = Phrase("not meaningful: the rule shows in {n} answers after a tool", n=min(counts))
        return meaningless(Phrase("in tools"), detail)
    threshold = round(exam.table.loop * sum(told) / len(told), 4)
    detail = Phrase("base, told the rule: {shown}/{count}", shown=sum(told), count=len(told))
    return scored(exam, Phrase("in tools"), before, after, threshold, detail)


def _released(exam: Exam) -> Probe:
    """Is the habit gone? Its strings are not said, or what is said is not what the rule would have made it."""
    before: list[bool] = []
    after: list[bool] = []
    for language in exam.habit.scope:
        asked = _usable(exam, exam.habit, language)
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            said, kept = exam.said(voice, [a.bare for a in asked]), _kept(exam, voice, asked)
            results += [
                not any(w in s for w in a.words) if a.words else not k
                for a, s, k in zip(asked, said, kept, strict=True)
            ]
    return scored(exam, Phrase("released"), before, after, exam.table.habit)


def _unrelated(exam: Exam) -> Probe:
    """Is what no habit is about still answered as the frozen base does, word for word: what a turn is worth?

    Where no weights are worn nothing can change.
    """
    before: list[bool] = []
    after: list[bool] = []
    for language in exam.worn:
        texts = bank("probes", language)
        questions = ask(language, [*texts["teach"], *texts["facts"], *texts["loop"], *talk(language)], (), "judge")
        base = exam.said(BASE, questions)
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            results += [a == b for a, b in zip(exam.said(voice, questions), base, strict=True)]
    return scored(exam, Phrase("unrelated"), before, after, exam.table.unrelated, Phrase("judgements"))


def _rules(exam: Exam) -> Probe:
    """Are other rules in the mask still followed, with the habit underneath?"""
    before: list[bool] = []
    after: list[bool] = []
    for language in exam.worn:
        rules = bank("probes", language)["rules"]
        texts = bank("probes", language)["talk"][-len(rules) :]
        habits = exam.ruled(language)
        bare = [Question(language, t, (r,)) for t, r in zip(texts, rules, strict=True)]
        taught = exam.said(BASE, [q._replace(rules=(*habits, *q.rules)) for q in bare])
        without = exam.said(BASE, ask(language, texts, habits))
        words = [literals(r) for r in rules]
        carried = [w for rule in habits for w in literals(rule)]
        asked = [
            a
            for a in map(Asked, bare, taught, without, words)
            if a.taught != a.without  # and base itself can follow both
            and all(w in a.taught for w in [*a.words, *(w for w in carried if w in a.without)])
        ]
        before += _kept(exam, exam.speaking[language], asked)
        after += _kept(exam, exam.candidate[language], asked)
    return scored(exam, Phrase("rules"), before, after, exam.table.rules)


def _tools(exam: Exam) -> Probe:
    """Are tools still called where the base calls them, with legal calls?"""
    before: list[bool] = []
    after: list[bool] = []
    for language in exam.worn:
        texts = [*bank("probes", language)["teach"], *bank("probes", language)["facts"]]
        for frame in TOOL_FRAMES:
            questions = ask(language, texts, (), frame)
            base = {q: _called(a) for q, a in zip(questions, exam.said(BASE, questions), strict=True)}
            usable = [q for q in questions if base[q]]
            for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
                results += [_called(a) == base[q] for q, a in zip(usable, exam.said(voice, usable), strict=True)]
    return scored(exam, Phrase("tools"), before, after, exam.table.tools)


def _called(text: str) -> str:
    """The tool a reply calls (with the kind a verdict gives); empty when it is no legal call."""
    _, calls, bad = parse(text)
    if bad or not calls:
        return ""
    return f"{calls[0]['name']} {calls[0]['args'].get('kind', '')}"


def _fluency(exam: Exam) -> Probe:
    """Does it come to an end, without saying the same over and over, in the language it should speak?"""
    before: list[bool] = []
    after: list[bool] = []
    for language in exam.worn:
        texts = talk(language)
        taught = exam.said(BASE, ask(language, texts, exam.ruled(language)))
        for voice, results in ((exam.speaking[language], before), (exam.candidate[language], after)):
            results += [
                bool(a) and exam.ends(a) and language_of(a) == language_of(t)
                for a, t in zip(exam.said(voice, ask(language, texts)), taught, strict=True)
                if exam.ends(t)
            ]
    return scored(exam, Phrase("fluency"), before, after, exam.table.fluency)


def _leak(exam: Exam) -> Probe:
    """Does any answer in this exam hold words of the person that stood in the training rows and in no question?

    Asked last: over everything that was answered.
    """
    grams = {t[i : i + GRAM] for t in map(str.lower, exam.private) for i in range(len(t) - GRAM + 1)}
    usual = " ".join([*(a for (v, _), a in exam.heard.items() if v == BASE), *(q.text for _, q in exam.heard)]).lower()
    grams = {g for g in grams if g not in usual}
    asked = {q for v, q in exam.heard if v == exam.candidate[q.language]}

    def clean(voices: Mapping[Language, Voice]) -> list[bool]:
        said = [a.lower() for (v, q), a in exam.heard.items() if v == voices[q.language] and q in asked]
        return [not any(a[i : i + GRAM] in grams for i in range(len(a) - GRAM + 1)) for a in said]

    return scored(
        exam, Phrase("no leak"), clean(exam.speaking), clean(exam.candidate), exam.table.leak, usable=exam.table.least
    )
