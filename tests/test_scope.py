"""Weights are worn as mask lines are shown: inside their scope only."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.ports import BASE, Voice
from agent.records import Part
from agent.selves import digest_of, worn
from prompts import Language

BAG = Path("bag")
CORE, FRESH = BAG / "adapters" / "core", BAG / "adapters" / "fresh"


@pytest.mark.parametrize(
    ("language", "voice"),
    [
        ("ko", Voice(((CORE / "core-ko", 1.0),))),
        ("en", Voice(((CORE / "core-en", 0.5), (FRESH / "fresh-en", 1.0)))),
    ],
)
def test_an_adapter_is_worn_where_a_habit_of_its_lies(language: Language, voice: Voice) -> None:
    parts = (
        Part(habit="h1", adapter="core", weight=1.0, scope=("ko",)),
        Part(habit="h2", adapter="core", weight=0.5, scope=("en",)),
        Part(habit="h3", adapter="fresh", stage="fresh", scope=("en",)),
    )
    assert worn(BAG, parts, language) == voice


def test_outside_every_scope_the_base_speaks() -> None:
    assert worn(BAG, (Part(habit="h1", adapter="core", scope=("en",)),), "ko") == BASE


def test_only_weights_of_a_language_count_in_an_adapter(tmp_path: Path) -> None:
    def made(*languages: str) -> str:
        for x in languages:
            (tmp_path / f"a-p1-{x}").mkdir()
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                (tmp_path / f"a-p1-{x}" / name).write_text(x)
        return digest_of(tmp_path)

    one, both = made("ko"), made("en")
    (tmp_path / "@eaDir").mkdir()  # a network drive's own
    assert digest_of(tmp_path) == both != one
    for a, b in (("ko", "x"), ("en", "ko"), ("x", "en")):
        (tmp_path / f"a-p1-{a}").rename(tmp_path / f"a-p1-{b}")
    assert digest_of(tmp_path) != both, "each in its own place"
