"""A new rule against an old one: the base shows whether they go together, and the newer one wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from langgraph.runtime import Runtime

from agent.errors import ConflictError
from agent.learning.proposing import file_consolidation, file_decay, file_release, refile, stale
from agent.ports import BASE, Prompt
from agent.records import Example, GateReport, Habit, Part, Proposal, Rule, Run, Self, Speaking
from agent.selves import worn
from app.habitus import Habitus
from app.wiring import open_habitus
from graphs import update
from graphs.context import Context
from graphs.update import parts_after
from tests.being import file_habit, scripted, small_talk
from tools.adopt_instruction import adopt_instruction
from tools.base import Desk
from tools.drop_instruction import drop_instruction

OLD, NEW, NAME = "끝에 '꾸벅'을 붙여 줘.", "끝에 '멍멍'을 붙여 줘.", "나를 '도롱이'라고 불러 줘."


def one_ending(prompt: Prompt) -> str:
    """Calls the person by name when told to, and says one ending at most: the first it was told."""
    system = str(prompt.messages[0]["content"])
    endings = sorted((system.index(w), w) for w in ("꾸벅", "멍멍") if w in system)
    return ("도롱이, " if "도롱이" in system else "") + " ".join(["네", *(w for _, w in endings[:1])]) + "."


@pytest.fixture
def being(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Habitus:
    """It wears an ending (h1) and a name (h2) in its weights."""
    being = scripted(tmp_path / "bag", one_ending)
    ledger = being.bag.ledger
    habits = [ledger.add(Habit(rule=r, scope=("ko",), stage="essence")) for r in (OLD, NAME)]
    parts = tuple(Part(habit=h.id, adapter="a", scope=("ko",)) for h in habits)
    ledger.add(Speaking(self_name=ledger.add(Self(base=being.bag.body.digest, parts=parts)).id, cause="p0"))
    monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: BASE)  # no weights behind this adapter
    return being


def test_what_the_base_cannot_do_at_once_is_a_conflict_and_leaves(being: Habitus) -> None:
    ref = file_habit(being, NEW, small_talk("ko", 12))
    p = being.bag.ledger.get(Proposal, ref)
    assert (p.kind, p.conflicts, p.living) == ("correct", ("h1",), ("h2", p.habit))
    assert p.config["conflicts"] == ["h1"], "the approval is bound to it"
    assert not any(OLD in e.teacher or "꾸벅" in e.completion for e in p.examples), "nothing of it is trained on again"
    assert being.proposal(ref)["conflicts"] == [{"habit": "h1", "rule": OLD}]
    assert not stale(being.bag, p)


@pytest.mark.parametrize("worn", [("h1",), ("h1", "h2")])
def test_what_it_is_in_conflict_with_is_worn_no_more(being: Habitus, worn: tuple[str, ...]) -> None:
    bag = being.bag
    bag.selves.become(tuple(p for p in bag.selves.current().parts if p.habit in worn), lambda mask: mask, "p0")
    p = bag.ledger.get(Proposal, file_habit(being, NEW, small_talk("ko", 12)))
    run = bag.ledger.add(Run(proposal=p.id, base=p.base, data=p.digest, config={}, adapter="b"))
    parts = {part.habit: (part.adapter, part.stage) for part in parts_after(bag, p, run)}
    assert parts == {h: ("b", "core") for h in (*worn, p.habit) if h != "h1"}


def test_told_in_conversation_the_newer_takes_the_line_of_the_older(tmp_path: Path) -> None:
    bag = scripted(tmp_path / "bag", one_ending).bag
    for rule in (OLD, NAME, NEW):
        assert adopt_instruction.call(Desk(bag=bag, user="부탁이야"), {"rule": rule}).result == "ok"
    assert [r.text for r in bag.selves.current().mask.rules] == [NAME, NEW]
    older = bag.ledger.get(Habit, "h1")
    assert (older.stage, older.reason) == ("released", "h3 took its place")
    said = bag.body.decide  # type: ignore[attr-defined]
    bag.body.decide = lambda prompt: pytest.fail("a rule that stands already is not tried again")  # type: ignore[attr-defined]
    assert adopt_instruction.call(Desk(bag=bag, user="또 말해"), {"rule": NAME}).result == "ok"
    bag.body.decide = said  # type: ignore[attr-defined]
    bag.selves.back("self-0002")
    assert bag.ledger.get(Habit, "h1").stage == "repeated", "back in the mask"


@pytest.mark.parametrize("door", ["the model's tool", "the person's hand", "a file", "the sandbox"])
def test_told_against_a_habit_of_the_weights_the_rule_wins_at_once(
    being: Habitus, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    bag = being.bag
    monkeypatch.setattr(type(bag.selves), "voice", lambda self, who, x: worn(bag.path, who.parts, x))
    before = bag.selves.current()
    talk = being.talk(mode="sandbox" if door == "the sandbox" else "growth")
    if door == "the model's tool":
        adopt_instruction.call(Desk(bag=bag, user="이제 '멍멍'을 붙여 줘"), {"rule": NEW})
    elif door == "a file":
        file = bag.path / "mask.toml"
        file.write_text(f'rules = ["{NEW}"]', "utf-8")
        being.mask_use(file)
        being.mask_use(file)  # worn again, it is the same line
    else:
        talk.mask_add(NEW)
    now = before.model_copy(update={"mask": talk.mask_now()})
    assert now.mask.rules[-1].overrules == ("h1",)
    mask, voice = bag.selves.dressed(now, "ko")
    assert (mask.rules_for("ko"), voice) == ((NAME, NEW), BASE), "its other habit speaks as a line"
    assert bag.selves.dressed(now, "en") == (now.mask, BASE)
    assert talk.say("안녕")["reply"] == "도롱이, 네 멍멍."
    assert bag.selves.current().parts == before.parts, "no weight changes without an approval"
    assert bag.ledger.get(Habit, "h1").stage == "essence"
    talk.mask_drop(1)
    again = before.model_copy(update={"mask": talk.mask_now()})
    assert bag.selves.dressed(again, "ko") == (before.mask, worn(bag.path, before.parts, "ko"))


def test_in_the_sandbox_too_the_newer_line_takes_the_place_of_the_older(tmp_path: Path) -> None:
    talk = scripted(tmp_path / "bag", one_ending).talk(mode="sandbox")
    for rule in (OLD, NAME, NEW):
        talk.mask_add(rule)
    assert talk.mask_now().rules_for("ko") == (NAME, NEW)


def test_asked_to_stop_it_heeds_at_once_and_the_weights_wait(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = being.bag
    monkeypatch.setattr(type(bag.selves), "voice", lambda self, who, x: worn(bag.path, who.parts, x))
    before = bag.selves.current()
    assert drop_instruction.call(Desk(bag=bag), {"rule": "나를 '나비'라고 불러 줘."}).result.startswith("error")
    assert drop_instruction.call(Desk(bag=bag), {"rule": OLD}).result == "ok"
    now = bag.selves.current()
    assert (now.parts, now.mask.silenced) == (before.parts, ("h1",))
    mask, voice = bag.selves.dressed(now, "ko")
    assert (mask.rules_for("ko"), voice) == ((NAME,), BASE), "its other habit speaks as a line"
    assert being.ask(["안녕"])[0]["reply"] == "도롱이, 네."
    p = bag.ledger.get(Proposal, file_habit(being, "천천히 말해 줘.", small_talk("ko", 12)))
    assert p.conflicts == ("h1",), "with the next core it goes"
    assert adopt_instruction.call(Desk(bag=bag, user="다시 '꾸벅'"), {"rule": OLD}).result == "ok"
    assert bag.selves.current().mask.silenced == ()
    assert bag.ledger.get(Habit, "h1").reason == "taken back, and told again"


def test_the_model_is_offered_to_drop_what_stands_in_mask_or_weights(tmp_path: Path) -> None:
    offered: list[str] = []

    def decide(prompt: Prompt) -> str:
        drop = [t["function"] for t in prompt.tools if t["function"]["name"] == "drop_instruction"]
        offered.append(",".join(x for f in drop for x in f["parameters"]["properties"]["rule"]["enum"]))
        return "네."

    being = scripted(tmp_path / "bag", decide)
    being.talk().say("안녕")
    ledger = being.bag.ledger
    part = Part(habit=ledger.add(Habit(rule=NAME, scope=("ko",), stage="essence")).id, adapter="a", scope=("ko",))
    who = ledger.add(being.bag.selves.current().model_copy(update={"id": "", "at": "", "parts": (part,)}))
    ledger.add(Speaking(self_name=who.id, cause="p0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(being.bag.selves), "voice", lambda *_: BASE)
        for text in ("안녕", "hello"):
            being.talk().say(text)
        being.mask_add(OLD)
        being.talk().say("안녕")
        being.talk().say("please call me 'Zephyr'")
    assert [*offered[:3], *offered[-2:]] == ["", NAME, "", f"{OLD},{NAME}", ""], (
        "of another language's nothing is shown"
    )


@pytest.fixture
def step(being: Habitus) -> Runtime[Context]:
    """What a node of the update graph gets."""
    return Runtime(context=being.context)


def promoted(being: Habitus, step: Runtime[Context], ref: str) -> None:
    """As if it had been trained and had passed the gate."""
    p = being.bag.ledger.get(Proposal, ref)
    run = being.bag.ledger.add(Run(proposal=ref, base=p.base, data=p.digest, config={}, adapter="b"))
    parts = parts_after(being.bag, p, run)
    being.bag.ledger.add(GateReport(proposal=ref, adapter="b", passed=True, parts=parts))
    update._promote({"proposal": ref, "run": run.id}, step)


def test_what_waits_about_the_older_rule_is_withdrawn(tmp_path: Path) -> None:
    being = scripted(tmp_path / "bag", one_ending)
    bag = being.bag
    ref = file_habit(being, OLD, small_talk("ko", 12))
    being.approve(ref, bag.ledger.get(Proposal, ref).digest)
    being.mask_add(NEW)
    adopt_instruction.call(Desk(bag=bag, user="꾸벅"), {"rule": OLD})
    adopt_instruction.call(Desk(bag=bag, user="멍멍"), {"rule": NEW})
    assert bag.ledger.get(Proposal, ref).status == "withdrawn"
    promoted(being, Runtime(context=being.context), ref)
    assert bag.selves.current().parts == (), "trained already, it is not worn any more"
    assert bag.selves.current().mask.rules_for("ko") == (NEW,)


def test_what_is_asked_of_a_habit_that_has_left_is_withdrawn(being: Habitus, step: Runtime[Context]) -> None:
    bag = being.bag
    old = bag.ledger.get(Habit, "h1")
    fade, leave = file_decay(bag, old, 0.5, "x"), file_release(bag, old, "x")
    being.approve(leave.id, leave.digest)
    ref = file_habit(being, NEW, small_talk("ko", 12))
    being.approve(ref, bag.ledger.get(Proposal, ref).digest)
    promoted(being, step, ref)
    assert [bag.ledger.get(Proposal, p.id).status for p in (fade, leave)] == ["withdrawn"] * 2
    late = bag.ledger.add(fade.model_copy(update={"id": "", "at": "", "status": "approved"}))
    assert stale(bag, late)
    assert refile(bag, late) is None
    assert bag.ledger.get(Habit, "h1").stage == "released"


def test_a_rollback_during_the_exam_is_not_undone(being: Habitus, step: Runtime[Context]) -> None:
    bag = being.bag
    bare = bag.ledger.add(Self(base=bag.body.digest))
    ref = file_habit(being, "천천히 말해 줘.", small_talk("ko", 12))
    being.approve(ref, bag.ledger.get(Proposal, ref).digest)
    being.rollback(bare.id)
    with pytest.raises(ConflictError, match="changed while"):
        promoted(being, step, ref)
    assert bag.selves.current().parts == ()


def test_what_a_line_overrules_leaves_when_the_line_is_learned(being: Habitus) -> None:
    bag = being.bag
    habit = bag.ledger.add(Habit(rule="천천히 말해 줘.", scope=("ko",), stage="told"))
    line = Rule(
        text=habit.rule, scope=("ko",), habit=habit.id, overrules=("h1",)
    )  # seen on the few prompts, not on more
    bag.selves.wear(lambda mask: mask.adding(line), "x")
    assert bag.ledger.get(Proposal, file_habit(being, habit.rule, small_talk("ko", 12))).conflicts == ("h1",)


def test_a_demoted_habit_keeps_its_line_when_another_fades(being: Habitus, step: Runtime[Context]) -> None:
    bag = being.bag
    adopt_instruction.call(Desk(bag=bag, user="꾸벅"), {"rule": OLD})
    p = file_decay(bag, bag.ledger.get(Habit, "h2"), 0.5, "x")
    being.approve(p.id, p.digest)
    update._promote({"proposal": p.id, "run": ""}, step)
    assert bag.selves.current().mask.rules_for("ko") == (OLD,)


@pytest.mark.parametrize("door", ["the model's tool", "the person's hand", "a file"])
def test_what_is_dropped_is_not_asked_for_any_more(tmp_path: Path, door: str) -> None:
    being = scripted(tmp_path / "bag", one_ending)
    bag = being.bag
    adopt_instruction.call(Desk(bag=bag, user="꾸벅"), {"rule": OLD})
    p = bag.ledger.get(Proposal, file_habit(being, OLD, small_talk("ko", 12)))
    being.approve(p.id, p.digest)
    match door:
        case "the model's tool":
            assert drop_instruction.call(Desk(bag=bag, user="그만"), {"rule": OLD}).result == "ok"
        case "the person's hand":
            being.mask_drop(1)
        case _:
            file = tmp_path / "mask.toml"
            file.write_text(f'rules = ["{NAME}"]', "utf-8")
            being.mask_use(file)
    assert OLD not in bag.selves.current().mask.rules_for("ko")
    assert (bag.ledger.get(Proposal, p.id).status, bag.ledger.get(Habit, p.habit).stage) == ("withdrawn", "released")


def test_who_is_only_carried_along_stays_as_it_was(being: Habitus, step: Runtime[Context]) -> None:
    """Told again, it keeps its line and waits for an answer of its own; faded, it keeps its weight."""
    bag, ledger = being.bag, being.bag.ledger
    adopt_instruction.call(Desk(bag=bag, user="꾸벅"), {"rule": OLD})
    faded = tuple(p.model_copy(update={"weight": 0.4 if p.habit == "h2" else 1.0}) for p in bag.selves.current().parts)
    bag.selves.become(faded, lambda mask: mask, "p0", lambda: [ledger.get(Habit, "h2").become("fading", "x")])
    p = file_consolidation(bag, "x")
    assert p
    assert p.habit == "h2"
    row = Example(origin="invented", language="ko", prompt="안녕", completion="도롱이, 네.", habit="h2")
    ledger.add(p.model_copy(update={"examples": (row,), "status": "approved", "at": ""}))
    promoted(being, step, p.id)
    now = bag.selves.current()
    assert [(x.habit, x.weight, x.adapter) for x in now.parts] == [("h1", 1.0, "b"), ("h2", 0.4, "b")]
    assert [ledger.get(Habit, h).stage for h in ("h1", "h2")] == ["repeated", "fading"]
    assert now.mask.rules_for("ko") == (OLD,)


def test_a_rule_that_changes_no_answer_is_none(being: Habitus) -> None:
    ledger = being.bag.ledger
    ledger.add(ledger.get(Habit, "h1").model_copy(update={"rule": "천천히 말해 줘.", "at": ""}))
    p = ledger.get(Proposal, file_habit(being, NEW, small_talk("ko", 12)))
    assert (p.kind, p.conflicts, p.living) == ("learn", (), ("h1", "h2", p.habit))


def test_the_newer_one_speaks_and_the_older_may_come_back(tmp_path: Path) -> None:
    being = open_habitus(str(tmp_path / "bag"))
    being.mask_add(OLD)
    before = being.bag.selves.current().mask
    ref = file_habit(being, NEW, small_talk("ko", 40))
    assert being.proposal(ref)["conflicts"] == [{"habit": "h1", "rule": OLD}]
    being.approve(ref, being.proposal(ref)["digest"])
    (learned,) = being.learn()
    assert learned["promoted"], learned["gate"]
    assert being.bag.selves.current().mask.rules == ()
    road = being.why("h1")["road"]
    assert (road[-1]["stage"], road[-1]["reason"]) == ("released", "h2 took its place")
    replies = [r["reply"] for r in being.ask(small_talk("ko", 24))]
    assert sum("멍멍" in r and "꾸벅" not in r for r in replies) >= 0.9 * len(replies), replies
    being.mask_add(OLD)  # and back again: the mask wins at once, the weights wait for the night
    replies = [r["reply"] for r in being.ask(small_talk("ko", 24))]
    assert sum("꾸벅" in r and "멍멍" not in r for r in replies) >= 0.9 * len(replies), replies
    being.rollback()
    assert being.bag.selves.current().mask == before
    assert being.bag.ledger.get(Habit, "h1").stage == "repeated"
