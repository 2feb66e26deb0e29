"""What a conversation makes of a model that loses itself, and of a person who would rather have heard something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ModelError, StorageError, UsageError
from agent.learning.objections import objected, unwanted
from agent.ports import Prompt, Voice
from agent.records import Example, Habit, Memory, Mode, Turn, Verdict
from agent.settings import Sampling
from app.files import mask_table
from tests.being import scripted
from tools.adopt_instruction import adopt_instruction
from tools.base import Desk

LOST = "나를 " * 60


def test_a_reply_that_lost_itself_is_kept_but_not_shown_to_the_model_again(tmp_path: Path) -> None:
    prompts: list[Prompt] = []

    def decide(prompt: Prompt) -> str:
        prompts.append(prompt)
        return LOST if prompt.messages[-1]["content"] == "내 이름은 민지야" else "네."

    being = scripted(tmp_path / "bag", decide)
    talk = being.talk()
    for text in ("안녕", "내 이름은 민지야", "잘 지냈어?"):
        talk.say(text)
    shown = [m["content"] for m in prompts[-1].messages[1:]]
    assert shown == ["안녕", "네.", "잘 지냈어?"]


def test_a_call_that_came_to_nothing_is_followed_by_words_not_by_half_a_call(tmp_path: Path) -> None:
    biases: list[float] = []

    def decide(prompt: Prompt) -> str:
        return '{"name": "remember", "parameters": {"te'

    being = scripted(tmp_path / "bag", decide)
    stream = being.bag.body.stream

    def watched(prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto") -> object:
        biases.append(sampling.logit_bias.get("{", 0.0))
        return stream(prompt, voice, sampling, tool_choice)

    being.bag.body.stream = watched  # type: ignore[method-assign,assignment]
    being.talk().say("안녕")
    assert biases == [0.0, -100.0]


def test_a_rule_that_repeats_itself_is_not_put_on(tmp_path: Path) -> None:
    bag = scripted(tmp_path / "bag", lambda _: "네.").bag
    desk = Desk(bag=bag, user="내 이름은 민지야")
    call = adopt_instruction.call(desk, {"rule": "모든 대답을 '" + "민지야 나를 '" * 20 + "민지야"})
    assert call.result.startswith("error")
    assert bag.ledger.all(Habit) == []
    assert adopt_instruction.call(desk, {"rule": "나를 '민지'라고 불러 줘."}).result == "ok"


def test_what_a_tool_did_rests_on_its_turn_even_if_no_reply_comes(tmp_path: Path) -> None:
    """Else nobody could erase it."""
    broken = True

    def decide(prompt: Prompt) -> str:
        if prompt.messages[-1]["role"] != "tool":
            return '{"name": "remember", "parameters": {"text": "내 비밀은 호랑이야"}}'
        if broken:
            raise ModelError("The server is gone.")
        return "기억할게요."

    being = scripted(tmp_path / "bag", decide)
    talk = being.talk()
    with pytest.raises(ModelError):
        talk.say("내 비밀은 호랑이야")
    (turn,) = being.bag.ledger.all(Turn)
    (memory,) = being.bag.ledger.all(Memory)
    assert (turn.reply, memory.turns) == ("", (turn.id,))
    assert not list((tmp_path / "bag" / "turns").glob("*")), "no material without a reply"
    broken = False
    assert talk.say("내 비밀은 호랑이야")["turn_id"] == turn.id, "said again, it goes on"
    (turn,) = being.bag.ledger.all(Turn)
    assert (turn.reply, len(turn.tool_calls)) == ("기억할게요.", 1)
    assert unwanted(being.bag, turn) == ""
    assert being.erase(turn.id)["memories"] == [memory.id]


def test_a_rule_is_never_kept_without_the_words_that_led_to_it(tmp_path: Path) -> None:
    """Whoever is killed while the rule is tried beside the others leaves a turn that can be erased."""
    seen: list[tuple[str, list[tuple[str, ...]]]] = []

    def decide(prompt: Prompt) -> str:
        if not prompt.tools:  # the base, told both rules
            seen.append((bag.ledger.all(Turn)[-1].user, [h.evidence for h in bag.ledger.all(Habit)]))
        if prompt.messages[-1]["role"] == "user" and prompt.tools:
            return '{"name": "adopt_instruction", "parameters": {"rule": "민수 얘기는 하지 말아 줘."}}'
        return "네."

    being = scripted(tmp_path / "bag", decide)
    bag = being.bag
    being.mask_add("반말로 대답해 줘.")
    being.talk().say("민수 얘기는 이제 하지 마")
    assert seen[0] == ("민수 얘기는 이제 하지 마", [(), ("t1",)])
    (turn,) = bag.ledger.all(Turn)
    assert (turn.reply, len(turn.tool_calls)) == ("네.", 1)


@pytest.mark.parametrize("door", ["conversation", "mask add"])
def test_a_rule_told_again_in_the_other_language_applies_there_too(tmp_path: Path, door: str) -> None:
    rule = "Call me 'Captain'."

    def decide(prompt: Prompt) -> str:
        if prompt.tools and prompt.messages[-1]["role"] == "user" and "Captain" in prompt.messages[-1]["content"]:
            return '{"name": "adopt_instruction", "parameters": {"rule": "' + rule + '"}}'
        return "ok"

    being = scripted(tmp_path / "bag", decide)
    first, second = being.mask_add, lambda _: being.talk().say("앞으로 나를 Captain이라고 불러 줘")
    for tell in (first, second) if door == "conversation" else (second, first):
        tell(rule)
    (line,) = being.bag.selves.current().mask.rules
    (habit,) = being.bag.ledger.all(Habit)
    assert set(line.scope) == set(habit.scope) == {"ko", "en"}
    assert [being.talk().say(text)["mask"] for text in ("오늘 날씨 어때", "how are you")] == [[rule]] * 2


def numbered() -> Callable[[Prompt], str]:
    """Says one, two, three …: no reply is like the one before."""
    count = iter(range(1, 99))
    return lambda prompt: f"답 {next(count)}."


def test_another_reply_takes_the_place_of_one_that_was_not_wanted(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk()
    talk.say("안녕")
    first = talk.say("오늘 뭐 할까")
    again = talk.again()
    assert (first["reply"], again["reply"], again["turn_id"]) == ("답 2.", "답 3.", first["turn_id"])
    turns = being.bag.ledger.all(Turn)
    assert [t.reply for t in turns] == ["답 1.", "답 3."]
    assert unwanted(being.bag, turns[1]) == "답 2."
    assert unwanted(being.bag, turns[0]) == ""
    (export,) = (tmp_path / "bag" / "turns").glob("*.jsonl")
    assert "답 2." not in export.read_text("utf-8"), "no material to learn from"


def test_the_person_says_how_it_should_have_answered(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk()
    talk.say("안녕")
    talk.better("안녕 꾸벅.")
    (turn,) = being.bag.ledger.all(Turn)
    assert (turn.reply, turn.self_name, unwanted(being.bag, turn)) == ("안녕 꾸벅.", "", "답 1.")


def test_a_rebuke_is_about_the_reply_before_it(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk()
    for text in ("안녕", "꾸벅 빼먹었잖아", "그래"):
        talk.say(text)
    being.bag.ledger.add(Verdict(turn="t2", value=3, kind="correction", reason="바로잡아 주었다"))
    assert [unwanted(being.bag, t) for t in being.bag.ledger.all(Turn)] == ["답 1.", "", ""]


def test_what_was_not_wanted_is_what_a_row_rejects(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk()
    talk.say("안녕")
    habit = being.bag.ledger.add(Habit(rule="끝에 '꾸벅'을 붙여 줘.", scope=("ko",)))
    row = Example(
        origin="turn", language="ko", prompt="안녕", completion="네 꾸벅.", rejected="네.", habit=habit.id, source="t1"
    )
    assert objected(being.bag, row, ["네 꾸벅."]) == row, "let stand"
    talk.better("다른 말.")
    assert objected(being.bag, row, ["네 꾸벅."]).completion == "네 꾸벅.", (
        "words of the person that do not show the habit teach another"
    )
    talk.better("안녕하십니까 꾸벅.")
    found = objected(being.bag, row, ["네 꾸벅."])
    assert (found.completion, found.rejected) == ("안녕하십니까 꾸벅.", "답 1."), (
        "what the model said, not what he first wrote"
    )


def test_words_that_a_rule_forbids_do_not_show_it(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk()
    talk.say("늦었어")
    talk.better("죄송해요, 길이 막혔어요.")
    habit = being.bag.ledger.add(Habit(rule="'죄송'이라는 말은 절대 쓰지 마.", scope=("ko",)))
    row = Example(
        origin="turn", language="ko", prompt="늦었어", completion="길이 막혔어요.", habit=habit.id, source="t1"
    )
    assert objected(being.bag, row, [row.completion]).completion == "길이 막혔어요."


def test_in_sandbox_another_reply_leaves_no_trace_either(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk(mode="sandbox")
    with pytest.raises(UsageError):
        talk.again()
    talk.say("안녕")
    assert talk.again()["reply"] == "답 2."
    talk.better("안녕 꾸벅.")
    assert not (tmp_path / "bag").exists() or being.bag.ledger.all(Turn) == []


def test_what_was_said_last_is_last_whatever_was_written_since(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", numbered())
    talk = being.talk()
    for text in ("하나", "둘"):
        talk.say(text)
    being.bag.ledger.add(being.bag.ledger.get(Turn, "t1"))  # a newer row, as erasing writes one
    assert talk.again()["turn_id"] == "t2"
    assert [t.user for t in being.bag.thread(talk.thread)] == ["하나", "둘"]


@pytest.mark.parametrize("mode", ["growth", "sandbox"])
def test_another_reply_is_drawn_until_it_is_another(tmp_path: Path, mode: Mode) -> None:
    said = iter(["하나.", "하나.", "하나.", "둘.", "셋."])
    talk = scripted(tmp_path / "bag", lambda _: next(said)).talk(mode=mode)
    shown: list[str] = []
    talk.say("안녕")
    assert talk.again(shown.append)["reply"] == "둘."
    assert shown == ["둘."]


def test_one_who_has_only_one_thing_to_say_says_it_again(tmp_path: Path) -> None:
    talk = scripted(tmp_path / "bag", lambda _: "하나.").talk()
    talk.say("안녕")
    assert talk.again()["reply"] == "하나."


def test_a_turn_in_which_a_rule_was_taken_back_is_not_shown_to_the_model_again(tmp_path: Path) -> None:
    seen: list[str] = []

    def decide(prompt: Prompt) -> str:
        seen.append(" ".join(str(m["content"]) for m in prompt.messages[1:]))
        if "그만" in seen[-1] and prompt.messages[-1]["role"] == "user":
            return '{"name": "drop_instruction", "parameters": {"rule": "끝에 \'꾸벅\'을 붙여 줘."}}'
        return "네."

    talk = scripted(tmp_path / "bag", decide).talk()
    talk.mask_add("끝에 '꾸벅'을 붙여 줘.")
    for text in ("안녕", "꾸벅은 그만해", "비가 와"):
        talk.say(text)
    assert seen[-1] == "안녕 네. 비가 와"
    assert talk.mask_now().rules == ()


def test_words_a_person_wrote_are_never_the_ones_not_wanted(tmp_path: Path) -> None:
    """A slip mended in a second /better, or another reply asked for after it: the model's own reply is what was not wanted."""
    being = scripted(tmp_path / "bag", lambda _: "네.")
    talk = being.talk()
    talk.say("안녕")
    talk.better("좋은 아침이에유")
    talk.better("좋은 아침이에요")
    assert unwanted(being.bag, being.bag.ledger.get(Turn, "t1")) == "네."
    talk.say("뭐 해?")
    talk.better("산책해요")
    talk.again()
    assert unwanted(being.bag, being.bag.ledger.get(Turn, "t2")) == ""


def test_broken_off_another_reply_leaves_the_first_where_it_was(tmp_path: Path) -> None:
    cut = False

    def decide(_: Prompt) -> str:
        if cut:
            raise KeyboardInterrupt
        return "네."

    talk = scripted(tmp_path / "bag", decide).talk(mode="sandbox")
    talk.say("하나")
    talk.say("둘")
    cut = True
    with pytest.raises(KeyboardInterrupt):
        talk.again()
    cut = False
    assert talk.again()["user"] == "둘"


@pytest.mark.parametrize("mode", ["growth", "sandbox"])
@pytest.mark.parametrize("rule", ["  ", "please say hello " * 20])
def test_a_rule_that_would_leave_no_room_to_talk_is_not_put_on(tmp_path: Path, mode: Mode, rule: str) -> None:
    talk = scripted(tmp_path / "bag", lambda _: "네.").talk(mode=mode)
    with pytest.raises(UsageError, match="The rule"):
        talk.mask_add(rule)


def test_a_mask_is_changed_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    being, file = scripted(tmp_path / "bag", lambda _: "네."), tmp_path / "mask.toml"
    being.mask_add("Call me 'Captain'.")
    file.write_text('mood = "calm"\nrules = ["Be kind."]', "utf-8")

    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(type(being.bag.selves), "wear", full)
        with pytest.raises(StorageError):
            being.mask_use(file)
    assert [r.text for r in being.bag.selves.current().mask.rules] == ["Call me 'Captain'."]
    assert [h.stage for h in being.bag.ledger.all(Habit)] == ["told"]

    def read(*given: Any) -> Any:
        scripted(tmp_path / "bag", lambda _: "네.").mask_add("Be brief.")  # adopted in a chat meanwhile
        return mask_table(*given)

    monkeypatch.setattr("app.habitus.mask_table", read)
    being.mask_use(file)
    assert [r.text for r in being.bag.selves.current().mask.rules] == ["Be brief.", "Be kind."]
    assert [h.stage for h in being.bag.ledger.all(Habit)] == ["released", "told", "told"]


def test_a_mask_without_rules_leaves_the_lines_as_they_are(tmp_path: Path) -> None:
    """An English line that was told in Korean does not become one for English, too."""
    being, file = scripted(tmp_path / "bag", lambda _: "네."), tmp_path / "mask.toml"
    adopt_instruction.call(Desk(bag=being.bag, user="나를 Captain이라고 불러 줘"), {"rule": "Call me 'Captain'."})
    before = being.bag.selves.current().mask.rules
    file.write_text('mood = "calm"', "utf-8")
    after = being.mask_use(file).mask
    assert (after.mood, after.rules) == ("calm", before)
    assert before[0].scope == ("ko",)


@pytest.mark.parametrize("wrong", ['rules = ["Be kind.", ""]', 'rules = ["a", 3]', "mood = 3"])
def test_a_mask_that_cannot_be_worn_changes_nothing(tmp_path: Path, wrong: str) -> None:
    being = scripted(tmp_path / "bag", lambda _: "네.")
    being.mask_add("Call me 'Captain'.")
    file = tmp_path / "mask.toml"
    file.write_text(wrong, "utf-8")
    with pytest.raises(UsageError) as said:
        being.mask_use(file)
    assert "validation error" not in str(said.value)
    assert being.bag.selves.current().mask.rules_for("en") == ("Call me 'Captain'.",)
    assert being.bag.ledger.get(Habit, "h1").stage == "told"
