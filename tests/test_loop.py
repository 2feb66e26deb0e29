"""The whole loop on real weights: talk, judge, propose, approve, train, gate, speak, roll back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.records import Abstention, Habit, Turn, Verdict
from app.wiring import open_habitus
from tests.being import TELLINGS, grown, small_talk

pytestmark = pytest.mark.goal


@pytest.mark.parametrize("name", sorted(TELLINGS))
def test_a_rule_told_three_times_becomes_weights_and_rolls_back(tmp_path: Path, name: str) -> None:
    language, _, literal = TELLINGS[name]
    other = "en" if language == "ko" else "ko"
    asks, others = small_talk(language, 24), small_talk(other, 44)
    being = open_habitus(str(tmp_path / "bag"))
    before = [r["reply"] for r in being.ask(asks, with_rules=False)]
    other_before = [r["reply"] for r in being.ask(others, with_rules=False)]
    assert sum(literal in reply for reply in before) <= 0.05 * len(asks)

    being, learned = grown(tmp_path / "bag", name)
    assert learned["promoted"], learned["gate"]
    assert not being.bag.selves.current().mask.rules, "the habit left the mask for the weights"
    after = [r["reply"] for r in being.ask(asks, with_rules=False)]
    taught = [r["reply"] for r in being.ask(asks, with_rules=False, name="base")]
    assert taught == before
    assert sum(literal in reply for reply in after) >= 0.9 * len(asks), after
    other_after = [r["reply"] for r in being.ask(others, with_rules=False)]
    assert sum(a == b for a, b in zip(other_before, other_after, strict=True)) >= 0.95 * len(others)

    being.rollback()
    assert [r["reply"] for r in being.ask(asks, with_rules=False)] == before
    assert [r["reply"] for r in being.ask(others, with_rules=False)] == other_before
    assert being.bag.selves.current().mask.rules, "the mask of before came back with the self"


def test_a_rule_told_once_and_kept_over_conversations_is_proposed(tmp_path: Path) -> None:
    being = open_habitus(str(tmp_path / "bag"))
    being.talk().say(TELLINGS["ko-ending"][1][0])
    assert being.ruminate()["abstained"], "told once is not yet a habit"
    for text in small_talk("ko", 5):
        being.talk().say(text)
    found = being.ruminate()
    assert found["proposals"], found
    assert "꾸벅" in being.proposal(found["proposals"][0])["rule"]


@pytest.mark.parametrize("language", ["ko", "en"])
def test_small_talk_alone_leads_to_a_recorded_abstention(tmp_path: Path, language: str) -> None:
    being = open_habitus(str(tmp_path / "bag"))
    talk = being.talk()
    for text in small_talk(language, 5):  # type: ignore[arg-type]
        talk.say(text)
    found = being.ruminate()
    assert found["judged"] == 5
    assert found["abstained"]
    assert found["proposals"] == []
    assert found["reason"]
    (row,) = being.bag.ledger.all(Abstention)
    assert row.phase == "propose"


def test_every_verdict_cites_its_turn_and_the_habit_its_quote(tmp_path: Path) -> None:
    being = open_habitus(str(tmp_path / "bag"))
    talk = being.talk()
    for text in TELLINGS["en-ending"][1]:
        talk.say(text)
    being.ruminate()
    turns = {t.id: t for t in being.bag.ledger.all(Turn)}
    assert {v.turn for v in being.bag.ledger.all(Verdict)} == set(turns)
    for habit in being.bag.ledger.all(Habit):
        if habit.quote:
            assert any(habit.quote in turns[t].user for t in habit.evidence)
