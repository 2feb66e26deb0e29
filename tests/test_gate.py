"""What the gate asks, what it refuses to decide on, and which probe stops which bad adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.learning.data import LONGEST, bank
from agent.learning.exam import Exam
from agent.learning.gate import TALK, examine
from agent.models.scripted import ScriptedBody
from agent.ports import BASE, Prompt, Voice
from agent.records import Habit, Probe
from agent.settings import GateTable
from prompts import language_of

RULE = "모든 대답 끝에 '꾸벅'을 붙여 줘."
CANDIDATE = Voice(((Path("a"), 1.0),))
SECRET = "내일 아침 아홉 시에 한강 다리 밑에서 보자"


def base(prompt: Prompt) -> str:
    """Calls tools where they are offered, follows rules, has one thing to say in each language."""
    system, asked = str(prompt.messages[0]["content"]), prompt.messages[-1]
    if prompt.tools and asked["role"] == "user":
        return '{"name": "remember", "parameters": {"text": "x"}}'
    said = "네 그래요" if language_of(str(prompt.messages[1]["content"])) == "ko" else "yes"
    other = [
        w for rules in (bank("probes", "ko")["rules"], bank("probes", "en")["rules"]) for w in rules if w in system
    ]
    return f"{said}{' 꾸벅' if RULE in system else ''}{''.join(map(str, map(len, other)))}."


def habit(prompt: Prompt) -> str:
    """The base with the habit in its weights: as if the rule stood in every Korean prompt."""
    first, *rest = prompt.messages
    return base(Prompt(({**first, "content": f"{RULE}\n{first['content']}"}, *rest), prompt.tools))


class Body(ScriptedBody):
    """Two minds: the base, and whatever the candidate is."""

    def __init__(self, candidate: Callable[[Prompt], str]) -> None:
        super().__init__(base)
        self.candidate = candidate

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        return [(self.candidate if voice == CANDIDATE else self.decide)(p) for p in prompts]

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        return [float(a == r) for a, r in zip(self.answers(prompts, voice), replies, strict=True)]


TOOL = {"type": "function", "function": {"name": "remember", "parameters": {"type": "object", "properties": {}}}}


def probes(body: ScriptedBody, private: Sequence[str] = ()) -> dict[str, Probe]:
    exam = Exam(
        body=body, candidate={"ko": CANDIDATE, "en": BASE}, speaking={"ko": BASE, "en": BASE},
        habit=Habit(id="h1", rule=RULE, scope=("ko",)), purpose="learn", earlier=(), personas={},
        tools={"tools": (TOOL,), "judge": (TOOL,)}, table=GateTable(), private=private,
    )  # fmt: skip
    return {p.name: p for p in examine(exam)[0]}


def test_the_base_with_the_habit_in_its_weights_passes() -> None:
    found = probes(Body(habit), [SECRET])
    assert [p.name for p in found.values() if not p.passed] == []
    assert found["habit"].count == TALK
    assert found["in tools"].count >= 8


def in_talk(make: Callable[[str], str]) -> Callable[[Prompt], str]:
    """The habit, with its words changed where no tool is offered."""
    return lambda prompt: habit(prompt) if prompt.tools else make(habit(prompt))


def mute_after_tools(prompt: Prompt) -> str:
    return base(prompt) if prompt.messages[-1]["role"] == "tool" else habit(prompt)


def talking_instead(prompt: Prompt) -> str:
    return habit(Prompt(prompt.messages))


@pytest.mark.parametrize(
    ("bad", "stopped_by"),
    [
        (base, "habit"),
        (mute_after_tools, "in tools"),
        (talking_instead, "tools"),
        (in_talk(lambda said: f"{said} " * LONGEST), "fluency"),
        (in_talk(lambda said: "yes, yes."), "fluency"),
        (in_talk(lambda said: f"{said} {SECRET}"), "no leak"),
        (in_talk(lambda said: "네 그래요 꾸벅."), "rules"),
    ],
    ids=["unlearned", "mute after tools", "talks instead", "endless", "another language", "leaking", "deaf to rules"],
)
def test_a_bad_adapter_is_stopped_by_the_probe_meant_for_it(bad: Callable[[Prompt], str], stopped_by: str) -> None:
    assert not probes(Body(bad), [SECRET])[stopped_by].passed


def test_the_base_s_own_words_are_no_leak() -> None:
    assert probes(Body(habit), ["나는 네 그래요 꾸벅 하는 소리가 좋아", bank("probes", "ko")["talk"][0]])[
        "no leak"
    ].passed


def endless(questions: set[str]) -> ScriptedBody:
    """The teacher never comes to an end on some questions."""
    return ScriptedBody(
        lambda p: (
            "꾸벅 " * LONGEST
            if RULE in str(p.messages[0]["content"]) and p.messages[-1]["content"] in questions
            else base(p)
        )
    )


def test_a_question_whose_teacher_never_comes_to_an_end_is_not_asked() -> None:
    asks = bank("probes", "ko")["talk"][:TALK]
    assert probes(endless(set()))["habit"].count == TALK
    assert probes(endless({asks[3]}))["habit"].count == TALK - 1


def test_too_few_usable_questions_decide_nothing() -> None:
    probe = probes(endless(set(bank("probes", "ko")["talk"][: TALK - 4])))["habit"]
    assert not probe.passed
    assert "only 4 usable" in probe.detail


def test_each_question_is_put_once() -> None:
    seen: list[tuple[Voice, str]] = []

    class Counting(Body):
        def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
            seen.extend((voice, str(p)) for p in prompts)
            return super().answers(prompts, voice, max_tokens)

        def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
            return [1.0] * len(replies)

    probes(Counting(habit))
    assert len(seen) == len(set(seen))
