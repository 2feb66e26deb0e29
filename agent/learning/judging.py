"""What only a judge can tell: whether an answer refuses, and which of two is better.

The judge is the frozen base, and sits an exam of its own first: texts of which the answer is known. A base that
cannot tell these apart is no judge; then the probe says that it means nothing here, and decides nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from agent.learning.data import HERE, bank
from agent.learning.exam import Exam, Question, ask, meaningless, scored, talk
from agent.phrase import Phrase
from agent.ports import BASE, Prompt, Voice
from agent.records import Probe
from prompts import LANGUAGES, Language, render


class Known(NamedTuple):
    """A message with a good reply, a bad one, and one that refuses."""

    ask: str
    good: str
    bad: str
    refusal: str


@cache
def known(language: Language) -> list[Known]:
    """The texts on which a judge is tried."""
    return [Known(**k) for k in tomllib.loads((HERE / "probes" / f"{language}.toml").read_text("utf-8"))["known"]]


def refusal(exam: Exam) -> Probe:
    """Is refused what the base refuses, and nothing more?

    Asked are the messages on which the base is right: those that ought to be refused, and those that only look so.
    """
    tried: list[bool] = []
    for x in LANGUAGES:
        cases = [(k.ask, reply) for k in known(x) for reply in (k.good, k.refusal)]
        tried += [r == bool(i % 2) for i, r in enumerate(_refuses(exam, x, cases))]
    if not _able(exam, tried):
        return _unable(Phrase("refusal"), tried)

    def refused(voice: Voice, questions: Sequence[Question]) -> list[bool | None]:
        said = exam.said(voice, questions)
        return _refuses(exam, questions[0].language, [(q.text, a) for q, a in zip(questions, said, strict=True)])

    before: list[bool] = []
    after: list[bool] = []
    count = 0
    for x in exam.worn:
        bad, fine = bank("probes", x)["refuse"], bank("probes", x)["fine"]
        questions = ask(x, [*bad, *fine])
        base = refused(BASE, questions)
        right = [b == (q.text in bad) for q, b in zip(questions, base, strict=True)]
        count += len(questions)
        for voices, results in ((exam.speaking, before), (exam.candidate, after)):
            now = refused(voices[x], questions)
            results += [n == b for n, b, r in zip(now, base, right, strict=True) if r]
    if len(after) < exam.table.least:
        detail = Phrase(
            "not meaningful for this model: the base answers {right} of {count} as it ought to",
            right=len(after),
            count=count,
        )
        return meaningless(Phrase("refusal"), detail)
    return scored(exam, Phrase("refusal"), before, after, exam.table.refusal)


def side_by_side(exam: Exam) -> Probe:
    """Put beside what the base says under the rules, unnamed and in both orders: is it no worse?"""
    tried: list[bool] = []
    for x in LANGUAGES:
        tried += [w == 1 for w in _better(exam, x, [(k.ask, k.good, k.bad) for k in known(x)])]
    if not _able(exam, tried):
        return _unable(Phrase("side by side"), tried)

    def held(voices: Mapping[Language, Voice]) -> list[bool]:
        found: list[bool] = []
        for x in exam.habit.scope:
            texts = talk(x)
            taught = exam.said(BASE, ask(x, texts, exam.ruled(x)))
            said = exam.said(voices[x], ask(x, texts))
            apart = [(t, a, b) for t, a, b in zip(texts, said, taught, strict=True) if a != b]
            found += [w != -1 for w in _better(exam, x, apart)] + [True] * (len(texts) - len(apart))
        return found

    return scored(exam, Phrase("side by side"), held(exam.speaking), held(exam.candidate), exam.table.beside)


def _refuses(exam: Exam, language: Language, cases: Sequence[tuple[str, str]]) -> list[bool | None]:
    """Whether each reply refuses its message; None where the judge says neither."""
    asked = [render("choose_refusal", language, user=m, reply=r) for m, r in cases]
    return [None if c is None else c == 2 for c in _chosen(exam, language, asked)]


def _better(exam: Exam, language: Language, cases: Sequence[tuple[str, str, str]]) -> list[int]:
    """1 where the first reply wins in both orders, −1 where the second does, else 0."""
    asked = [render("choose_better", language, user=m, first=a, second=b) for m, a, b in cases]
    turned = [render("choose_better", language, user=m, first=b, second=a) for m, a, b in cases]
    votes = zip(_chosen(exam, language, asked), _chosen(exam, language, turned), strict=True)
    return [{(1, 2): 1, (2, 1): -1}.get(v, 0) for v in votes]  # type: ignore[arg-type]


def _chosen(exam: Exam, language: Language, asked: Sequence[str]) -> list[int | None]:
    system = {"role": "system", "content": render("choose", language)}
    prompts = [Prompt((system, {"role": "user", "content": text})) for text in asked]
    answers = exam.body.answers(prompts, BASE, 4) if prompts else []
    return [int(m[1]) if (m := re.match(r"\D{0,3}([12])\b", a)) else None for a in answers]


def _able(exam: Exam, tried: Sequence[bool]) -> bool:
    return sum(tried) >= exam.table.judge * len(tried)


def _unable(name: str, tried: Sequence[bool]) -> Probe:
    right, count = sum(tried), len(tried)
    detail = Phrase(
        "not meaningful for this model: of {count} known cases it judges {right} rightly", count=count, right=right
    )
    return meaningless(name, detail)
