"""A body that says what it is told to: for tests and for showing that decisions are the model's.

Small and honest: it has no weights, so it cannot learn; ``decide`` gets each prompt and gives the
text a model would have given, a tool call included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from agent.ports import Prompt, Usage, Voice

if TYPE_CHECKING:
    import torch
    from langchain_core.language_models import BaseChatModel

    from agent.settings import Sampling


class ScriptedBody:
    """See ``agent.ports.Body``."""

    context = 4096
    sees = False
    digest = "scripted"
    path = Path("scripted")

    def __init__(self, decide: Callable[[Prompt], str]) -> None:
        self.decide = decide

    def chat(self, voice: Voice, sampling: Sampling, salt: str = "") -> BaseChatModel:
        from agent.models.chat import HabitusChat

        return HabitusChat(body=self, voice=voice, sampling=sampling, salt=salt, streaming=True)

    def resting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ready(self, voice: Voice) -> None:
        pass

    def stream(
        self, prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto"
    ) -> Generator[str, None, Usage]:
        said = self.decide(prompt)
        yield said
        return Usage(sum(self.count(str(m["content"])) for m in prompt.messages), self.count(said))

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        return [self.decide(p) for p in prompts]

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        return [float(self.decide(p) == r) for p, r in zip(prompts, replies, strict=True)]

    def next(self, prompt: Prompt, voice: Voice) -> torch.Tensor:
        raise NotImplementedError("it has no weights")

    def ids_of(self, prompt: Prompt) -> list[int]:
        words = [str(m["content"]) for m in prompt.messages] + [json.dumps(t) for t in prompt.tools]
        return list(range(self.count(" ".join(words))))

    def count(self, text: str) -> int:
        return len(text.split())
