"""From logits to the next token: the whole sampling table, in the order vLLM applies it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import LogitsProcessor, PreTrainedTokenizerFast

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
        before: list[LogitsProcessor] = []
        if bias := bias_sequences(tok, sampling.logit_bias):
            before.append(SequenceBiasLogitsProcessor(bias))
        if sampling.repetition_penalty != 1:
            before.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        after: list[LogitsProcessor] = []
        if sampling.temperature > 0:
            after.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.min_p:
                after.append(MinPLogitsWarper(sampling.min_p))
            if sampling.top_k:
                after.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                after.append(TopPLogitsWarper(sampling.top_p))
        self._before, self._after = before, after

    def draw(self, scores: torch.Tensor, context: torch.Tensor, reply: list[int]) -> int:
        """The next token of a free reply."""
        import torch

        batch, ids = scores[None, :], context[None, :]
        for process in self._before:
            batch = process(ids, batch)
        s = self.sampling
        if reply and (s.frequency_penalty or s.presence_penalty):
            seen, counts = torch.tensor(reply, device=scores.device).unique(return_counts=True)
            batch = batch.clone()
            batch[0, seen] -= s.frequency_penalty * counts + s.presence_penalty
        for process in self._after:
            batch = process(ids, batch)
        return self._pick(batch[0], s.temperature)

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
