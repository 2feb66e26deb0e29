"""From logits to the next token, on plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

from agent.models.sampling import Sampler, bias_sequences, circling, looped
from agent.settings import GREEDY, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FREE = GREEDY.model_copy(update={"temperature": 1.0, "seed": 3})
CHANCES = (0.5, 0.3, 0.15, 0.05)


def drawn(
    tok: PreTrainedTokenizerFast,
    sampling: Sampling,
    scores: Sequence[float],
    context: Sequence[int] = (),
    reply: Any = (),
) -> int:
    """One draw from ``scores``, after ``context`` and then ``reply``."""
    before = torch.tensor([*context, *reply], dtype=torch.long)
    return Sampler(tok, sampling).draw(torch.tensor(scores), before, list(reply))


def met(tok: PreTrainedTokenizerFast, sampling: Sampling, times: int = 400) -> set[int]:
    """The tokens that come up when drawing from ``CHANCES`` again and again."""
    sampler, scores = Sampler(tok, sampling), torch.tensor(CHANCES).log()
    return {sampler.draw(scores, torch.tensor([], dtype=torch.long), []) for _ in range(times)}


def with_(sampling: Sampling, **change: Any) -> Sampling:
    return sampling.model_copy(update=change)


# -- logit bias --------------------------------------------------------------------------------


class Words:
    """A vocabulary's worth of logits in which one token stands out."""

    def __init__(self, tok: PreTrainedTokenizerFast, bias: float) -> None:
        self.tok = tok
        self.sampler = Sampler(tok, with_(GREEDY, logit_bias={"사유": bias}))

    def after(self, text: str, favourite: str, by: float = 3.0) -> str:
        """What is drawn after ``text`` when ``favourite`` leads by ``by``."""
        scores = torch.zeros(len(self.tok))
        (token,) = self.tok(favourite, add_special_tokens=False)["input_ids"]
        scores[token] = by
        context = torch.tensor(self.tok(text, add_special_tokens=False)["input_ids"])
        return str(self.tok.decode([self.sampler.draw(scores, context, [])]))


def test_a_bias_completes_the_word(tok: PreTrainedTokenizerFast) -> None:
    assert Words(tok, 5.0).after("좋은사", favourite="람") == "유"


def test_a_bias_leaves_the_pieces_of_the_word_alone(tok: PreTrainedTokenizerFast) -> None:
    for text in ("좋은", "자", "사유"):
        assert Words(tok, 5.0).after(text, favourite="람") == "람"


def test_minus_hundred_means_that_the_word_cannot_be_completed(tok: PreTrainedTokenizerFast) -> None:
    never = Words(tok, -100)
    for text in ("사", "좋은사", "좋은 사"):
        assert never.after(text, favourite="유", by=50.0) != "유"


def test_a_forbidden_words_pieces_stay_free(tok: PreTrainedTokenizerFast) -> None:
    never = Words(tok, -100)
    assert never.after("좋은 ", favourite="사") == "사"
    assert never.after("자", favourite="유") == "유"


def test_a_bias_is_as_strong_after_a_space(tok: PreTrainedTokenizerFast) -> None:
    assert Words(tok, 5.0).after("좋은사", favourite="람", by=7.0) == "람"
    assert Words(tok, 5.0).after("좋은 사", favourite="람", by=7.0) == "람"


def test_every_spelling_of_a_biased_word_reads_as_the_word(tok: PreTrainedTokenizerFast) -> None:
    found = bias_sequences(tok, {"사유": 5.0, "hello": -2.0, "뷁": 1.0})
    assert {tok.decode(list(ids)).strip(): bias for ids, bias in found.items()} == {"사유": 5, "hello": -2, "뷁": 1}


# -- penalties ---------------------------------------------------------------------------------


def test_without_temperature_the_best_is_drawn(tok: PreTrainedTokenizerFast) -> None:
    assert {drawn(tok, GREEDY, (1.0, 1.01, 0.5)) for _ in range(20)} == {1}


def test_frequency_penalises_each_occurrence(tok: PreTrainedTokenizerFast) -> None:
    penalised = with_(GREEDY, frequency_penalty=0.2)
    assert drawn(tok, penalised, (2.0, 1.5), reply=[0, 0]) == 0
    assert drawn(tok, penalised, (2.0, 1.5), reply=[0, 0, 0]) == 1


def test_presence_penalises_once(tok: PreTrainedTokenizerFast) -> None:
    assert drawn(tok, with_(GREEDY, presence_penalty=0.4), (2.0, 1.5), reply=[0, 0, 0]) == 0
    assert drawn(tok, with_(GREEDY, presence_penalty=0.6), (2.0, 1.5), reply=[0]) == 1


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_frequency_and_presence_look_at_the_reply_alone(tok: PreTrainedTokenizerFast, penalty: str) -> None:
    assert drawn(tok, with_(GREEDY, **{penalty: 2.0}), (2.0, 1.5), context=[0, 0], reply=[1]) == 0


def test_repetition_looks_at_the_prompt_too(tok: PreTrainedTokenizerFast) -> None:
    penalised = with_(GREEDY, repetition_penalty=1.5)
    assert drawn(tok, penalised, (2.0, 1.5), context=[0]) == 1
    assert drawn(tok, penalised, (2.0, 1.5), reply=[0]) == 1
    assert drawn(tok, penalised, (2.0, 1.5), context=[1]) == 0


def test_repetition_pushes_negative_scores_down(tok: PreTrainedTokenizerFast) -> None:
    assert drawn(tok, with_(GREEDY, repetition_penalty=1.5), (-1.0, -1.2), context=[0]) == 1


# -- what may be drawn -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.75}, {0, 1}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"temperature": 0.05}, {0}),
    ],
    ids=["all", "top_k", "top_p", "min_p", "cold"],
)
def test_only_the_likely_enough_are_drawn(tok: PreTrainedTokenizerFast, change: dict[str, Any], left: set[int]) -> None:
    assert met(tok, with_(FREE, **change)) == left


def test_a_seed_fixes_the_draws(tok: PreTrainedTokenizerFast) -> None:
    def thirty(seed: int) -> list[int]:
        sampler, scores = Sampler(tok, with_(FREE, seed=seed)), torch.zeros(100)
        return [sampler.draw(scores, torch.tensor([0]), []) for _ in range(30)]

    assert thirty(1) == thirty(1)
    assert thirty(1) != thirty(2)


# -- inside a tool call ------------------------------------------------------------------------


def constrained(
    tok: PreTrainedTokenizerFast, sampling: Sampling, scores: Sequence[float], allowed: Sequence[bool]
) -> int:
    return Sampler(tok, sampling).draw_constrained(torch.tensor(scores), torch.tensor(allowed))


def test_inside_a_call_only_legal_tokens_are_drawn(tok: PreTrainedTokenizerFast) -> None:
    assert constrained(tok, GREEDY, (9.0, 1.0, 2.0), (False, True, True)) == 2
    hot = with_(GREEDY, tool_temperature=2.0, seed=None)
    assert {constrained(tok, hot, (9.0, 0.0, 0.0), (False, True, True)) for _ in range(40)} == {1, 2}


def test_inside_a_call_the_temperature_of_talk_does_not_count(tok: PreTrainedTokenizerFast) -> None:
    hot = with_(GREEDY, temperature=2.0)
    assert {constrained(tok, hot, (0.1, 0.0), (True, True)) for _ in range(40)} == {0}


# -- losing oneself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["나를 " * 40, "그래요. " + "나를 '민지야 " * 14 + "나를", "a" * 100, "one two three. " * 7, "🚀" * 30]
)
def test_saying_the_same_over_and_over_is_a_loop(text: str) -> None:
    assert looped(text)


@pytest.mark.parametrize(
    "text", ["", "ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ", "|---|---|---|---|---|", "-" * 80, "안녕 " * 40 + "잘 지냈어?", "네. " * 3]
)
def test_laughing_a_table_and_what_finds_its_way_back_are_none(text: str) -> None:
    assert not looped(text)


def test_in_a_batch_only_the_rows_that_go_in_circles_stop() -> None:
    circle = torch.arange(7).repeat(20)[:130]
    straight = torch.arange(130)
    late = torch.cat([straight[:60], circle[:70]])
    assert circling(torch.stack([circle, straight, late])).tolist() == [True, False, False]
