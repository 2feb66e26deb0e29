"""From logits to the next token: the whole sampling table, in the order vLLM applies it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from agent.settings import Sampling

NEVER = -1e9
PIECE, TIMES, LEAST = 180, 4, 100  # a loop: a piece of so many bytes at most, so often, over so many in all


def looped(text: str) -> bool:
    """Whether ``text`` ends in one piece said over and over: a model that has lost itself does not find out by itself."""
    raw = text.encode()  # a syllable or an emoji may be several tokens
    for n in range(1, PIECE + 1):
        times = max(TIMES, -(-LEAST // n))
        if len(raw) >= n * times and raw.endswith(raw[-n:] * times):
            return True
    return False


def circling(ids: torch.Tensor) -> torch.Tensor:
    """``looped`` for tokens: which rows ``[rows]`` of ``ids [rows, tokens]`` have said the same for ``LEAST`` tokens."""
    import torch

    found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    if ids.shape[1] % 10 == 0:  # now and then is soon enough
        for n in range(1, LEAST // TIMES + 1):
            if ids.shape[1] >= LEAST + n:
                found |= (ids[:, -LEAST:] == ids[:, -LEAST - n : -n]).all(-1)
    return found


def bias_sequences(tok: PreTrainedTokenizerFast, words: dict[str, float]) -> dict[tuple[int, ...], float]:
    """Token sequences that spell each word, at a text's start and after a space, with their bias.

    Only the token that completes the word is biased, so words sharing its pieces are untouched;
    −100 and below means that the word can never be completed.
    """
    found: dict[tuple[int, ...], float] = {}
    for word, bias in words.items():
        value = NEVER if bias <= -100 else float(bias)
        alone = tuple(tok(word, add_special_tokens=False)["input_ids"])
        spaced = tuple(tok(f" {word}", add_special_tokens=False)["input_ids"])
        if alone:
            found[alone] = value
        if spaced and spaced[-len(alone) :] != alone:  # else the shorter sequence covers it already
            found[spaced] = value
    return found


class Sampler:
    """Draws the next token of one reply.

    ``scores`` are float32 logits ``[vocabulary]``; ``context`` is prompt + reply so far ``[length]``.
    """

    def __init__(self, tok: PreTrainedTokenizerFast, sampling: Sampling) -> None:
        import torch
        from transformers import (
            MinPLogitsWarper,
            RepetitionPenaltyLogitsProcessor,
            SequenceBiasLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        self.sampling = sampling
        self._random: Any = None
        if sampling.seed is not None:
            self._random = torch.Generator().manual_seed(sampling.seed)
        self._steps: list[tuple[str, Any]] = []
        if bias := bias_sequences(tok, sampling.logit_bias):
            self._steps.append(("logit_bias", SequenceBiasLogitsProcessor(bias)))
        if sampling.repetition_penalty != 1:
            self._steps.append(("repetition_penalty", RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)))
        if sampling.frequency_penalty or sampling.presence_penalty:
            self._steps.append(("frequency_penalty, presence_penalty", None))
        if sampling.temperature > 0:
            self._steps.append(("temperature", TemperatureLogitsWarper(float(sampling.temperature))))
            if sampling.min_p:
                self._steps.append(("min_p", MinPLogitsWarper(sampling.min_p)))
            if sampling.top_k:
                self._steps.append(("top_k", TopKLogitsWarper(sampling.top_k)))
            if sampling.top_p < 1:
                self._steps.append(("top_p", TopPLogitsWarper(sampling.top_p)))

    def draw(self, scores: torch.Tensor, context: torch.Tensor, reply: list[int]) -> int:
        """The next token of a free reply."""
        last = scores
        for _, found in self.steps(scores, context, reply):
            last = found
        return self._pick(last, self.sampling.temperature)

    def steps(
        self, scores: torch.Tensor, context: torch.Tensor, reply: list[int]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """What each value of the table makes of the scores, one after the other."""
        import torch

        for name, process in self._steps:
            if process is not None:
                scores = process(context[None, :], scores[None, :])[0]
            elif reply:
                s = self.sampling
                seen, counts = torch.tensor(reply, device=scores.device).unique(return_counts=True)
                scores = scores.clone()
                scores[seen] -= s.frequency_penalty * counts + s.presence_penalty
            yield name, scores

    def draw_constrained(self, scores: torch.Tensor, allowed: torch.Tensor) -> int:
        """The next token inside a tool call: only ``allowed`` ones (bool ``[vocabulary]``), no penalties."""
        scores = scores.masked_fill(~allowed, float("-inf"))
        t = self.sampling.tool_temperature
        return self._pick(scores / t if t > 0 else scores, t)

    def _pick(self, scores: torch.Tensor, temperature: float) -> int:
        import torch

        if temperature <= 0:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1).cpu(), 1, generator=self._random))
