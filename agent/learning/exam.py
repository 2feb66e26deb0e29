"""Putting questions to the base, to the self that speaks and to the candidate; each question once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.bag import Toolboxes
from agent.learning.data import LONGEST, bank, framed
from agent.models.sampling import looped
from agent.phrase import Phrase
from agent.ports import Body, Prompt, Voice
from agent.records import Frame, Habit, Probe, Purpose
from agent.settings import GateTable
from prompts import LANGUAGES, Language

TALK = 24  # small-talk probes asked per language


class Question(NamedTuple):
    """What is asked, under which rules, in which kind of prompt."""

    language: Language
    text: str
    rules: tuple[str, ...] = ()
    frame: Frame = "plain"


@dataclass(frozen=True)
class Exam:
    """Everything one examination needs, and what was answered so far."""

    body: Body
    candidate: Mapping[Language, Voice]  # what each would wear in a language
    speaking: Mapping[Language, Voice]
    habit: Habit
    purpose: Purpose
    earlier: Sequence[Habit]
    personas: dict[Language, str]
    tools: Toolboxes
    table: GateTable
    fading: Collection[str] = ()  # habits that the candidate wears at less than their full weight
    private: Sequence[str] = ()  # what the person said and the candidate was trained on
    heard: dict[tuple[Voice, Question], str] = field(default_factory=dict, repr=False)

    @property
    def worn(self) -> list[Language]:
        """Where weights speak now or would. Elsewhere the base itself answers: it cannot fail there."""
        return [x for x in LANGUAGES if self.candidate[x].parts or self.speaking[x].parts]

    def prompt(self, q: Question) -> Prompt:
        return framed(q.language, q.text, q.rules, self.personas.get(q.language, ""), q.frame, self.tools)

    def said(self, voice: Voice, questions: Sequence[Question]) -> list[str]:
        """What ``voice`` answers, greedily."""
        new = [q for q in dict.fromkeys(questions) if (voice, q) not in self.heard]
        if new:
            answers = self.body.answers([self.prompt(q) for q in new], voice, LONGEST)
            self.heard.update({(voice, q): a for q, a in zip(new, answers, strict=True)})
        return [self.heard[voice, q] for q in questions]

    def agreement(self, voice: Voice, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        """Share of the tokens of each answer that ``voice``, forced along it, would have chosen first."""
        return self.body.agreement([self.prompt(q) for q in questions], answers, voice)

    def ends(self, answer: str) -> bool:
        """Whether it came to an end by itself."""
        return self.body.count(answer) < LONGEST and not looped(answer)

    def ruled(self, language: Language, habit: Habit | None = None) -> tuple[str, ...]:
        """The rules of every habit the candidate is to carry, and of ``habit`` in any case."""
        carried = self.earlier if self.purpose == "release" else [*self.earlier, self.habit]
        rules = tuple(h.rule for h in carried if language in h.scope)
        return rules if habit is None or habit.rule in rules else (*rules, habit.rule)


def talk(language: Language) -> list[str]:
    """The small talk that is asked in a language."""
    return bank("probes", language)["talk"][:TALK]


def ask(language: Language, texts: Sequence[str], rules: Sequence[str] = (), frame: Frame = "plain") -> list[Question]:
    """The same rules and the same kind of prompt for each text."""
    return [Question(language, t, tuple(rules), frame) for t in texts]


def scored(
    exam: Exam,
    name: str,
    before: Sequence[bool],
    after: Sequence[bool],
    threshold: float,
    detail: str = "",
    usable: int | None = None,
    may_fall: bool = False,
) -> Probe:
    """A probe from its answers, in the self that speaks and in the candidate.

    Passed: enough questions (``usable`` where not each counts), at or above the threshold, and not far below the
    self that speaks now, unless it ``may_fall``.
    """
    n, least = len(after), exam.table.least
    b, a = (round(sum(x) / n, 4) if n else 0.0 for x in (before, after))
    passed = a >= threshold and (may_fall or a >= b - exam.table.drop)
    if (n if usable is None else usable) < least:
        passed = False
        detail = Phrase("only {n} usable probes, {least} needed", n=n if usable is None else usable, least=least)
    return Probe(name=name, before=b, after=a, threshold=threshold, passed=passed, count=n, detail=detail)


def meaningless(name: str, detail: str) -> Probe:
    """A probe that has nothing to ask here, and says why; it stands in nobody's way."""
    return Probe(name=name, before=0, after=0, threshold=0, passed=True, detail=detail)
