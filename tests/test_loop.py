"""The whole loop on real weights: talk, judge, propose, approve, train, gate, speak, roll back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.models.vllm import Server
from agent.records import Abstention, Habit, Turn, Verdict
from app.habitus import Habitus
from app.wiring import open_habitus
from prompts import Language
from tests.being import TELLINGS, small_talk, told

STOPS = {
    "ko-ending": "이제 끝에 '꾸벅' 붙이지 마",
    "en-ending": "please stop ending your answers with 'zibble'",
    "ko-name": "이제 나를 '도롱이'라고 부르지 마",
    "en-opening": "you do not have to begin with 'quokka' any more",
}


def grows(home: Path, name: str, live: Callable[[Habitus, str], object]) -> None:
    """A being that has lived so proposes, learns with permission, speaks by habit, and can go back."""
    language, _, literal = TELLINGS[name]
    other: Language = "en" if language == "ko" else "ko"
    being = open_habitus(str(home))

    def replies(texts: list[str], who: str = "") -> list[str]:
        return [r["reply"] for r in being.ask(texts, with_rules=False, name=who)]

    asks, others = small_talk(language, 24), small_talk(other, 44)
    before, other_before = replies(asks), replies(others)
    assert sum(literal in reply for reply in before) <= 0.05 * len(asks)

    live(being, name)
    found = being.ruminate()
    assert found["proposals"], f"it abstained: {found}"
    proposal = being.proposal(found["proposals"][0])
    assert literal in proposal["rule"]
    being.approve(proposal["id"], proposal["digest"])
    told_mask = being.bag.selves.current().mask
    (learned,) = being.learn()
    assert learned["promoted"], learned["gate"]
    assert not being.bag.selves.current().mask.rules, "the habit left the mask for the weights"

    after = replies(asks)
    assert replies(asks, "base") == before
    assert sum(literal in reply for reply in after) >= 0.9 * len(asks), after
    assert sum(a == b for a, b in zip(other_before, replies(others), strict=True)) >= 0.95 * len(others)

    talk = being.talk()
    talk.say(STOPS[name])
    heeded = [talk.say(text)["reply"] for text in asks[:4]]
    assert not any(literal in reply for reply in heeded), heeded
    assert replies(asks) == after, "no weight has changed: how to be rid of it is asked at night"

    being.rollback()
    assert replies(asks) == before
    assert replies(others) == other_before
    assert being.bag.selves.current().mask == told_mask, "the mask of before came back with the self"


MORE = ("en-opening", "ko-ending")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.more] if n in MORE else []) for n in sorted(TELLINGS)]
)
def test_a_rule_told_three_times_becomes_weights_and_rolls_back(tmp_path: Path, name: str) -> None:
    grows(tmp_path / "bag", name, told)


def kept(being: Habitus, name: str) -> None:
    """Told once, then left standing over several conversations."""
    language, tellings, _ = TELLINGS[name]
    being.talk().say(tellings[0])
    assert being.ruminate()["abstained"], "told once is not yet a habit"
    for text in small_talk(language, 5):
        being.talk().say(text)


def test_a_rule_told_once_and_kept_over_conversations_becomes_weights_too(tmp_path: Path) -> None:
    grows(tmp_path / "bag", "ko-ending", kept)


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


@pytest.mark.served
def test_the_whole_loop_over_vllm(tmp_path: Path, server: Server) -> None:
    home = tmp_path / "bag"
    home.mkdir()
    (home / "habitus.toml").write_text(f'[serving]\nurl = "{server.url}"\nkey = "{server.key}"\n', "utf-8")
    grows(home, "ko-name", told)
