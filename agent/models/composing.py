"""Several adapters with weights as one: what a server that wears a single LoRA of a given rank can speak with.

``cat`` puts the factors side by side and is exact. ``svd`` keeps the largest singular values of each layer's
change, the nearest of that rank (Eckart & Young 1936), and says how far off it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError
from agent.ports import Voice

if TYPE_CHECKING:
    import torch

    Factors = tuple[torch.Tensor, torch.Tensor]  # A [r, in], B [out, r]; the change of a layer is B·A
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def compose(voice: Voice, out: Path, rank: int = 0) -> tuple[int, float]:
    """Write ``voice`` as one adapter to ``out``; its rank, and its error.

    Args:
        rank: the highest that can be served; 0, or no lower than what there is, composes exactly.

    Returns:
        The rank, and ‖what it lacks‖ / ‖the whole change‖ in the Frobenius norm over all layers.

    Raises:
        ModelError: an adapter is no plain LoRA.
    """
    import torch
    from safetensors.torch import save_file

    layers: dict[str, list[Factors]] = {}
    for path, weight in voice.parts:
        for name, factors in _factors(path, weight):
            layers.setdefault(name, []).append(factors)
    whole = {name: (torch.cat([a for a, _ in f]), torch.cat([b for _, b in f], 1)) for name, f in layers.items()}
    most = max(len(a) for a, _ in whole.values())
    lost = total = 0.0
    if 0 < rank < most:
        for name, factors in whole.items():
            whole[name], gone, there = _nearest(*factors, rank)
            lost, total = lost + gone, total + there
        most = rank
    tensors: dict[str, torch.Tensor] = {}
    for name, (a, b) in whole.items():  # PEFT wants one rank throughout; zeros change nothing
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, most - len(a))).contiguous()
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(b, (0, most - len(a))).contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    config = _config(voice.parts[0][0]) | {"r": most, "lora_alpha": most, "rank_pattern": {}, "alpha_pattern": {}}
    config |= {"target_modules": sorted({name.rsplit(".", 1)[-1] for name in whole}), "use_rslora": False}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    return most, math.sqrt(lost / total) if total else 0.0


def still(base: Path, out: Path) -> None:
    """Write an adapter that changes nothing to ``out``: zeros, in one layer of the Llama in ``base``."""
    import torch
    from safetensors.torch import save_file

    table = json.loads((base / "config.json").read_text("utf-8"))
    table = table.get("text_config", table)
    width, heads = table["hidden_size"], table["num_attention_heads"]
    rows = heads * (table.get("head_dim") or width // heads)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"{layer}.lora_A.weight": torch.zeros(1, width), f"{layer}.lora_B.weight": torch.zeros(rows, 1)}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "bias": "none"}
    config |= {"target_modules": ["q_proj"]}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _factors(path: Path, weight: float) -> Iterator[tuple[str, Factors]]:
    """Each layer's factors, with scale and weight in B."""
    from safetensors.torch import load_file

    config, tensors = _config(path), load_file(path / WEIGHTS)
    if config.get("use_dora") or any(".lora_A." not in k and ".lora_B." not in k for k in tensors):
        raise ModelError(
            "The adapter {adapter} is no plain LoRA; it cannot be put together with others.", adapter=path.name
        )
    for key, a in tensors.items():
        if ".lora_A." not in key:
            continue
        name, rank = key.removesuffix(".lora_A.weight"), len(a)
        scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        yield name, (a.float(), tensors[f"{name}.lora_B.weight"].float() * scale * weight)


def _nearest(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[Factors, float, float]:
    """The nearest factors of this rank, and the squared norms of what is lost and of the whole.

    By QR of both factors the product itself, as large as the layer, is never formed.
    """
    import torch

    qa, ra = torch.linalg.qr(a.T)
    qb, rb = torch.linalg.qr(b)
    u, s, vt = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    root = s[:rank].sqrt()
    near = (root[:, None] * (vt[:rank] @ qa.T), (qb @ u[:, :rank]) * root)
    return near, float(s[rank:].square().sum()), float(s.square().sum())


def _config(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / CONFIG).read_text("utf-8"))
    return found
