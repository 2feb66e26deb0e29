"""What a training minimises, on numbers small enough to see."""

from __future__ import annotations

import math

import pytest
import torch

from agent.learning.train import Belief, desirability, divergence, preference

SAID, RIVAL, OTHER = 0, 1, 2


def belief(lead: float) -> Belief:
    """A teacher that says SAID nearly surely, where RIVAL would be said otherwise."""
    return Belief(
        torch.tensor([[math.log(0.998), math.log(0.001)]]),
        torch.tensor([[SAID, RIVAL]]),
        torch.ones(1),
        torch.tensor([[RIVAL]]),
        torch.tensor([[lead]]),
    )


def student(ahead: float) -> torch.Tensor:
    """Prefers SAID to RIVAL by so many nats."""
    return torch.tensor([[ahead, 0.0, -5.0]]).log_softmax(-1)


def test_saying_what_the_teacher_says_costs_nothing_without_a_margin() -> None:
    exact = torch.tensor([[0.998, 0.001, 0.001]]).log()
    assert float(divergence(exact, belief(0.0))) == pytest.approx(0, abs=1e-5)


def test_a_narrow_win_costs_while_the_rival_has_its_head_start() -> None:
    assert float(divergence(student(4.0), belief(0.0))) < 0.05
    assert float(divergence(student(4.0), belief(4.0))) > 0.5
    assert float(divergence(student(11.0), belief(4.0))) < 0.05


def test_the_head_start_pushes_against_the_rival_only() -> None:
    said = student(4.0).requires_grad_()
    divergence(said, belief(4.0)).sum().backward()
    assert said.grad is not None
    slope = said.grad[0]
    assert slope[RIVAL] > 0.3, "down with what would be said otherwise"
    assert slope[SAID] < -0.3, "up with what the teacher says"
    assert abs(float(slope[OTHER])) < 0.01


# -- preferences ---------------------------------------------------------------------------------

EVEN = torch.zeros(2)


def test_a_preference_costs_ln_2_before_anything_is_learned_and_less_the_further_apart() -> None:
    assert float(preference(EVEN, EVEN, 0.1)) == pytest.approx(math.log(2))
    costs = [float(preference(torch.full((2,), x), torch.full((2,), -x), 0.1)) for x in (-5.0, 0.0, 5.0, 50.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.001


def test_desirability_weighs_each_answer_by_itself() -> None:
    still = torch.zeros(())
    assert float(desirability(EVEN, EVEN, 0.1, still)) == pytest.approx(0.5)
    wanted_alone = float(desirability(torch.full((2,), 50.0), EVEN, 0.1, still))
    rejected_alone = float(desirability(EVEN, torch.full((2,), -50.0), 0.1, still))
    assert wanted_alone == pytest.approx(rejected_alone, abs=1e-4)
    assert 0.24 < wanted_alone < 0.26
    drifted = torch.tensor(50.0)
    assert float(desirability(drifted.expand(2), EVEN, 0.1, drifted)) < 0.26, (
        "likelier like all else is not wanted more"
    )
