"""Who speaks, when several talk and several processes have the bag open."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from agent.records import Self
from app.habitus import Habitus
from tests.being import scripted


def opened(home: Path, temperature: float) -> Habitus:
    """A process that has read these settings."""
    home.mkdir(exist_ok=True)
    (home / "habitus.toml").write_text(f"[sampling]\ntemperature = {temperature}\n", "utf-8")
    return scripted(home, lambda prompt: "네.")


def test_of_two_processes_with_other_settings_the_later_has_its_way(tmp_path: Path) -> None:
    early = opened(tmp_path / "bag", 0.1)
    early.talk().say("안녕")
    late = opened(tmp_path / "bag", 0.2)
    for _ in range(3):
        late.talk().say("안녕")
        early.talk().say("안녕")
    assert [s.sampling["temperature"] for s in late.bag.ledger.all(Self)] == [0.1, 0.2]


def test_many_first_words_after_a_change_make_one_self(tmp_path: Path) -> None:
    opened(tmp_path / "bag", 0.1).talk().say("안녕")
    being = opened(tmp_path / "bag", 0.2)
    being.bag.body.count("")  # opened, so that all begin at once
    talkers = [threading.Thread(target=being.talk().say, args=("안녕",)) for _ in range(8)]
    for t in talkers:
        t.start()
    for t in talkers:
        t.join()
    assert len(being.bag.ledger.all(Self)) == 2


def test_settings_are_put_on_over_what_was_changed_meanwhile(tmp_path: Path) -> None:
    other = opened(tmp_path / "bag", 0.1)
    other.talk().say("안녕")
    being = opened(tmp_path / "bag", 0.2)
    change = being.bag.selves._change

    def beaten(*arguments: Any) -> Self:
        other.mask_add("끝에 '멍'을 붙여 줘.")
        return change(*arguments)

    being.bag.selves._change = beaten  # type: ignore[method-assign]
    being.talk().say("안녕")
    now = being.bag.selves.current()
    assert (now.sampling["temperature"], [r.text for r in now.mask.rules]) == (0.2, ["끝에 '멍'을 붙여 줘."])
