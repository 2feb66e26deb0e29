"""The one page of protocols: what the rest of Habitus needs from a model, and nothing more."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from langchain_core.language_models import BaseChatModel
    from transformers import PreTrainedTokenizerFast

    from agent.settings import Sampling

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: chat messages and the tools offered (JSON-schema function form)."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    salt: str = ""  # prompts of another salt share no cache with this one


@dataclass(frozen=True)
class Voice:
    """Which weights speak: adapter directories with their weights over the base; none is the base itself."""

    parts: tuple[tuple[Path, float], ...] = ()


BASE = Voice()


class Usage(NamedTuple):
    """Tokens that one reply took."""

    read: int
    said: int


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

    @property
    def tok(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        ...

    @property
    def context(self) -> int:
        """Tokens it can read and say together."""
        ...

    @property
    def sees(self) -> bool:
        """Whether it can look at pictures."""
        ...

    def chat(self, voice: Voice, sampling: Sampling, salt: str = "") -> BaseChatModel:
        """A LangChain chat model that speaks as ``voice``; ``salt`` as in ``Prompt``."""
        ...

    def ready(self, voice: Voice) -> None:
        """Take what ``voice`` needs, so that it can speak at once, and make sure that it is its weights that do.

        Raises:
            ModelError: it cannot speak. Who spoke before goes on.
        """
        ...

    def resting(self) -> AbstractContextManager[None]:
        """While inside, nothing is asked of it and a training may have its GPU; others are told that it sleeps."""
        ...

    def stream(
        self, prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto"
    ) -> Generator[str, None, Usage]:
        """One reply, piece by piece; tool calls come as Llama-3 JSON text. Closing it ends the reply."""
        ...

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        """One greedy reply to each prompt, unpenalised and unbiased, batched."""
        ...

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        """For each reply: the share of its tokens that ``voice``, forced along it, would have chosen first."""
        ...

    def text_of(self, prompt: Prompt) -> str:
        """The raw text that the model reads."""
        ...

    def ids_of(self, prompt: Prompt) -> list[int]:
        """Its tokens."""
        ...

    def next(self, prompt: Prompt, voice: Voice) -> torch.Tensor:
        """Log-probabilities ``[vocabulary]`` of the first token of a reply, before any sampling."""
        ...

    def count(self, text: str) -> int:
        """Tokens in ``text``."""
        ...
