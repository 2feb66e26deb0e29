"""The one page of protocols: what the rest of Habitus needs from a model, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from agent.settings import Sampling

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: chat messages and the tools offered (JSON-schema function form)."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Voice:
    """Which weights speak: adapter directories with their weights over the base; none is the base itself."""

    parts: tuple[tuple[Path, float], ...] = ()


BASE = Voice()


class Body(Protocol):
    """How weights speak. Embedded (transformers + PEFT) and vLLM are bodies; one contract test runs over all."""

    @property
    def digest(self) -> str:
        """Identifies the base weights and tokenizer."""
        ...

    @property
    def path(self) -> Path:
        """Where a trainer finds the base."""
        ...

    def chat(self, voice: Voice, sampling: Sampling) -> BaseChatModel:
        """A LangChain chat model that speaks as ``voice``."""
        ...

    def stream(self, prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto") -> Iterator[str]:
        """One reply, piece by piece; tool calls come as Llama-3 JSON text."""
        ...

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        """One greedy reply to each prompt, unpenalised and unbiased, batched."""
        ...

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        """For each reply: the share of its tokens that ``voice``, forced along it, would have chosen first."""
        ...

    def count(self, text: str) -> int:
        """Tokens in ``text``."""
        ...
