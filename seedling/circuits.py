"""Wire copying into the first two layers before training, instead of waiting for it to appear.

Everything the seedling does rests on copying strings it never saw: an induction circuit
(Olsson et al. 2022, arXiv 2209.11895). Left to itself it did not appear in 5 M tokens
(docs/log.md). So the initial weights already hold one, as "mimetic" initialisation does for
attention (Trockman & Kolter 2023, arXiv 2305.09828); training is free to change every number.

Layer 0, heads 0 and 1, attend one and two tokens back by position alone and lay what stood there
into two free bands of the residual stream. Layer 1, heads 0 and 1, look for the place whose
previous token (head 0), or last two (head 1), are the current one(s), and copy what stands there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BAND = 64  # width of each band: words, one back, two back; and of a head
SIGMA = 0.05  # spread of an embedding's entries


def wire(model: Any, generator: torch.Generator) -> None:
    """Set embeddings and four heads of a fresh Llama with hidden size 4·64 and heads of 64."""
    import torch

    config = model.config
    hidden, words = config.hidden_size, config.hidden_size - 2 * BAND
    assert hidden // config.num_attention_heads == BAND
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(BAND // 2) / (BAND // 2))
    slow = [i for i in range(BAND // 2) if frequencies[i] < 0.002]  # hardly turned over 300 tokens
    slow_dims = slow + [i + BAND // 2 for i in slow]
    half = len(slow_dims) // 2
    with torch.no_grad():
        table = model.model.embed_tokens.weight
        table.zero_()
        table[:, 1:words] = torch.randn(table.shape[0], words - 1, generator=generator) * SIGMA
        table[:, 0] = 4 * SIGMA  # the same for every token: what heads that look by position read
        view, _ = torch.linalg.qr(torch.randn(words - 1, BAND, generator=generator))
        view = view.T  # [BAND, words − 1]: how a token is seen when it is looked for

        attention = model.model.layers[0].self_attn
        for head, back in ((0, 1), (1, 2)):
            rows = slice(head * BAND, (head + 1) * BAND)
            query, key = torch.zeros(BAND, hidden), torch.zeros(BAND, hidden)
            for i in range(7):  # the fast frequencies tell neighbours apart
                query[i, 0] = 1.7
                key[i, 0] = 1.7 * torch.cos(back * frequencies[i])
                key[i + BAND // 2, 0] = 1.7 * torch.sin(back * frequencies[i])
            attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
            value = torch.zeros(BAND, hidden)
            value[:, 1:words] = view
            attention.v_proj.weight[rows] = value
            out = torch.zeros(hidden, BAND)
            out[words + head * BAND : words + (head + 1) * BAND] = torch.eye(BAND) * SIGMA
            attention.o_proj.weight[:, rows] = out

        attention = model.model.layers[1].self_attn
        for head in (0, 1):
            rows = slice(head * BAND, (head + 1) * BAND)
            query, key = torch.zeros(BAND, hidden), torch.zeros(BAND, hidden)
            for i, dim in enumerate(slow_dims):
                if head == 0 or i < half:
                    query[dim, 1:words] = 1.8 * view[i]
                    key[dim, words + i] = 1.8
                else:
                    query[dim, words + i - half] = 1.8
                    key[dim, words + BAND + i - half] = 1.8
            attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
            copied = range(1 + head * BAND, min(words, 1 + (head + 1) * BAND))
            value, out = torch.zeros(BAND, hidden), torch.zeros(hidden, BAND)
            for i, dim in enumerate(copied):
                value[i, dim], out[dim, i] = 1.0, 3.5 * SIGMA
            attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = value, out
