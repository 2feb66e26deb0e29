"""The road of a habit after it is in the weights: use keeps it, neglect lets it fade, failing sends it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.bag import Bag, settled
from agent.learning.conflict import drop_rule
from agent.learning.lifecycle import half_lives, standing, uses
from agent.ports import BASE, Prompt
from agent.records import Decision, Example, Habit, Part, Proposal, Self, Speaking, Turn, Verdict
from app.habitus import Habitus
from tests.being import scripted
from tools.adopt_instruction import adopt_instruction
from tools.base import Desk

RULE = "모든 대답 끝에 '꾸벅'을 붙여 줘."
NOW = datetime(2027, 1, 1, tzinfo=UTC)


def fading(prompt: Prompt) -> str:
    """Lets everything fade to half."""
    if any(t["function"]["name"] == "decay_old_adapter" for t in prompt.tools):
        return '{"name": "decay_old_adapter", "parameters": {"habit": 1, "weight": 0.5, "reason": "오래 안 썼다"}}'
    return "네."


@pytest.fixture
def bag(tmp_path: Path) -> Bag:
    """A being that wears h1 in Korean since sixty days before NOW."""
    bag = scripted(tmp_path / "bag", fading).bag
    long_ago = (NOW - timedelta(days=60)).isoformat()
    bag.ledger.add(Habit(rule=RULE, scope=("ko",), stage="essence", evidence=("t9",), at=long_ago))
    row = Example(origin="invented", language="ko", prompt="안녕", completion="네 꾸벅.", habit="h1")
    bag.ledger.add(Proposal(kind="learn", status="promoted", habit="h1", rule=RULE, scope=("ko",), examples=(row,)))
    who = bag.ledger.add(Self(base=bag.body.digest, parts=(Part(habit="h1", adapter="a", scope=("ko",)),)))
    bag.ledger.add(Speaking(self_name=who.id, cause="p1"))
    return bag


def said(bag: Bag, user: str, reply: str, days_ago: float, who: str = "self-0001") -> Turn:
    at = (NOW - timedelta(days=days_ago)).isoformat()
    return bag.ledger.add(Turn(thread="c", user=user, reply=reply, self_name=who, at=at))


def test_neglect_counts_from_when_it_changed_and_use_refreshes(bag: Bag) -> None:
    habit = bag.ledger.get(Habit, "h1")
    assert half_lives(bag, habit, NOW) == pytest.approx(2.0)
    said(bag, "안녕", "안녕하세요 꾸벅.", days_ago=15)
    assert half_lives(bag, habit, NOW) == pytest.approx(0.5)


def test_only_what_the_habit_did_counts_as_use(bag: Bag) -> None:
    habit = bag.ledger.get(Habit, "h1")
    said(bag, "hello", "hello 꾸벅.", days_ago=5)  # outside its scope
    said(bag, "안녕", "안녕하세요.", days_ago=4)  # it did not show
    said(bag, "안녕", "안녕 꾸벅.", days_ago=3, who="self-0000")  # another self
    rebuked = said(bag, "또 그러네", "네 꾸벅.", days_ago=2)
    bag.ledger.add(Verdict(turn=rebuked.id, value=3, kind="correction", reason="하지 말라 했다"))
    assert list(uses(bag, habit)) == []


def test_a_reply_that_the_next_turn_rebukes_is_no_use(bag: Bag) -> None:
    habit = bag.ledger.get(Habit, "h1")
    said(bag, "안녕", "안녕하세요 꾸벅.", days_ago=3)
    after = said(bag, "그 꾸벅 좀 그만 붙여", "알겠어요.", days_ago=2)
    assert [t.id for t in uses(bag, habit)] == ["t1"]
    bag.ledger.add(Verdict(turn=after.id, value=3, kind="correction", reason="하지 말라 했다"))
    assert list(uses(bag, habit)) == []


def test_keeping_silent_about_forbidden_words_is_use(bag: Bag) -> None:
    rule = "'죄송'이라는 말은 절대 쓰지 마."
    bag.ledger.add(bag.ledger.get(Habit, "h1").model_copy(update={"rule": rule}))
    row = Example(origin="invented", language="ko", prompt="안녕", completion="길이 막혔어요.", habit="h1")
    bag.ledger.add(bag.ledger.get(Proposal, "p1").model_copy(update={"examples": (row,)}))
    said(bag, "늦었어", "길이 막혔어요.", days_ago=3)
    assert [t.id for t in uses(bag, bag.ledger.get(Habit, "h1"))] == ["t1"]


def test_told_again_it_goes_back_to_the_mask_and_may_be_proposed_anew(bag: Bag) -> None:
    assert settled(bag) == {"h1"}
    assert adopt_instruction.call(Desk(bag=bag, user="꾸벅 붙이라니까"), {"rule": RULE}).result == "ok"
    habit = bag.ledger.get(Habit, "h1")
    assert habit.stage == "repeated"
    assert "did not hold" in habit.reason
    now = bag.selves.current()
    assert [r.habit for r in now.mask.rules] == ["h1"]
    assert [p.habit for p in now.parts] == ["h1"], "no weight changes without an approval"
    assert settled(bag) == set()


def test_its_rule_dropped_from_the_mask_it_is_still_in_the_weights(bag: Bag) -> None:
    adopt_instruction.call(Desk(bag=bag, user="꾸벅 붙이라니까"), {"rule": RULE})
    drop_rule(bag, RULE)
    assert bag.selves.current().mask.rules == ()
    assert bag.ledger.get(Habit, "h1").stage == "essence"
    assert settled(bag) == {"h1"}


def asleep(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> Proposal:
    monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: BASE)  # no weights behind this adapter
    monkeypatch.setattr(being, "learn", lambda: [])
    being.sleep()
    return being.bag.ledger.all(Proposal)[-1]


def test_without_standing_leave_a_decay_waits(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asleep(Habitus(bag), monkeypatch)
    assert (asked.kind, asked.status, asked.weight) == ("decay", "waiting", 0.5)


def test_with_standing_leave_it_is_approved_in_the_person_s_name_until_that_ends(
    bag: Bag, monkeypatch: pytest.MonkeyPatch
) -> None:
    being = Habitus(bag)
    leave = being.approve("decay", "decay", "좋아")
    assert standing(bag)
    asked = asleep(being, monkeypatch)
    assert (asked.kind, asked.status) == ("decay", "approved")
    (decision,) = bag.ledger.all(Decision, parent=asked.id)
    assert decision.digest == asked.digest
    assert "k1" in decision.note
    being.veto("decay", "이제 물어봐 줘")
    assert standing(bag) is None
    assert leave["status"] == "approved"


def test_standing_leave_never_covers_a_release(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    being = scripted(bag.path, lambda p: fading(p).replace("0.5", "0.1"))
    being.approve("decay", "decay")
    asked = asleep(being, monkeypatch)
    assert (asked.kind, asked.status) == ("release", "waiting")


# -- what was said of a habit since ------------------------------------------------------------

STOP = "이제 대답 끝에 '꾸벅' 붙이지 마"


def listening(seen: list[str], weight: float | None) -> Callable[[Prompt], str]:
    """Notes what it is shown of a habit, and asks for ``weight`` if it heard STOP; judges what speaks of 꾸벅 a correction."""

    def decide(prompt: Prompt) -> str:
        shown, tools = str(prompt.messages[-1]["content"]), {t["function"]["name"] for t in prompt.tools}
        if "judge_turn_value" in tools:
            kind = "correction" if "꾸벅" in shown else "smalltalk"
            return f'{{"name": "judge_turn_value", "parameters": {{"turn": 1, "value": 3, "kind": "{kind}", "reason": "x"}}}}'
        if "decay_old_adapter" in tools:
            seen.append(shown)
            if STOP in shown and weight is not None:
                return f'{{"name": "decay_old_adapter", "parameters": {{"habit": 1, "weight": {weight}, "reason": "그만하라고 했다"}}}}'
        return '{"name": "abstain", "parameters": {"reason": "x"}}' if "abstain" in tools else "네."

    return decide


def test_what_it_was_asked_to_stop_it_may_ask_to_release(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    being = scripted(bag.path, listening(seen, 0))
    stop = being.bag.keep(Turn(thread="c", user=STOP, reply="네 꾸벅."))
    being.bag.keep(Turn(thread="c", user="점심에 김밥을 먹었어", reply="네 꾸벅."))
    asked = asleep(being, monkeypatch)
    assert (asked.kind, asked.status, asked.habit) == ("release", "waiting", "h1")
    assert asked.evidence == ("t9", stop.id)
    assert "김밥" not in seen[0]


def test_whether_that_was_meant_is_the_model_s_to_say_and_it_is_shown_once(
    bag: Bag, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    being = scripted(bag.path, listening(seen, None))
    being.bag.keep(Turn(thread="c", user=STOP, reply="네 꾸벅."))
    monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: BASE)
    monkeypatch.setattr(being, "learn", lambda: [])
    being.sleep()
    being.sleep()
    assert [STOP in shown for shown in seen] == [True, False]
    assert [p.kind for p in being.bag.ledger.all(Proposal)] == ["learn"], "nothing more is asked"


def test_what_was_said_before_it_was_learned_is_not_held_against_it(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    being = scripted(bag.path, listening(seen, 0))
    before = (NOW - timedelta(days=90)).isoformat()
    being.bag.ledger.add(Turn(thread="c", user=STOP, reply="네.", at=before))
    monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: BASE)
    monkeypatch.setattr(being, "learn", lambda: [])
    being.sleep()
    assert [STOP in shown for shown in seen] == [False]


def test_what_the_person_kept_by_a_veto_is_not_asked_anew(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    being = scripted(bag.path, listening(seen, 0))
    being.bag.keep(Turn(thread="c", user=STOP, reply="네."))
    asked = asleep(being, monkeypatch)
    being.veto(asked.id, "그냥 둬")
    being.sleep()
    assert [STOP in shown for shown in seen] == [True, False]
    decided = datetime.fromisoformat(being.bag.ledger.all(Decision, parent=asked.id)[0].at)
    later = half_lives(being.bag, being.bag.ledger.get(Habit, "h1"), decided + timedelta(days=30))
    assert later == pytest.approx(1.0)
