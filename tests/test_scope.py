"""Weights are worn as mask lines are shown: inside their scope only."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.ports import BASE, Voice
from agent.records import Part
from agent.selves import worn
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
