"""What the gate asks, and what it refuses to decide on."""

from __future__ import annotations

from agent.learning.data import LONGEST, bank
from agent.learning.gate import TALK, Exam, examine
from agent.models.scripted import ScriptedBody
from agent.ports import BASE, Prompt
from agent.records import Habit, Probe
from agent.settings import GateTable

RULE = "모든 대답 끝에 '꾸벅'을 붙여 줘."


def habit_probe(endless: set[str]) -> Probe:
    """The habit's own probe, where the teacher never comes to an end on the ``endless`` questions."""

    def decide(prompt: Prompt) -> str:
        if RULE not in str(prompt.messages[0]["content"]):
            return "네."
        return "꾸벅 " * LONGEST if prompt.messages[-1]["content"] in endless else "네 꾸벅."

    habit = Habit(id="h1", rule=RULE, scope=("ko",))
    exam = Exam(
        body=ScriptedBody(decide), candidate={"ko": BASE, "en": BASE}, speaking={"ko": BASE, "en": BASE},
        habit=habit, purpose="learn", earlier=(), personas={}, tools={}, table=GateTable(),
    )  # fmt: skip
    return examine(exam)[0][0]


def test_a_question_whose_teacher_never_comes_to_an_end_is_not_asked() -> None:
    asks = bank("probes", "ko")["talk"][:TALK]
    assert habit_probe(set()).count == TALK
    assert habit_probe({asks[3]}).count == TALK - 1


def test_too_few_usable_questions_decide_nothing() -> None:
    probe = habit_probe(set(bank("probes", "ko")["talk"][: TALK - 4]))
    assert not probe.passed
    assert "only 4 usable" in probe.detail


def test_who_answers_as_before_has_not_learned() -> None:
    probe = habit_probe(set())
    assert (probe.before, probe.after, probe.passed) == (0, 0, False)
