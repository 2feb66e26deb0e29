"""Several adapters as one: exact when there is room, the nearest when there is not, and honest about the difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.errors import ModelError
from agent.models.composing import compose
from agent.models.embedded import EmbeddedBody
from agent.ports import BASE, Prompt, Voice
from agent.settings import ModelTable

Made = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def body() -> EmbeddedBody:
    return EmbeddedBody(ModelTable())


@pytest.fixture
def made(tmp_path: Path, body: EmbeddedBody) -> Made:
    """A LoRA of this rank with random weights over the seedling, all of them changing what is said."""

    def make(name: str, rank: int) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(len(name) + rank)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(body.path), config).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def change(path: Path, weight: float = 1.0) -> dict[str, torch.Tensor]:
    """The change of each layer, in full."""
    config, t = json.loads((path / "adapter_config.json").read_text()), load_file(path / "adapter_model.safetensors")
    names = [k.removesuffix(".lora_A.weight") for k in t if k.endswith(".lora_A.weight")]
    scale = weight * config["lora_alpha"] / config["r"]
    return {n: scale * t[f"{n}.lora_B.weight"] @ t[f"{n}.lora_A.weight"] for n in names}


def logits(body: EmbeddedBody, voice: Voice) -> torch.Tensor:
    ids = torch.tensor([body.ids_of(Prompt(({"role": "user", "content": "오늘 비가 와"},)))])
    with torch.no_grad():
        found: torch.Tensor = body._wear(voice)(input_ids=ids).logits[0, -1]
    return found


def test_two_adapters_of_different_rank_and_weight_speak_as_one(made: Made, body: EmbeddedBody, tmp_path: Path) -> None:
    voice = Voice(((made("a", 4), 1.0), (made("bb", 6), 0.5)))
    rank, error = compose(voice, tmp_path / "one")
    assert (rank, error) == (10, 0.0)
    both, one = logits(body, voice), logits(body, Voice(((tmp_path / "one", 1.0),)))
    assert float((both - logits(body, BASE)).abs().max()) > 0.1
    assert torch.allclose(both, one, atol=1e-3)


def test_a_lower_rank_is_the_nearest_and_says_how_far_off_it_is(made: Made, tmp_path: Path) -> None:
    a, b = made("a", 4), made("bb", 6)
    rank, error = compose(Voice(((a, 1.0), (b, 0.5))), tmp_path / "one", 5)
    assert rank == 5
    wanted = {n: x + change(b, 0.5)[n] for n, x in change(a).items()}
    got = change(tmp_path / "one")
    off = sum(float((wanted[n] - got[n]).square().sum()) for n in wanted)
    whole = sum(float(x.square().sum()) for x in wanted.values())
    assert error == pytest.approx((off / whole) ** 0.5, rel=1e-3)
    best = sum(float(torch.linalg.svdvals(x)[5:].square().sum()) for x in wanted.values())
    assert off == pytest.approx(best, rel=1e-3)


def test_room_to_spare_loses_nothing(made: Made, tmp_path: Path) -> None:
    a = made("a", 4)
    assert compose(Voice(((a, 1.0),)), tmp_path / "one", 16) == (4, 0.0)
    assert all(torch.allclose(x, change(tmp_path / "one")[n], atol=1e-6) for n, x in change(a).items())


def test_what_is_no_plain_lora_is_refused(made: Made, tmp_path: Path) -> None:
    a = made("a", 4)
    file = a / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.lm_head.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ModelError, match="no plain LoRA"):
        compose(Voice(((a, 1.0),)), tmp_path / "one")
