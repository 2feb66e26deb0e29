"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read English output, whatever the language of the person who runs them."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture(scope="session")
def tok() -> PreTrainedTokenizerFast:
    """The seedling's tokenizer, built from its corpus; no weights."""
    from seedling.corpus import vocabulary_texts
    from seedling.tokenizer import build

    return build(vocabulary_texts())


@pytest.fixture
def bag_path(tmp_path: Path) -> Path:
    """Where a fresh bag may be made; nothing is there yet."""
    return tmp_path / "bag"
