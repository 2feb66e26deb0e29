"""From a habit back to its words, and from one self to another."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from agent.errors import NotFoundError
from agent.ports import Prompt
from agent.records import (
    Decision,
    Example,
    GateReport,
    Habit,
    Mask,
    Part,
    Probe,
    Proposal,
    Rule,
    Run,
    Self,
    Speaking,
    Turn,
    Verdict,
)
from app import lineage, report, show
from app.habitus import Habitus
from app.report import markdown
from tests.being import scripted

RULE = "끝에 '꾸벅'을 붙여 줘."


def answer(prompt: Prompt) -> str:
    """Says the rule's word where the prompt holds the rule."""
    return "네 꾸벅." if "꾸벅" in str(prompt.messages[0]["content"]) else "네."


@pytest.fixture
def being(tmp_path: Path) -> Habitus:
    """Told twice (t1, t3), proposed (p1), approved, trained, examined; it speaks in self-0002."""
    being = scripted(tmp_path / "bag", answer)
    bag, ledger = being.bag, being.bag.ledger
    for text in ("끝에 '꾸벅' 붙여 줘", "안녕", "꾸벅 붙이라니까"):
        ledger.add(Turn(thread="c-1", user=text, reply="네."))
    ledger.add(Verdict(turn="t1", value=4, kind="instruction", reason="오래갈 부탁"))
    told = ledger.add(Habit(rule=RULE, scope=("ko",)))
    told = ledger.add(told.model_copy(update={"evidence": ("t1",), "at": ""}))
    ledger.add(told.model_copy(update={"at": ""}))  # nothing new: no step of its own
    told = ledger.add(
        told.model_copy(update={"stage": "repeated", "evidence": ("t1", "t3"), "reason": "두 번 말했다", "at": ""})
    )
    rows = (
        Example(origin="turn", language="ko", prompt="안녕", completion="네 꾸벅.", habit="h1", source="t2"),
        Example(origin="anchor", language="ko", prompt="비 온다", completion="네."),
    )
    ledger.add(
        Proposal(
            kind="learn",
            habit="h1",
            rule=RULE,
            scope=("ko",),
            examples=rows,
            living=("h1",),
            rationale="되풀이",
            status="promoted",
        )
    )
    ledger.add(Decision(proposal="p1", verdict="approve", digest="d", note="좋아"))
    ledger.add(Run(proposal="p1", base="b", data="d", config={}, adapter="a-p1", adapter_digest="x", seconds=12.0))
    ledger.add(
        GateReport(
            proposal="p1",
            adapter="a-p1",
            passed=True,
            probes=(Probe(name="habit", before=0, after=1, threshold=0.9, passed=True, count=24),),
        )
    )
    ledger.add(told.model_copy(update={"stage": "essence", "at": ""}))
    base = bag.body.digest
    first = ledger.add(
        Self(base=base, mask=Mask(rules=(Rule(text=RULE, scope=("ko",), habit="h1"),)), sampling={"top_k": 40})
    )
    second = ledger.add(
        Self(base=base, parts=(Part(habit="h1", adapter="a-p1", scope=("ko",)),), sampling={"top_k": 50})
    )
    ledger.add_all([Speaking(self_name=first.id, cause="x"), Speaking(self_name=second.id, cause="p1")])
    return being


def test_a_habit_leads_back_to_its_words(being: Habitus) -> None:
    found = being.why("h1")
    assert [(s["stage"], s["evidence"]) for s in found["road"]] == [
        ("told", []), ("told", ["t1"]), ("repeated", ["t1", "t3"]), ("essence", ["t1", "t3"])
    ]  # fmt: skip
    assert [(t["turn_id"], t["user"]) for t in found["evidence"]] == [
        ("t1", "끝에 '꾸벅' 붙여 줘"),
        ("t3", "꾸벅 붙이라니까"),
    ]
    assert found["evidence"][0]["verdict"] == {"value": 4, "kind": "instruction", "reason": "오래갈 부탁"}
    assert found["evidence"][1]["verdict"] is None
    (p,) = found["proposals"]
    assert (p["examples"], p["from_turns"], p["decisions"][0]["note"]) == (1, ["t2"], "좋아")
    assert (p["runs"][0]["adapter"], p["gate"]) == ("a-p1", {"habit": 1.0})
    assert (found["self"], found["parts"][0]["adapter"], found["in_mask"]) == ("self-0002", "a-p1", False)


def test_a_habit_that_is_not_there_is_said_so(being: Habitus) -> None:
    with pytest.raises(NotFoundError, match="h9"):
        being.why("h9")


def test_two_selves_are_compared_in_what_they_are_and_say(being: Habitus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: None)  # there are no weights behind this adapter
    found = being.diff("self-0001", "self-0002")
    assert found["parts"] == {"h1": [None, {"adapter": "a-p1", "weight": 1.0, "stage": "core"}]}
    assert found["rules"] == {RULE: [["ko"], None]}
    assert found["settings"] == {"sampling.top_k": [40, 50]}
    assert found["asked"] == 2 * lineage.ASKED
    assert len(found["answers"]) == lineage.ASKED, "the rule holds in Korean alone"
    assert {(s["a"], s["b"]) for s in found["answers"]} == {("네 꾸벅.", "네.")}
    same = being.diff("self-0001", "self-0001")
    assert [same[key] for key in ("parts", "rules", "settings", "answers")] == [{}, {}, {}, []]


def test_both_can_be_read_at_the_terminal(
    being: Habitus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(being.bag.selves), "voice", lambda *_: None)
    show.why(being.why("h1"))
    show.diff(being.diff("self-0001", "self-0002"))
    read = capsys.readouterr().out
    for piece in ("a-p1 × 1.0", "오래갈 부탁", "1 rows of its own, 1 from your turns", "Answers that differ: 12 of 24"):
        assert piece in read


def test_both_can_be_read_in_korean(
    being: Habitus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    ledger = being.bag.ledger
    p = ledger.get(Proposal, "p1")
    ledger.add(p.model_copy(update={"rationale": "The person asked to forget it.", "at": ""}))
    ledger.add(Decision(proposal="p1", verdict="veto", digest="d", note="by the standing leave k1"))
    ledger.add(ledger.get(Habit, "h1").become("released", "h2 took its place"))
    show.why(being.why("h1"))
    show.proposal(being.proposal("p1"))
    print(markdown(being.report("p1")))
    read = capsys.readouterr().out
    for piece in ("지시", "되풀이", "익힘", "잊음", "승인", "거절", "미리 받아 둔 허락에 따라: k1"):
        assert piece in read
    assert read.count("사람이 잊어 달라고 했어요.") == 3
    for piece in ("told", "essence", "released", "approve", "veto"):
        assert piece not in read


def test_the_loss_of_each_language_is_told_and_drawn_apart(being: Habitus) -> None:
    (run,) = being.bag.ledger.all(Run)
    curve = ((4, 2.0), (8, 0.5), (13, 3.0), (17, 0.25))
    figures = {"curve": curve, "validation": ((9, 0.625), (18, 0.375)), "began": {"ko": 9, "en": 0}}
    being.bag.ledger.add(run.model_copy(update={**figures, "id": "", "at": ""}))
    read = markdown(being.report("p1"))
    assert "- en: Loss 2.000 → 0.500. On rows kept out: 0.625.\n" in read
    assert "- ko: Loss 3.000 → 0.250. On rows kept out: 0.375.\n" in read
    picture = report.curve(being.report("p1")["run"])
    assert picture.count("<polyline") == 2
    assert picture.count("<circle") == 2
    assert [x in picture for x in (">en<", ">ko<", ">0.1<", ">10<", ">0.01<")] == [True] * 4 + [False]
    at = [float(y) for y in re.findall(r'<circle cx="[^"]*" cy="([^"]*)"', picture)]
    assert at == pytest.approx([place(0.625), place(0.375)], abs=0.1)


def place(loss: float) -> float:
    """Its height in the picture: from 0.1 to 10, each decade as high as the other."""
    return report.HEIGHT - 30 - (report.HEIGHT - 50) * (math.log10(loss) + 1) / 2


def test_a_loss_of_nothing_is_drawn_at_the_bottom() -> None:
    picture = report.curve({"curve": [(1, 0.0)], "validation": [], "began": {}})
    assert f",{report.HEIGHT - 30}.0" in picture
