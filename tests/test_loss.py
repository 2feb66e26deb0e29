"""What a training minimises, on numbers small enough to see."""

from __future__ import annotations

import math

import pytest
import torch

from agent.learning.train import Belief, divergence

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
