"""What graphs get through the LangGraph runtime: services, never state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.bag import Bag

Progress = Callable[[str, dict[str, Any]], None]


def silent(what: str, details: dict[str, Any]) -> None:
    """No progress shown."""


@dataclass(frozen=True)
class Context:
    """The open bag and where progress goes."""

    bag: Bag
    progress: Progress = silent
