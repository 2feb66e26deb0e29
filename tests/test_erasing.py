"""Erased is erased: no byte of it anywhere, the chain whole, what rested on it named."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from agent.bag import Bag
from agent.content import ERASED
from agent.erasing import erase, sweep
from agent.errors import BusyError, ConflictError, NotFoundError
from agent.models.adapters import SERVED
from agent.ports import BASE
from agent.records import (
    Call,
    Decision,
    Diary,
    Draft,
    Erasure,
    Example,
    GateReport,
    Habit,
    Memory,
    Part,
    Proposal,
    Rule,
    Run,
    Self,
    Speaking,
    Turn,
    Verdict,
)
from app.habitus import Habitus
from tests.being import ROOT, scripted

SECRET = "내 진짜 이름은 뷁슭이고 금고 번호는 8812야"
OTHER = "오늘은 날씨가 참 좋네"
RULE = "나를 '뷁슭님'이라고 불러 줘."


def opened(home: Path) -> Bag:
    return scripted(home, lambda prompt: "네.").bag


@pytest.fixture
def bag(tmp_path: Path) -> Bag:
    """A being that was told a secret (t1), remembered and judged it, proposed it, and talked on (t2)."""
    bag = opened(tmp_path / "bag")
    first = bag.keep(Turn(thread="c-1", user=SECRET, reply="뷁슭님, 잘 기억할게요.", rules=(RULE,)))
    second = bag.keep(Turn(thread="c-2", user=OTHER, reply="그러게요."))
    bag.ledger.add(Memory(text=SECRET, turns=(first.id,)))
    for turn, reason in ((first, "뷁슭이라 했다."), (second, "날씨를 말했다.")):
        bag.ledger.add(Verdict(turn=turn.id, value=2, kind="preference", reason=reason))
    bag.ledger.add(
        Habit(rule=RULE, quote="뷁슭", scope=("ko",), stage="repeated", evidence=("t1",), reason="뷁슭이라 했다")
    )
    bag.ledger.add(Draft(habit="h1", rationale="뷁슭이라 부르기", prompts=("안녕",)))
    rows = (
        Example(origin="turn", language="ko", prompt=SECRET, completion="뷁슭님, 그래요.", habit="h2", source=first.id),
        Example(origin="turn", language="ko", prompt=OTHER, completion="그러게요 꾸벅.", habit="h2", source=second.id),
        Example(origin="invented", language="ko", prompt=f"아, {SECRET}", completion="네.", habit="h2"),
    )
    bag.ledger.add(Habit(rule="끝에 '꾸벅'을 붙여 줘.", scope=("ko",), stage="essence", evidence=("t1", "t2")))
    bag.ledger.add(
        Proposal(kind="learn", habit="h2", rule="끝에 '꾸벅'을 붙여 줘.", scope=("ko",), examples=rows, status="promoted",
                 preview=((SECRET, "네.", "네 꾸벅."),), evidence=("t1", "t2"), digest="d")
    )  # fmt: skip
    bag.ledger.add(Run(proposal="p1", base="b", data="d", config={}, adapter="a-p1-1", adapter_digest="x"))
    bag.ledger.add(Proposal(kind="learn", habit="h2", rule="r", scope=("ko",), examples=rows))
    (bag.path / "runs" / "p2" / "ko").mkdir(parents=True)
    (bag.path / "runs" / "p2" / "ko" / "job.json").write_text(SECRET)
    (bag.path / "runs" / "p2" / "adapter" / "en").mkdir(parents=True)  # of two languages one was trained
    for name in ("a-p1-1", "a-p9-abcdef01"):  # the second was never recorded
        (bag.path / "adapters" / name).mkdir(parents=True)
    (bag.path / "adapters" / ".DS_Store").write_text("a file manager's own")
    (bag.path / "adapters" / "mine").mkdir()  # where the person exported to
    for link in (bag.path / "adapters" / "a-p8-12345678", bag.path / "runs" / "p2" / "elsewhere"):
        link.symlink_to(bag.path / "adapters" / "mine")
    return bag


def found(home: Path, *needles: str) -> list[str]:
    """Files that hold any of the needles, as UTF-8, as JSON escapes or as UTF-16."""
    forms = [f for n in needles for f in (n.encode(), json.dumps(n)[1:-1].encode(), n.encode("utf-16-le"))]
    return [
        str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and any(f in p.read_bytes() for f in forms)
    ]


def test_no_byte_of_it_is_left_and_the_rest_stays(bag: Bag) -> None:
    assert {"ledger.db", "runs/p2/ko/job.json"} <= {p.removesuffix("-wal") for p in found(bag.path, "뷁슭")}
    assert bag.index.near(SECRET, "memory", 5)
    assert bag.index.near(SECRET, "turn", 5)
    assert any(p.startswith("turns/") for p in found(bag.path, "뷁슭"))
    done = erase(bag, ["t1"])
    assert found(bag.path, "뷁슭", "금고") == []
    assert bag.ledger.verify() == []
    assert [t.user for t in bag.ledger.all(Turn)] == ["", OTHER]
    assert any(p.startswith("turns/") for p in found(bag.path, OTHER)), "the other turn is still exported"
    assert [i for i, _, _ in bag.index.near(OTHER, "turn", 5)] == ["t2"]
    assert bag.index.near(SECRET, "memory", 5) == []
    assert (done.turns, done.memories, done.examples, done.swept) == (("t1",), ("m1",), 4, True)
    assert [p.name for p in (bag.path / "runs" / "p2").iterdir() if p.is_dir()] == ["elsewhere"], "nor weights of it"
    assert {p.name for p in (bag.path / "adapters").iterdir()} >= {"mine", "a-p8-12345678"}
    assert not (bag.path / "adapters" / "a-p9-abcdef01").exists()


def test_no_freed_memory_goes_to_disk_with_the_index(bag: Bag) -> None:
    for n in range(12):  # without care about one in twelve saved the words
        bag.ledger.add(Memory(text=f"{SECRET} {n}"))
        assert bag.index.near(SECRET, "memory", 1)
        bag.index.rebuild()
        assert not found(bag.path / "index", SECRET)


def test_examples_are_tombstoned_and_what_waits_is_withdrawn(bag: Bag) -> None:
    erase(bag, ["t1"])
    learned, waiting = bag.ledger.all(Proposal)
    assert [e.tombstone for e in learned.examples] == [True, False, True]
    assert learned.status == "promoted"
    assert waiting.status == "withdrawn"
    assert learned.examples[1].prompt == OTHER


def test_a_habit_that_rests_on_nothing_else_goes_and_one_that_does_is_named(bag: Bag) -> None:
    done = erase(bag, ["t1"])
    orphan, other = bag.ledger.all(Habit)
    assert (orphan.stage, orphan.rule, orphan.quote) == ("released", "", "")
    assert other.rule == "끝에 '꾸벅'을 붙여 줘."
    assert done.habits == ("h2",)


def test_a_habit_in_the_mask_keeps_its_words_until_it_is_forgotten(bag: Bag) -> None:
    bag.selves.wear(lambda m: m.model_copy(update={"rules": (Rule(text=RULE, scope=("ko",), habit="h1"),)}), "x")
    done = erase(bag, ["t1"])
    assert done.habits == ("h1", "h2")
    assert bag.selves.current().mask.rules[0].text == RULE
    assert found(bag.path, SECRET) == []


def test_a_self_trained_on_erased_words_cannot_come_back(bag: Bag) -> None:
    base = bag.body.digest
    tainted = bag.ledger.add(Self(base=base, parts=(Part(habit="h2", adapter="a-p1-1"),)))
    bag.ledger.add(Speaking(self_name=tainted.id, cause="x"))
    bag.ledger.add(Speaking(self_name=bag.ledger.add(Self(base=base)).id, cause="y"))
    done = erase(bag, ["t1"])
    assert done.adapters == ("a-p1-1",)
    assert not (bag.path / "adapters" / "a-p1-1").exists(), "nothing wears it, and nothing may"
    with pytest.raises(ConflictError, match="erased"):
        bag.selves.back(tainted.id)


def test_weights_that_speak_are_offered_for_training_anew(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    now = bag.ledger.add(Self(base=bag.body.digest, parts=(Part(habit="h2", adapter="a-p1-1", scope=("ko",)),)))
    bag.ledger.add(Speaking(self_name=now.id, cause="x"))
    told = Habitus(bag).erase("t1")
    assert (bag.path / "adapters" / "a-p1-1").exists(), "it speaks until the person has decided"
    offer = bag.ledger.get(Proposal, told["proposal"])
    assert (offer.kind, offer.status, offer.living) == ("consolidate", "waiting", ("h2",))
    own = [e.prompt for e in offer.examples if e.habit == "h2"]
    assert own == [OTHER]


def test_cut_off_before_it_was_offered_it_is_offered_by_the_next_pass_and_once(
    bag: Bag, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = bag.ledger.add(Self(base=bag.body.digest, parts=(Part(habit="h2", adapter="a-p1-1", scope=("ko",)),)))
    bag.ledger.add(Speaking(self_name=now.id, cause="x"))
    with monkeypatch.context() as patch:
        patch.setattr("app.habitus.offer_retraining", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Habitus(bag).erase("t1")
    monkeypatch.setattr(type(bag.selves), "voice", lambda *_: BASE)  # no weights behind this adapter
    being = scripted(bag.path, lambda p: '{"name": "abstain", "parameters": {"reason": "x"}}' if p.tools else "네.")
    (ref,) = being.ruminate()["proposals"]
    assert bag.ledger.get(Proposal, ref).kind == "consolidate"
    being.veto(ref, "그냥 둬")
    assert being.ruminate()["proposals"] == []


def interrupted(_: Bag) -> None:
    raise KeyboardInterrupt


def test_under_a_pass_nothing_is_erased(bag: Bag) -> None:
    with bag.ruminating_lock(), pytest.raises(BusyError, match="thought over"):
        Habitus(bag).erase("t1")
    assert bag.ledger.get(Turn, "t1").user == SECRET


def test_a_whole_conversation_goes(bag: Bag) -> None:
    bag.keep(Turn(thread="c-1", user="그리고 비밀 하나 더, 쀍", reply="네."))
    assert Habitus(bag).erase("c-1")["turns"] == ["t1", "t3"]
    assert found(bag.path, "뷁슭", "쀍") == []
    assert Habitus(bag).erase("c-2")["turns"] == ["t2"]
    with pytest.raises(NotFoundError, match="c-9"):
        Habitus(bag).erase("c-9")


def test_said_again_elsewhere_it_stays_there(bag: Bag) -> None:
    bag.keep(Turn(thread="c-3", user=OTHER, reply="또 그러네요."))
    erase(bag, ["t2"])
    assert [t.user for t in bag.ledger.all(Turn)] == [SECRET, "", OTHER]


def test_a_crash_before_the_files_were_rebuilt_is_made_good(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.erasing.sweep", lambda bag: None)
    erase(bag, ["t1"])
    assert not bag.ledger.all(Erasure)[-1].swept
    assert found(bag.path, "뷁슭")
    monkeypatch.undo()
    del bag.index
    again = opened(bag.path)
    sweep(again)
    assert found(bag.path, "뷁슭") == []
    assert again.ledger.all(Erasure)[-1].swept


def _try_to_erase(home: Path) -> str:
    try:
        erase(opened(home), ["t1"])
    except BusyError as error:
        return str(error)
    return ""


def test_while_another_process_has_it_open_nothing_is_erased(bag: Bag) -> None:
    assert bag.index.owned
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert "Another process" in pool.submit(_try_to_erase, bag.path).result()
    assert bag.ledger.get(Turn, "t1").user == SECRET


def test_a_second_chat_no_longer_finds_what_the_first_erased(bag: Bag) -> None:
    second = opened(bag.path)
    assert (bag.index.owned, second.index.owned) == (True, False)
    assert second.index.near(SECRET, "memory", 1)
    erase(bag, ["t1"])
    assert second.index.near(SECRET, "memory", 1) == second.index.near(SECRET, "turn", 1) == []
    assert found(bag.path, "뷁슭") == []


@pytest.mark.parametrize("kept", [False, True])
def test_a_quote_goes_with_the_only_turn_it_stands_in(bag: Bag, kept: bool) -> None:
    quote = "우울해서 그러니 '꾸벅'을 붙여"
    texts = ["끝에 '꾸벅'을 붙여 줘", f"요즘 {quote} 줘", f"{quote} 달라니까" if kept else "제발 '꾸벅'"]
    turns = [bag.keep(Turn(thread="c-4", user=t, reply="네.")) for t in texts]
    habit = bag.ledger.add(Habit(rule="r", quote=quote, scope=("ko",), evidence=tuple(t.id for t in turns)))
    bag.ledger.add(Proposal(kind="learn", habit=habit.id, rule="r", quote=quote, scope=("ko",), status="vetoed"))
    erase(bag, [turns[1].id])
    assert bag.ledger.get(Habit, habit.id).quote == (quote if kept else "")
    assert bool(found(bag.path, quote)) == kept


def test_a_script_must_say_yes(bag: Bag) -> None:
    def habitus(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "app.cli", "--home", str(bag.path), *arguments], cwd=ROOT, capture_output=True, text=True)  # fmt: skip

    refused = habitus("erase", "t1")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert bag.ledger.get(Turn, "t1").user == SECRET


QUOTE = "Dr. Quillfeather advised me, end with 'zibble'"
ZIBBLE = "Always end your answers with 'zibble'."


def test_what_is_written_on_the_way_out_holds_no_copy_either(bag: Bag) -> None:
    """A habit that stays and a proposal that is withdrawn get new states: in these the quote is gone, too."""
    turns = [
        bag.keep(Turn(thread=c, user=text, reply="ok"))
        for c, text in (("c-7", f"{QUOTE} please"), ("c-7", "I walked the dog at noon"), ("c-8", "end with 'zibble'"))
    ]
    told, talk, again = (t.id for t in turns)
    habit = bag.ledger.add(Habit(rule=ZIBBLE, quote=QUOTE, scope=("en",), stage="proposed", evidence=(told, again)))
    bag.ledger.add(habit.model_copy(update={"quote": "end with 'zibble'", "at": ""}))
    row = Example(origin="turn", language="en", prompt=turns[1].user, completion="nice zibble", source=talk)
    other = Example(origin="invented", language="en", prompt="Where is my hat?", completion="There zibble")
    asked = bag.ledger.add(
        Proposal(kind="learn", habit=habit.id, rule=ZIBBLE, quote=QUOTE, scope=("en",), examples=(row, other),
                 rationale=f"said: {QUOTE}", evidence=habit.evidence)
    )  # fmt: skip
    Habitus(bag).erase("c-7")
    assert found(bag.path, "Quillfeather") == []
    after = bag.ledger.get(Proposal, asked.id)
    assert (after.status, after.quote, after.rationale, after.rule) == ("withdrawn", "", "", ZIBBLE)
    assert [e.tombstone for e in after.examples] == [True, False]
    assert bag.ledger.get(Habit, habit.id).stage == "repeated"


def test_a_rule_told_in_its_very_words_stays_while_it_holds(bag: Bag) -> None:
    turn = bag.keep(Turn(thread="c-7", user=ZIBBLE, reply="ok"))
    habit = bag.ledger.add(Habit(rule=ZIBBLE, quote=ZIBBLE, scope=("en",), evidence=(turn.id,)))
    rule = Rule(text=ZIBBLE, scope=("en",), habit=habit.id)
    bag.selves.wear(lambda m: m.model_copy(update={"rules": (rule,)}), "x")
    assert erase(bag, [turn.id]).habits == (habit.id,)
    assert bag.selves.current().mask.rules == (rule,)
    assert bag.ledger.get(Habit, habit.id).rule == ZIBBLE


def test_a_memory_that_another_turn_tells_stays(bag: Bag) -> None:
    again = bag.keep(Turn(thread="c-7", user=SECRET, reply="네."))
    bag.ledger.add(bag.ledger.get(Memory, "m1").model_copy(update={"turns": ("t1", again.id), "at": ""}))
    erase(bag, ["t1"])
    assert bag.ledger.get(Memory, "m1").text == SECRET


def test_a_row_whose_answer_holds_it_is_tombstoned_and_its_proposal_does_not_wait(bag: Bag) -> None:
    turn = bag.keep(Turn(thread="c-7", user="good night, old hat", reply="ok"))
    row = Example(origin="invented", language="en", prompt="Bye!", completion=f"Then {turn.user} zibble", habit="h2")
    asked = bag.ledger.add(Proposal(kind="learn", habit="h2", rule="r", scope=("en",), examples=(row,)))
    erase(bag, [turn.id])
    after = bag.ledger.get(Proposal, asked.id)
    assert (after.status, after.examples[0].tombstone) == ("withdrawn", True)


def test_what_was_put_together_of_tainted_adapters_goes_with_them(bag: Bag) -> None:
    for name, of in (("s-1", ["a-p1-1", "b"]), ("s-2", ["b"])):
        (bag.path / SERVED / name).mkdir(parents=True)
        (bag.path / SERVED / name / "of.json").write_text(json.dumps(of))
    (bag.path / SERVED / "s-3.77.88").mkdir()  # left by a process that was killed
    erase(bag, ["t1"])
    assert [p.name for p in (bag.path / SERVED).iterdir()] == ["s-2"]


def test_what_two_turns_told_goes_with_the_last_of_them(bag: Bag) -> None:
    again = bag.keep(Turn(thread="c-7", user=f"{SECRET}, 잊지 마", reply="네."))
    for record in (bag.ledger.get(Memory, "m1"), bag.ledger.get(Habit, "h1")):
        field = "turns" if isinstance(record, Memory) else "evidence"
        bag.ledger.add(record.model_copy(update={field: ("t1", again.id), "at": ""}))
    assert erase(bag, ["t1"]).memories == ()
    assert bag.ledger.get(Habit, "h1").rule == RULE
    assert erase(bag, [again.id]).memories == ("m1",)
    assert (bag.ledger.get(Memory, "m1").text, bag.ledger.get(Habit, "h1").rule) == ("", "")
    assert found(bag.path, "뷁슭", "금고") == []


def test_what_a_tool_was_told_or_told_of_it_elsewhere_goes_too(bag: Bag) -> None:
    bag.ledger.add(Memory(text="쀍", turns=("t1",)))  # short: a copy only where it stands alone
    bag.ledger.add(Memory(text="쀍쀍이", turns=("t2",)))
    calls = (
        Call(name="recall", arguments={"query": "이름"}, result=f"- 쀍\n- {OTHER}"),
        Call(name="recall", arguments={"query": "번호"}, result=f"- {SECRET}"),
        Call(name="drop_instruction", arguments={"rule": RULE}, result="ok"),
        Call(name="recall", arguments={"query": "쀍"}, result="- 쀍쀍이"),
    )
    bag.keep(Turn(thread="c-7", user="내 이름이 뭐였지?", reply="글쎄요.", tool_calls=calls))
    kept = Call(name="remember", arguments={"text": SECRET}, result="ok")
    bag.keep(Turn(thread="c-7", user=f"다시 말할게. {SECRET}", reply="네.", tool_calls=(kept,)))
    erase(bag, ["t1"])
    told, again = (bag.ledger.get(Turn, ref).tool_calls for ref in ("t3", "t4"))
    assert [c.result for c in told] == [ERASED, ERASED, "ok", "- 쀍쀍이"]
    assert [c.arguments for c in told] == [{"query": "이름"}, {"query": "번호"}, {}, {}]
    assert again == (kept,), "said again, it stays, and so does what came of it"


def test_what_a_self_said_that_wore_it_goes_with_a_habit(bag: Bag) -> None:
    ledger = bag.ledger
    own = Example(origin="invented", language="ko", prompt="밥은?", completion="뷁슭님, 아직요.", habit="h1")
    asked = ledger.add(Proposal(kind="learn", habit="h1", rule=RULE, scope=("ko",), examples=(own,), living=("h1",), status="vetoed", note="뷁슭이라 하지 마", digest="e"))  # fmt: skip
    ledger.add(Decision(proposal=asked.id, verdict="veto", digest="e", note="뷁슭이라 하지 마"))
    ledger.add(Run(proposal=asked.id, base="b", data="e", config={}, adapter="a-p3-1", adapter_digest="x"))
    ledger.add(GateReport(proposal=asked.id, adapter="a-p3-1", passed=False, samples=(("안녕", "네.", "슭아, 안녕."),)))
    ledger.add(GateReport(proposal="p1", adapter="a-p1-1", passed=True, samples=(("안녕", "뷁슭님!", "안녕 꾸벅."),)))
    ledger.add(Proposal(kind="learn", habit="h2", rule="r", scope=("ko",), preview=(("해?", "네, 뷁슭님.", "네."),)))
    ledger.add(Diary(entry="슭의 이름을 배울까 한다.", judged=1, proposals=(asked.id,)))
    ledger.add(Diary(entry="뷁슭님과 이야기했다.", judged=1))
    Habitus(bag).erase("t1")
    assert found(bag.path, "뷁슭", "슭아", "슭의") == []
    assert ledger.all(Erasure)[-1].adapters == ("a-p1-1", "a-p3-1")
    assert (bag.path / "runs" / asked.id / "report.md").exists()
    assert ledger.all(GateReport)[1].samples[0] == ("안녕", ERASED, "안녕 꾸벅.")


def test_a_core_that_carried_a_habit_loses_the_rows_that_said_it(bag: Bag) -> None:
    said = Example(origin="anchor", language="ko", prompt="뭐 해?", completion="뷁슭님, 쉬어요.", teacher=(RULE, "r"))
    free = said.model_copy(update={"completion": "쉬어요.", "teacher": ("r",)})
    for kind, habit, rule in (("release", "h1", RULE), ("consolidate", "h2", "r")):
        core = {"kind": kind, "habit": habit, "rule": rule, "scope": ("ko",), "examples": (said, free)}
        bag.ledger.add(Proposal.model_validate(core | {"living": ("h2", "h1"), "status": "promoted"}))
    erase(bag, ["t1"])
    for ref, rule in (("p3", ""), ("p4", "r")):
        before, after = bag.ledger.history(Proposal, ref)
        assert (after.rule, [e.tombstone for e in after.examples]) == (rule, [True, False])
        assert before.examples[1] == after.examples[1] == free
    assert found(bag.path, "뷁슭") == []


def test_a_prompt_from_another_turn_or_the_anchors_owes_nothing(bag: Bag) -> None:
    hello, again = (bag.keep(Turn(thread=c, user="안녕", reply="네.")) for c in ("c-7", "c-8"))
    asked = bag.keep(Turn(thread="c-7", user="what a fine day", reply="ok"))
    rows = (
        Example(origin="turn", language="ko", prompt="안녕", completion="안녕 꾸벅.", habit="h2", source=again.id),
        Example(origin="anchor", language="en", prompt="Oh what a fine day it is!", completion="It is."),
    )
    made = Proposal(kind="learn", habit="h2", rule="r", scope=("ko",), examples=rows, preview=(("안녕", "네.", "꾸벅."),), digest="e")  # fmt: skip
    made = bag.ledger.add(made)
    bag.ledger.add(Run(proposal=made.id, base="b", data="e", config={}, adapter="a-p3-1", adapter_digest="x"))
    other = rows[1].model_copy(update={"origin": "invented"})
    mixed = bag.ledger.add(made.model_copy(update={"id": "", "at": "", "examples": (*rows, other)}))
    done = erase(bag, [hello.id, asked.id])
    assert (done.examples, done.adapters) == (1, ())
    assert bag.ledger.get(Proposal, made.id) == made
    after = bag.ledger.get(Proposal, mixed.id)
    assert (after.examples[:2], after.examples[2].tombstone) == (rows, True)
    assert erase(bag, [again.id]).adapters == ("a-p3-1",)
    assert [e.tombstone for e in bag.ledger.get(Proposal, made.id).examples] == [True, False]


def test_a_habit_that_was_named_goes_once_the_person_lets_go_of_it(bag: Bag) -> None:
    bag.selves.wear(lambda m: m.model_copy(update={"rules": (Rule(text=RULE, scope=("ko",), habit="h1"),)}), "x")
    being = Habitus(bag)
    assert [h["id"] for h in being.erase("t1")["habits"]] == ["h1", "h2"]
    assert found(bag.path, "뷁슭님") == ["ledger.db"]
    with bag.ruminating_lock():  # a pass may have read it
        being.forget("h1")
    assert bag.ledger.get(Habit, "h1").rule == RULE
    assert being.learn() == []
    assert bag.ledger.get(Habit, "h1").rule == ""
    assert found(bag.path, "뷁슭") == []
    rows = len(bag.ledger.rows(Erasure))
    being.learn()
    assert len(bag.ledger.rows(Erasure)) == rows


@pytest.mark.parametrize("way", ["forget", "drop"])
def test_however_it_leaves(bag: Bag, way: str) -> None:
    bag.selves.wear(lambda m: m.model_copy(update={"rules": (Rule(text=RULE, scope=("ko",), habit="h1"),)}), "x")
    being = Habitus(bag)
    being.erase("t1")
    if way == "forget":
        being.forget("h1")
    else:
        being.mask_drop(1)
        being.ruminate()
    assert found(bag.path, "뷁슭") == []


def test_the_persons_own_hand_on_the_mask_stays_and_so_does_what_was_approved(bag: Bag) -> None:
    said = bag.keep(Turn(thread="c-7", user="너는 따뜻한 친구야", reply="네."))
    persona, shots = {"ko": f"{said.user}."}, ((said.user, f"{said.user}!"),)
    own = {"persona": persona, "mood": said.user, "few_shot": shots}
    bag.selves.wear(lambda m: m.model_copy(update=own), "x")
    config: dict[str, object] = {"personas": {"ko": f"{said.user}. {said.user}"}}
    row = Example(origin="invented", language="ko", prompt="밥은?", completion="네 꾸벅.", habit="h2")
    made = bag.ledger.add(Proposal(kind="learn", habit="h2", rule="r", scope=("ko",), examples=(row,), config=config))
    used = row.model_copy(update={"source": said.id})
    other = bag.ledger.add(made.model_copy(update={"id": "", "at": "", "examples": (used,), "status": "promoted"}))
    erase(bag, [said.id])
    mask = bag.selves.current().mask
    assert {"persona": mask.persona, "mood": mask.mood, "few_shot": mask.few_shot} == own
    assert bag.ledger.get(Proposal, made.id) == made
    after = bag.ledger.get(Proposal, other.id)
    assert (after.examples[0].tombstone, after.config) == (True, config)


def test_a_reply_that_comes_late_does_not_bring_it_back(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another reply, one by the person's hand, or the export of the first: each was begun before the erasing."""
    before = bag.ledger.get(Turn, "t1")
    erase(bag, ["t1"])
    assert bag.keep(before.model_copy(update={"reply": "뷁슭님!", "at": ""})).user == ""
    day = bag._day

    def late(name: str) -> AbstractContextManager[IO[str]]:
        monkeypatch.undo()
        erase(bag, ["t3"])
        return day(name)

    monkeypatch.setattr(bag, "_day", late)
    bag.keep(Turn(thread="c-7", user=SECRET, reply="네."))
    assert found(bag.path, "뷁슭") == []


def test_an_earlier_training_on_a_row_that_an_edit_took_out_counts(bag: Bag) -> None:
    rows = bag.ledger.get(Proposal, "p1").examples
    made = Proposal(kind="learn", habit="h2", rule="r", scope=("ko",), examples=rows, status="approved", digest="e")
    asked = bag.ledger.add(made)
    bag.ledger.add(asked.model_copy(update={"examples": (rows[1],), "digest": "f", "at": ""}))
    for data in "ef":
        bag.ledger.add(Run(proposal=asked.id, base="b", data=data, config={}, adapter=f"a-p3-{data}"))
    done = erase(bag, ["t1"])
    assert (done.adapters, bag.ledger.get(Proposal, asked.id).status) == (("a-p1-1", "a-p3-e"), "approved")


def test_nobody_decides_or_trains_while_it_is_erased(bag: Bag, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    def erasing(*_: object) -> Erasure:
        for name in ("deciding.lock", "training.lock"):
            with (bag.path / name).open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(True)
        return Erasure(turns=("t1",))

    monkeypatch.setattr("app.habitus.erase", erasing)
    Habitus(bag).erase("t1")
    assert held == [True, True]
