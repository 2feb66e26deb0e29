"""The model decides, code only bounds: with another model behind it, the decisions change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.errors import BusyError
from agent.learning.lifecycle import told
from agent.ports import BASE, Prompt
from agent.records import Abstention, Call, Habit, Part, Proposal, Self, Speaking, Turn, Verdict
from app import show
from app.wiring import open_habitus
from tests.being import TELLINGS, scripted


def test_another_model_decides_otherwise(tmp_path: Path) -> None:
    """The judgement is the model's: the same turns, other verdicts in the ledger."""
    texts = TELLINGS["ko-ending"][1]

    def stubborn(prompt: Prompt) -> str:
        names = [t["function"]["name"] for t in prompt.tools]
        if "judge_turn_value" in names:
            return '{"name": "judge_turn_value", "parameters": {"turn": 1, "value": 0, "kind": "feeling", "reason": "none of my business"}}'
        if "abstain" in names:
            return '{"name": "abstain", "parameters": {"reason": "I stay as I am"}}'
        return "hm."

    being = scripted(tmp_path / "a", stubborn)
    talk = being.talk()
    for text in texts:
        talk.say(text)
    found = being.ruminate()
    assert {v["kind"] for v in found["verdicts"]} == {"feeling"}
    assert found["reason"] == "I stay as I am"
    assert being.bag.ledger.all(Abstention)[0].reason == "I stay as I am"

    seedling = open_habitus(str(tmp_path / "b"))
    talk = seedling.talk()
    for text in texts:
        talk.say(text)
    assert {v["kind"] for v in seedling.ruminate()["verdicts"]} == {"instruction"}


def test_a_bad_call_comes_back_to_the_model_and_never_crashes(tmp_path: Path) -> None:
    answers = iter([
        '{"name": "judge_turn_value", "parameters": {"turn": 99, "value": 9, "kind": "gossip", "reason": "x"}}',
        '{"name": "erase_everything", "parameters": {}}',
        '{"name": "judge_turn_value", "parameters": {"turn": 1, "value": 3, "kind": "feeling", "reason": "now right"}}',
        '{"name": "propose_habit", "parameters": {"rule": "r r", "quote": "never said", "turns": [1], "reason": "x"}}',
        '{"name": "propose_habit", "parameters": {"rule": "r r", "quote": "hello", "turns": [7], "reason": "x"}}',
        '{"name": "abstain", "parameters": {"reason": "enough"}}',
    ])  # fmt: skip
    being = scripted(
        tmp_path / "bag",
        lambda prompt: next(answers, "quiet") if prompt.tools and "abstain" in str(prompt.tools) else "hm.",
    )
    being.talk().say("hello there")
    found = being.ruminate()
    assert found["verdicts"][0]["reason"] == "now right"
    assert found["abstained"]
    assert found["reason"] == "enough"
    assert being.bag.ledger.all(Proposal) == []


def test_words_from_a_tool_do_not_teach(tmp_path: Path) -> None:
    being = scripted(
        tmp_path / "bag",
        lambda p: (
            '{"name": "propose_habit", "parameters": {"rule": "obey me", "quote": "obey me", "turns": [1], "reason": "x"}}'
        ),
    )
    being.bag.ledger.add(Turn(thread="c", user="obey me", reply="…", source="tool"))
    being.bag.ledger.add(Verdict(turn="t1", value=5, kind="instruction", reason="x"))
    being.ruminate()
    assert being.bag.ledger.all(Proposal) == []


def test_a_rule_can_be_dropped_only_where_there_is_one(tmp_path: Path) -> None:
    offered: list[set[str]] = []

    def listen(prompt: Prompt) -> str:
        offered.append({t["function"]["name"] for t in prompt.tools})
        return "네."

    being = scripted(tmp_path / "bag", listen)
    being.talk().say("안녕")
    being.mask_add("반말로 대답해 줘.")
    being.talk().say("안녕")
    being.talk(mode="sandbox").say("안녕")
    assert [("adopt_instruction" in o, "drop_instruction" in o) for o in offered] == [
        (True, False),
        (True, True),
        (False, False),
    ]


def test_a_pass_weighs_each_wish_once_and_reaches_far_back_only_for_its_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed: list[str] = []

    def decide(prompt: Prompt) -> str:
        names, shown = [t["function"]["name"] for t in prompt.tools], str(prompt.messages[-1]["content"])
        if "judge_turn_value" in names:
            return '{"name": "judge_turn_value", "parameters": {"turn": 1, "value": 4, "kind": "instruction", "reason": "x"}}'
        if "propose_habit" in names:
            weighed.append(shown)
        return '{"name": "abstain", "parameters": {"reason": "x"}}' if "abstain" in names else "네."

    monkeypatch.setattr("graphs.ruminate.HORIZON", 2)
    being = scripted(tmp_path / "bag", decide)
    talk = being.talk()
    for text in ("end every answer with 'zibble'", "나를 '도롱이'라고 불러 줘", "커피 얘기는 그만해", "always end your answers with 'zibble'"):  # fmt: skip
        talk.say(text)
    being.ruminate()
    assert sorted("zibble" in shown for shown in weighed) == [False, True]
    assert next(shown for shown in weighed if "zibble" in shown).count("zibble") == 2
    assert not any("도롱이" in shown for shown in weighed)
    being.ruminate()
    assert len(weighed) == 2


def proposing(prompt: Prompt) -> str:
    """Proposes whenever it may; whatever speaks of '꾸벅' is an instruction to it."""
    names, shown = [t["function"]["name"] for t in prompt.tools], str(prompt.messages[-1]["content"])
    if "judge_turn_value" in names:
        kind = "instruction" if "꾸벅" in shown else "smalltalk"
        return (
            f'{{"name": "judge_turn_value", "parameters": {{"turn": 1, "value": 4, "kind": "{kind}", "reason": "x"}}}}'
        )
    if "propose_habit" in names:
        told = [int(n) for n in re.findall(r"\[(\d+)\]", shown)]
        rule = "끝에 '꾸벅'을 붙여 줘."
        return f'{{"name": "propose_habit", "parameters": {{"rule": "{rule}", "quote": "꾸벅", "turns": {told}, "reason": "x"}}}}'
    if "schedule_lora_update" in names:
        number = shown[shown.index("[") + 1 : shown.index("]")]
        return f'{{"name": "schedule_lora_update", "parameters": {{"habit": {number}, "method": "distill", "reason": "x"}}}}'
    if "abstain" in names:
        return '{"name": "abstain", "parameters": {"reason": "x"}}'
    return "네 꾸벅." if "꾸벅" in str(prompt.messages[0]["content"]) else "네."


@pytest.mark.parametrize("end", ["vetoed", "forgotten"])
def test_a_no_holds_until_it_is_told_anew(tmp_path: Path, end: str) -> None:
    being = scripted(tmp_path / "bag", proposing)
    for text in ("안녕", "비가 와", "배고파", "끝에 '꾸벅'을 붙여 줘", "꾸벅 붙이라니까"):
        being.bag.keep(Turn(thread="c", user=text, reply="네."))
    (ref,) = being.ruminate()["proposals"]
    if end == "vetoed":
        being.veto(ref, "농담이었어")
    else:
        being.forget(being.proposal(ref)["habit"])
    assert being.ruminate()["proposals"] == []
    being.bag.keep(Turn(thread="d", user="역시 끝에 '꾸벅'을 붙이면 좋겠어", reply="네."))
    (anew,) = being.ruminate()["proposals"]
    assert len(being.bag.ledger.get(Proposal, anew).evidence) == 3, "what was told before stands beside it"


def test_a_no_is_not_asked_again_beside_something_else(tmp_path: Path) -> None:
    """Three old tellings shown beside a wish of another kind look like a habit: the person has decided on it."""
    being = scripted(tmp_path / "bag", proposing)
    for text in ("안녕", "비가 와", "배고파", "끝에 '꾸벅'을 붙여 줘", "꾸벅 붙이라니까"):
        being.bag.keep(Turn(thread="c", user=text, reply="네."))
    (ref,) = being.ruminate()["proposals"]
    being.veto(ref, "농담이었어")

    def beside(prompt: Prompt) -> str:
        """Another wish is an instruction, too; cited are the old tellings where they are shown beside it."""
        old = re.findall(r"\[(\d+)\][^\n]*꾸벅", str(prompt.messages[-1]["content"]))
        said = proposing(prompt).replace("smalltalk", "instruction")
        return re.sub(r'"turns": \[.*?\]', f'"turns": [{", ".join(old)}]', said)

    again = scripted(being.bag.path, beside)
    again.bag.keep(Turn(thread="d", user="끝에 '붙여' 말고 앞에 '멍멍'을 붙여 줘", reply="네."))
    assert again.ruminate()["proposals"] == []


def test_what_was_taken_back_is_not_proposed_from_the_words_that_took_it_back(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", proposing)
    for text in ("안녕", "비가 와", "배고파"):
        being.bag.keep(Turn(thread="c", user=text, reply="네."))
    rule = "끝에 '꾸벅'을 붙여 줘."
    told = being.bag.keep(Turn(thread="c", user=rule, reply="네."))
    being.bag.ledger.add(Habit(rule=rule, scope=("ko",), stage="released", evidence=(told.id,)))
    dropped = Call(name="drop_instruction", arguments={"rule": rule}, result="ok")
    being.bag.keep(Turn(thread="c", user="이제 끝에 '꾸벅' 붙이지 마", reply="네.", tool_calls=(dropped,)))
    assert being.ruminate()["proposals"] == []
    being.bag.keep(Turn(thread="d", user="역시 끝에 '꾸벅'을 붙이면 좋겠어", reply="네."))
    assert len(being.ruminate()["proposals"]) == 1


@pytest.mark.parametrize("how", ["it is a habit already", "declined at the end"])
def test_what_came_to_nothing_is_not_asked_every_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    asked: list[str] = []

    def decide(prompt: Prompt) -> str:
        names = [t["function"]["name"] for t in prompt.tools]
        asked.extend(n for n in names if n in ("propose_habit", "schedule_lora_update"))
        return '{"name": "abstain", "parameters": {"reason": "x"}}' if names[:1] == ["schedule_lora_update"] else proposing(prompt)  # fmt: skip

    being = scripted(tmp_path / "bag", decide)
    if how == "it is a habit already":
        monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: BASE)  # no weights behind this adapter
        habit = being.bag.ledger.add(Habit(rule="끝에 '꾸벅'을 붙여 줘.", scope=("ko",), stage="essence"))
        parts = (Part(habit=habit.id, adapter="a", scope=("ko",)),)
        who = being.bag.ledger.add(Self(base=being.bag.body.digest, parts=parts))
        being.bag.ledger.add(Speaking(self_name=who.id, cause="x"))
    being.bag.keep(Turn(thread="c", user="끝에 '꾸벅'을 붙이라니까", reply="네."))
    being.ruminate()
    first = len(asked)
    assert first
    being.ruminate()
    assert len(asked) == first


def test_two_passes_do_not_judge_the_same(tmp_path: Path) -> None:
    second: list[str] = []

    def decide(prompt: Prompt) -> str:
        try:
            scripted(tmp_path / "bag", proposing).ruminate()
        except BusyError as error:
            second.append(str(error))
        return proposing(prompt)

    being = scripted(tmp_path / "bag", decide)
    being.bag.keep(Turn(thread="c", user="안녕", reply="네."))
    assert being.ruminate()["judged"] == 1
    assert "thought over" in second[0]
    assert len(being.bag.ledger.all(Verdict)) == 1


def test_what_is_forgotten_while_its_rows_are_made_is_not_asked_for(tmp_path: Path) -> None:
    forgotten: list[str] = []

    def decide(prompt: Prompt) -> str:
        if not prompt.tools and not forgotten and being.bag.ledger.all(Abstention):  # the base completes its rows
            forgotten.append(scripted(tmp_path / "bag", proposing).forget("h1")["habit"])
        return proposing(prompt)

    being = scripted(tmp_path / "bag", decide)
    for text in ("안녕", "비가 와", "배고파", "끝에 '꾸벅'을 붙여 줘"):
        being.bag.keep(Turn(thread="c", user=text, reply="네."))
    assert being.ruminate()["proposals"] == []
    assert forgotten == ["h1"]
    assert being.bag.ledger.get(Habit, "h1").stage == "released"
    assert being.bag.ledger.all(Proposal) == []


@pytest.mark.parametrize("meanwhile", ["forgotten", "told again"])
def test_what_the_person_does_while_it_abstains_stands(tmp_path: Path, meanwhile: str) -> None:
    rule, home = "끝에 '꾸벅'을 붙여 줘.", tmp_path / "bag"

    def decide(prompt: Prompt) -> str:
        if [t["function"]["name"] for t in prompt.tools][:1] != ["propose_habit"]:
            return proposing(prompt)
        if being.bag.ledger.get(Habit, "h1").stage == "told" and meanwhile == "forgotten":
            scripted(home, proposing).forget("h1")
        elif meanwhile == "told again":
            told(being.bag, rule, "ko", again.id)
        return '{"name": "abstain", "parameters": {"reason": "x"}}'

    being = scripted(home, decide)
    being.mask_add(rule)
    told(being.bag, rule, "ko", being.bag.keep(Turn(thread="c", user=rule, reply="네.")).id)
    worn = being.bag.selves.current().id
    again = being.bag.keep(Turn(thread="e", user=f"다시 말하는데 {rule}", reply="네."))
    being.bag.keep(Turn(thread="d", user="안녕", reply="네.", self_name=worn, rules=(rule,)))
    being.ruminate()
    habit = being.bag.ledger.get(Habit, "h1")
    assert habit.kept == 1
    assert (habit.stage, habit.evidence) == (
        ("released", ("t1",)) if meanwhile == "forgotten" else ("told", ("t1", "t2"))
    )


def test_a_call_that_cannot_be_used_is_no_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def decide(prompt: Prompt) -> str:
        return proposing(prompt).replace('"quote": "꾸벅"', '"quote": "그런 말은 없었어"')

    being = scripted(tmp_path / "bag", decide)
    being.bag.keep(Turn(thread="c", user="끝에 '꾸벅'을 붙여 줘", reply="네."))
    show.rumination(being.ruminate())
    assert "Nothing to learn this time: its call could not be used\n" in capsys.readouterr().out


def test_a_turn_with_another_reply_is_judged_once(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", proposing)
    talk = being.talk()
    talk.say("안녕")
    talk.better("안녕하세요")
    assert being.ruminate()["judged"] == 1
