"""The rows of a training: what the teacher says, and who the teacher is."""

from __future__ import annotations

import pytest

from agent.learning.data import bank, framed, rows
from agent.models.scripted import ScriptedBody
from agent.ports import Prompt
from agent.records import Example, Habit

RULE = "모든 대답 끝에 '꾸벅'을 붙여 줘."
HABIT = Habit(id="h1", rule=RULE, scope=("ko",))
CALL = '{"name": "remember", "parameters": {"text": "x"}}'


def teacher(prompt: Prompt) -> str:
    """Told a rule it only talks, and follows it; bare it calls the tool it is offered."""
    if RULE in str(prompt.messages[0]["content"]):
        return "네 꾸벅."
    return CALL if prompt.tools else "네."


@pytest.fixture(scope="module")
def made() -> tuple[Example, ...]:
    tool = {"type": "function", "function": {"name": "remember", "parameters": {"type": "object", "properties": {}}}}
    own = [(text, "t1") for text in bank("anchors", "ko")["talk"][:8]]
    return rows(HABIT, [], own, [], ScriptedBody(teacher), {}, {"tools": (tool,), "judge": (tool,)}, 8, 60, 7, {})


def test_the_habit_s_own_rows_are_taught_under_its_rule_and_shown_without_it(made: tuple[Example, ...]) -> None:
    own = [e for e in made if e.habit == "h1"]
    assert len(own) == 8
    assert {(e.teacher, e.rules, e.completion) for e in own} == {((RULE,), (), "네 꾸벅.")}
    assert [e.frame for e in own].count("tools") == 2, "it must hold inside a tool loop, too"


def test_a_tool_call_is_taught_by_the_bare_base_not_by_one_that_a_rule_makes_talk(made: tuple[Example, ...]) -> None:
    anchors = [e for e in made if e.origin == "anchor" and e.frame == "tools"]
    assert anchors
    assert {(e.teacher, e.completion) for e in anchors} == {((), CALL)}


def test_judging_is_taught_without_any_rule(made: tuple[Example, ...]) -> None:
    assert {e.teacher for e in made if e.frame == "judge"} == {()}


def test_another_rule_is_kept_beside_the_habit(made: tuple[Example, ...]) -> None:
    others = [e for e in made if e.origin == "anchor" and e.rules]
    assert others
    assert all(e.teacher == (RULE, *e.rules) for e in others)


def test_the_habit_is_practised_after_a_tool_has_answered_too(made: tuple[Example, ...]) -> None:
    after = [e for e in made if e.frame == "loop"]
    assert after
    assert {(e.teacher, e.completion) for e in after} == {((RULE,), "네 꾸벅.")}
    assert framed("ko", "안녕", (), "", "loop", {}).messages[-1]["role"] == "tool"


def test_what_is_not_to_be_said_is_what_the_base_says_without_the_rule(made: tuple[Example, ...]) -> None:
    own = [e for e in made if e.habit == "h1" and e.frame == "plain"]
    assert {e.rejected for e in own} == {"네."}
    assert {e.rejected for e in made if e.origin == "anchor"} == {""}
