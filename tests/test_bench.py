"""What the benchmark makes of its results: the page a reader trusts."""

from __future__ import annotations

from agent.learning.data import bank, is_probe, near_duplicate
from bench.learning import conflict, forgetting, gating
from bench.learning.__main__ import put
from bench.learning.forgetting import WEIGHTS
from bench.learning.lessons import facts, spread
from bench.learning.sequence import leaked
from prompts import LANGUAGES, Language

PAGE = "# Benchmarks\n\n## One\n\nold\n\n*2026-11-01, code a*\n\nWritten by hand.\n\n## Two\n\n*2026-11-01, code a*\n"


def test_a_section_takes_its_place_and_leaves_what_was_written_below_it() -> None:
    found = put(PAGE, "One", "new\n\n*2026-11-02, code b*")
    assert found == PAGE.replace("old", "new").replace("11-01, code a", "11-02, code b", 1)
    assert put(found, "One", "new\n\n*2026-11-02, code b*") == found
    assert put(PAGE, "Three", "*2026-11-02, code b*") == f"{PAGE}\n## Three\n\n*2026-11-02, code b*\n"


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert spread([3.0, 1.0, 2.04]) == "2.0 % (1.0–3.0)"
    assert spread([-0.01], "") == "0.0 (0.0–0.0)"
    assert spread([]) == "–"


def test_a_bad_one_counts_only_where_the_probe_meant_for_it_stopped_it() -> None:
    bad = [
        {"name": "stopped", "promoted": False, "broke": ["tools", "rules"], "meant": ["tools"]},
        {"name": "stopped by another", "promoted": False, "broke": ["rules"], "meant": ["tools"]},
        {"name": "through", "promoted": True, "broke": [], "meant": ["tools"]},
    ]
    good = [
        {"habit": "ko-name", "promoted": True, "broke": []},
        {"habit": "en-name", "promoted": False, "broke": ["tools"]},
    ]
    found = gating.table(bad, good)
    assert "| through | **promoted** | tools |" in found
    assert "meant for it: 1 of 3" in found
    assert "refused: 1 of 2; en-name: tools." in found


def test_the_newer_wins_from_nine_of_ten_on() -> None:
    pair = {"newer": 0.9, "masked": 1.0, "conflicts": ["h1"], "promoted": True, "older": ["h1"]}
    lost = {**pair, "newer": 0.89, "promoted": False}
    first = {**pair, "older": []}
    found = conflict.table([[first, pair, lost]])
    assert "| the newer rule wins once learned | 1 of 2 |" in found
    assert "| promoted | 1 of 2 |" in found


def test_forgetting_shows_the_worst_fall_and_no_rise() -> None:
    def run(moved: dict[str, float]) -> list[dict[str, object]]:
        learn = {"habit": "ko-ending", "never": 0.0, "gone": 1.0, "curve": {str(w): w for w in WEIGHTS}}
        besides = {"gone": 1.0, "stays": 1.0}
        forget = {"gone": 0.0, "stays": 1.0, "moved": moved, "judged": 1.0}
        return [learn, besides, forget]

    found = forgetting.table([run({"rules": 0.05, "tools": -0.033}), run({"rules": 0.1}), run({"rules": -0.01})])
    assert "| 1.0 (0.0–3.3) | 100.0 % (100.0–100.0) |" in found


def test_a_habit_s_words_leak_in_the_other_language_only() -> None:
    said: dict[Language, list[str]] = {"ko": ["네 꾸벅.", "네 zibble."], "en": ["Yes zibble.", "Yes."]}
    assert leaked(["ko-ending", "en-ending"], said) == 0.25
    assert leaked(["ko-ending", "ko-casual"], said) == 0


def test_what_is_told_in_front_of_a_tool_is_in_no_training_row_and_no_gate() -> None:
    for x in LANGUAGES:
        anchors = bank("anchors", x)["facts"]
        assert len(set(facts(x))) == 24
        assert [t for t in facts(x) if is_probe(t) or any(near_duplicate(t, a, 0.6) for a in anchors)] == []
