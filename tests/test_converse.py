"""What a conversation makes of a model that loses itself."""

from __future__ import annotations

from pathlib import Path

from agent.ports import Prompt
from agent.records import Habit
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


def test_a_rule_that_repeats_itself_is_not_put_on(tmp_path: Path) -> None:
    bag = scripted(tmp_path / "bag", lambda _: "네.").bag
    desk = Desk(bag=bag, user="내 이름은 민지야")
    call = adopt_instruction.call(desk, {"rule": "모든 대답을 '" + "민지야 나를 '" * 20 + "민지야"})
    assert call.result.startswith("error")
    assert bag.ledger.all(Habit) == []
    assert adopt_instruction.call(desk, {"rule": "나를 '민지'라고 불러 줘."}).result == "ok"
