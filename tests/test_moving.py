"""The weights move while something waits: what was asked, examined or let fade still means what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from langgraph.runtime import Runtime

from agent.content import ERASED
from agent.errors import ConflictError
from agent.learning.exam import Exam
from agent.learning.proposing import file_consolidation, file_release, offer_retraining, refile, stale
from agent.ports import Prompt
from agent.records import Erasure, Example, GateReport, Habit, Part, Probe, Proposal, Record, Rule, Run, Self, Speaking
from app.habitus import Habitus
from graphs import update
from graphs.update import parts_after
from tests.being import scripted

ENDING, NAME, SLOW = "끝에 '꾸벅'을 붙여 줘.", "나를 '도롱이'라고 불러 줘.", "천천히 말해 줘."


def polite(prompt: Prompt) -> str:
    """Follows the ending and the name."""
    system = str(prompt.messages[0]["content"])
    return ("도롱이, " if NAME in system else "") + "네" + (" 꾸벅" if ENDING in system else "") + "."


@pytest.fixture
def being(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Habitus:
    """Three habits, each with a row it was taught with; none in the weights yet."""
    being = scripted(tmp_path / "bag", polite)
    ledger = being.bag.ledger
    for n, rule in enumerate((ENDING, NAME, SLOW), 1):
        ledger.add(Habit(rule=rule, scope=("ko",), stage="essence"))
        row = Example(origin="invented", language="ko", prompt=f"안녕 {n}", completion="네.", habit=f"h{n}")
        ledger.add(Proposal(kind="learn", status="promoted", habit=f"h{n}", rule=rule, scope=("ko",), examples=(row,)))
    monkeypatch.setattr(type(being.bag.selves), "check", lambda *_: 0)  # no weights behind these adapters
    return being


def worn(being: Habitus, **parts: str) -> None:
    """Wear habits, each in an adapter; ``+`` marks a fresh part, ``/`` what is left of its weight."""
    made = []
    for habit, where in parts.items():
        name, _, weight = where.partition("/")
        made.append(
            Part(habit=habit, adapter=name.strip("+"), weight=float(weight or 1), scope=("ko",),
                 stage="fresh" if name.endswith("+") else "core")
        )  # fmt: skip
    being.bag.selves.become(tuple(made), lambda mask: mask, "x")


def trained(being: Habitus, adapter: str, *habits: str) -> None:
    """An adapter that a run made of these habits."""
    p = being.bag.ledger.add(
        Proposal(kind="learn", status="promoted", habit=habits[-1], rule="x", scope=("ko",), living=habits)
    )
    being.bag.ledger.add(Run(proposal=p.id, base="", data="", config={}, adapter=adapter))


def test_a_release_is_asked_anew_with_rows_when_a_core_holds_the_habit_by_then(being: Habitus) -> None:
    bag = being.bag
    worn(being, h1="a")
    p = file_release(bag, bag.ledger.get(Habit, "h1"), "x")
    assert (p.examples, stale(bag, p)) == ((), False)
    worn(being, h1="b", h2="b")
    assert stale(bag, p), "taking its part off would leave it in the core"
    anew = refile(bag, p)
    assert anew
    assert anew.examples
    assert anew.living == ("h2",)


def test_told_again_and_learned_beside_the_core_it_leaves_the_core_too(being: Habitus) -> None:
    bag = being.bag
    trained(being, "core", "h1", "h2")
    worn(being, h2="core", h1="fresh+")
    assert file_release(bag, bag.ledger.get(Habit, "h1"), "x").examples


def test_a_consolidation_carries_all_or_is_asked_anew(being: Habitus) -> None:
    bag = being.bag
    worn(being, h1="a")
    p = file_consolidation(bag, "x")
    assert p
    assert not stale(bag, p)
    worn(being, h1="b", h2="b")
    assert stale(bag, p)


def test_no_third_fresh_part_stands_beside_two(being: Habitus) -> None:
    bag = being.bag
    row = Example(origin="invented", language="ko", prompt="안녕", completion="네.", habit="h3")
    p = bag.ledger.add(
        Proposal(kind="learn", habit="h3", rule=SLOW, scope=("ko",), examples=(row,), living=("h3",), status="approved")
    )
    worn(being, h1="a", h2="b+")
    assert not stale(bag, p)
    worn(being, h1="a+", h2="b+")
    assert stale(bag, p)


@pytest.mark.parametrize(("status", "again"), [("rejected", True), ("withdrawn", True), ("vetoed", False)])
def test_retraining_after_an_erasure_is_offered_until_it_is_done_or_vetoed(
    being: Habitus, status: str, again: bool
) -> None:
    bag = being.bag
    worn(being, h1="a")
    bag.ledger.add(Erasure(turns=("t1",), adapters=("a",)))
    first = offer_retraining(bag)
    assert first
    assert offer_retraining(bag) is None, "one at a time"
    bag.ledger.add(first.model_copy(update={"status": status, "at": ""}))
    assert (offer_retraining(bag) is not None) == again


def test_a_habit_s_stage_follows_its_weight(being: Habitus) -> None:
    bag = being.bag
    worn(being, h1="a")
    worn(being, h1="a/0.5")
    half = bag.selves.current().id
    bag.ledger.add(bag.ledger.get(Habit, "h1").become("fading", "x"))
    being.rollback()
    assert (bag.selves.current().parts[0].weight, bag.ledger.get(Habit, "h1").stage) == (1.0, "essence")
    being.rollback(half)
    assert (bag.selves.current().parts[0].weight, bag.ledger.get(Habit, "h1").stage) == (0.5, "fading")


def test_an_earlier_self_comes_back_without_a_line_that_was_erased(being: Habitus) -> None:
    bag = being.bag
    worn(being, h1="a")
    bag.selves.wear(lambda mask: mask.adding(Rule(text=ERASED, scope=("ko",), habit="h9")), "x")
    worn(being, h1="a", h2="b")
    assert being.rollback()
    now = bag.selves.current()
    assert ([p.habit for p in now.parts], now.mask.rules) == (["h1"], ())
    being.rollback()
    assert bag.selves.current().parts == (), "a second time goes further back"


# -- between the exam and the promotion --------------------------------------------------------


@pytest.fixture
def ready(being: Habitus) -> Proposal:
    """A habit trained by itself, approved and examined while nobody else was in the weights."""
    bag = being.bag
    row = Example(origin="invented", language="ko", prompt="안녕", completion="네.", habit="h3")
    p = bag.ledger.add(
        Proposal(kind="learn", habit="h3", rule=SLOW, scope=("ko",), examples=(row,), living=("h3",), status="approved")
    )
    run = bag.ledger.add(Run(proposal=p.id, base="", data="", config={}, adapter="c"))
    bag.ledger.add(GateReport(proposal=p.id, adapter="c", passed=True, parts=parts_after(bag, p, run)))
    return p


def step(being: Habitus, p: Proposal) -> update.State:
    (run,) = being.bag.ledger.all(Run, parent=p.id)
    return update._promote({"proposal": p.id, "run": run.id}, Runtime(context=being.context))


def test_another_combination_than_the_one_examined_sits_an_exam_of_its_own(
    being: Habitus, ready: Proposal, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Probe(name="habit", before=0, after=0, threshold=0.9, passed=False)
    monkeypatch.setattr(update, "examine", lambda exam: ((failed,), (), 0.0))
    worn(being, h1="a")
    assert step(being, ready) == {"passed": False}
    assert [p.habit for p in being.bag.selves.current().parts] == ["h1"]
    assert len(being.bag.ledger.all(GateReport, parent=ready.id)) == 2


def test_the_exam_knows_who_fades(being: Habitus, ready: Proposal, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Exam] = []
    monkeypatch.setattr(update, "examine", lambda exam: (seen.append(exam) or (), (), 0.0))
    worn(being, h1="a/0.5", h2="b")
    step(being, ready)
    assert [(set(e.fading), [h.id for h in e.earlier]) for e in seen] == [({"h1"}, ["h1", "h2"])]


def test_what_was_examined_is_promoted_without_another_exam(
    being: Habitus, ready: Proposal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "examine", lambda exam: pytest.fail("the report is there"))
    step(being, ready)
    assert [p.habit for p in being.bag.selves.current().parts] == ["h3"]


@pytest.mark.parametrize("what", ["a rollback", "a withdrawal"])
def test_what_happens_while_the_adapters_are_loaded_is_not_overwritten(
    being: Habitus, ready: Proposal, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    bag = being.bag
    status = "withdrawn" if what == "a withdrawal" else "approved"

    def meanwhile(_: object, parts: Sequence[Part]) -> None:
        monkeypatch.undo()
        if what == "a withdrawal":
            bag.ledger.add(ready.model_copy(update={"status": "withdrawn", "at": ""}))
        else:
            other: list[Record] = [Self(base=bag.body.digest, parts=(Part(habit="h1", adapter="a", scope=("ko",)),))]
            bag.ledger.add(Speaking(self_name=bag.ledger.add(other[0]).id, cause="x"))

    monkeypatch.setattr(type(bag.selves), "_prepare", meanwhile)
    with pytest.raises(ConflictError, match="changed while"):
        step(being, ready)
    assert bag.ledger.get(Proposal, ready.id).status == status
    assert "h3" not in [p.habit for p in bag.selves.current().parts]
