"""The rows of a training: what the teacher says, and who the teacher is."""

from __future__ import annotations

import pytest

from agent.learning.data import bank, framed, rows
from agent.learning.train import kept_out, otherwise, taught
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


def test_a_fading_habit_stands_in_its_share_of_the_rows(made: tuple[Example, ...]) -> None:
    """Its own rows teach it, that many of them; of the others as large a share."""
    faded = Habit(id="h2", rule="나를 '도롱이'라고 불러 줘.", scope=("ko",), stage="fading")
    talk = bank("anchors", "ko")["talk"]
    past = [Example(origin="invented", language="ko", prompt=t, completion="네.", habit="h2") for t in talk[100:140]]

    def shown(share: float) -> tuple[int, float]:
        found = rows(HABIT, [faded], [(t, "") for t in talk[:40]], past, ScriptedBody(teacher), {}, {}, 40, 120, 7, {"h2": share})  # fmt: skip
        own, rest = [e for e in found if e.habit == "h2"], [e for e in found if e.habit != "h2" and e.teacher]
        assert all(faded.rule in e.teacher for e in own)
        return len(own), sum(faded.rule in e.teacher for e in rest) / len(rest)

    assert shown(1.0) == (40, 1.0)
    own, share = shown(0.3)
    assert own == 12
    assert 0.2 < share < 0.4


def test_where_all_fade_the_weight_tells_and_the_rows_do_not_tell_it_again() -> None:
    """In Korean the adapter is worn at half, as nobody there has more: half of the rows would make it a quarter."""
    english = Habit(id="h2", rule="End with 'zibble'.", scope=("en",))
    talk = bank("anchors", "ko")["talk"]
    past = [Example(origin="invented", language="ko", prompt=t, completion="네.", habit="h1") for t in talk[100:140]]
    found = rows(english, [HABIT], [], past, ScriptedBody(teacher), {}, {}, 40, 60, 7, {"h1": 0.5})
    assert sum(e.habit == "h1" for e in found) == 40
    assert all(RULE in e.teacher for e in found if e.language == "ko" and e.frame == "plain")


def test_rows_by_which_a_training_is_watched_share_no_prompt_with_others_and_are_of_every_kind(
    made: tuple[Example, ...],
) -> None:
    own = [
        Example(origin="invented", language="ko", prompt=f"아무 말 {i}", completion="네 꾸벅.", habit="h1",
                frame="tools" if i % 4 == 3 else "plain")
        for i in range(48)
    ]  # fmt: skip
    anchors = [e for e in made if e.origin == "anchor"]
    examples = [*own, *anchors, *(e.model_copy(update={"frame": "judge"}) for e in anchors)]  # each prompt twice
    apart = kept_out(examples, 1 / 12, 7)
    assert not {examples[i].prompt for i in apart} & {e.prompt for i, e in enumerate(examples) if i not in apart}
    assert sum(examples[i].habit == "h1" and examples[i].frame == "plain" for i in apart) == 3
    assert sum(examples[i].habit == "h1" and examples[i].frame == "tools" for i in apart) == 1
    assert any(examples[i].origin == "anchor" for i in apart)
    assert apart == kept_out(examples, 1 / 12, 7)
    assert apart != kept_out(examples, 1 / 12, 8)
    assert kept_out(examples[:20], 1 / 12, 7) == kept_out(examples, 0, 7) == set()


def test_what_a_row_is_held_against_is_what_would_be_said_if_the_habit_leaked_or_were_not_there() -> None:
    call = Example(origin="anchor", language="ko", prompt="x", completion='{"name": "remember", "parameters": {"text": "x"}}', frame="tools", rules=("r",), teacher=("r",))  # fmt: skip
    judged = call.model_copy(update={"frame": "judge"})
    talk = call.model_copy(update={"completion": "그래."})
    assert otherwise(call, ["a", "b"], 3) == (call.model_copy(update={"frame": "plain"}), ("r", "b")), "it would talk"
    assert otherwise(talk, ["a", "b"], 2) == (talk, ("r", "a"))
    assert otherwise(judged, ["a"], 0) == (judged, ("r", "a"))
    assert otherwise(call, [], 0) == (call, ("r",)), "nothing could leak"
    own = talk.model_copy(update={"teacher": ("r", "a")})
    assert otherwise(own, ["a"], 0) == (own, ("r",)), "without the habit"


def test_the_anchors_tell_what_is_learned_where_there_are_no_other_rows() -> None:
    own = Example(origin="turn", language="ko", prompt="p", completion="c", teacher=("a", "b"), habit="h1")
    anchor = Example(origin="anchor", language="ko", prompt="q", completion="c", rules=("r",), teacher=("b", "a", "r"))
    assert taught([anchor]) == ["b", "a"]
    assert taught([anchor, own]) == ["a", "b"], "in the order of its own rows, wherever they lie"
