"""Train the seedling from nothing: ``python -m seedling.train``.

One flat recipe. Muon on the matrices, AdamW on embeddings and norms, bf16 autocast over fp32
weights; warm-up, plateau, linear decay. The first steps are mostly pure copying, because
everything else in the corpus rests on it. Resumable: run it again with the same ``--out``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from seedling import corpus, talks
from seedling import tokenizer as cutting
from seedling.circuits import wire
from seedling.document import Document

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on; saved beside them as ``recipe.json``."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    rope_theta: float = 1e6  # slow enough frequencies to match content over hundreds of tokens
    intermediate: int = 640
    context: int = 1024
    steps: int = 4300
    tokens_per_step: int = 6144  # padding included
    muon_lr: float = 0.015
    adam_lr: float = 2e-3
    warmup: int = 60
    decay_share: float = 0.9  # the loss stood still on a plateau at the peak rate
    copying_steps: int = 120  # documents are mostly repetition until here, fading out over as many again
    repeat: float = 0.15  # share of pure repetition after that: copying wore off at 0.04
    optimizer: str = "muon"
    seed: int = 20261121
    begin_from: str = ""  # an earlier seedling whose weights to go on from, its words found by their text


def encode(tok: PreTrainedTokenizerFast, document: Document) -> tuple[list[int], list[int]]:
    """Token ids and labels (−100 where no loss falls) of a document, as the chat template renders it."""
    if document.raw:
        ids = [0, *document.raw]
        return ids, [-100] * document.repeat_from + ids[document.repeat_from :]
    messages = list(document.messages)
    if document.tools:
        lines = "Tools:\n" + "\n".join(document.tools)
        if messages[0]["role"] == "system":
            messages[0] = {"role": "system", "content": messages[0]["content"] + "\n\n" + lines}
        else:
            messages.insert(0, {"role": "system", "content": lines})
    texts = [f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n" for m in messages] + [
        m["content"] for m in messages
    ]
    pieces = tok(texts, add_special_tokens=False)["input_ids"]
    ids, labels = [tok.bos_token_id], [-100]
    for i, m in enumerate(messages):
        head, body = pieces[i], [*pieces[len(messages) + i], tok.eos_token_id]
        ids += head + body
        taught = m["role"] == "assistant" and (i == len(messages) - 1 or not document.last_only)
        taught = taught or (document.both and m["role"] == "user")
        labels += [-100] * len(head) + (body if taught else [-100] * len(body))
    return ids, labels


def learning_rate(step: int, recipe: Recipe) -> float:
    """Share of the peak rate at ``step``: warm-up, plateau, linear decay to nothing."""
    return min(1.0, (step + 1) / recipe.warmup, (recipe.steps - step) / (recipe.steps * recipe.decay_share))


class Stream:
    """Batches of documents of like length, drawn from the seed and the step alone."""

    def __init__(self, tok: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        self.tok, self.recipe = tok, recipe
        self.first, self.size = 8, len(tok)

    def pool(self, index: int, steps: int = 16) -> list[list[tuple[list[int], list[int]]]]:
        """The batches of pool ``index``, shuffled."""
        recipe, r = self.recipe, Random(f"{self.recipe.seed}/{index}")
        step = index * steps
        early = min(1.0, max(0.0, 2 - step / recipe.copying_steps))  # 1 at first, then fading to 0
        documents: list[tuple[list[int], list[int]]] = []
        budget = recipe.tokens_per_step * steps
        while budget > 0:
            if r.random() < recipe.repeat + 0.4 * early:
                document = corpus.repeat(r, self.size, self.first)
            elif r.random() < 0.4 * early:
                document = talks.chat(r, (1, 1, 2), copying=0.95) if r.random() < 0.7 else talks.echo(r)
            else:
                document = corpus.draw(r)
            ids, labels = encode(self.tok, document)
            documents.append((ids[: recipe.context], labels[: recipe.context]))
            budget -= len(ids)
        documents.sort(key=lambda d: len(d[0]))
        batches: list[list[tuple[list[int], list[int]]]] = [[]]
        for d in documents:
            if batches[-1] and (len(batches[-1]) + 1) * len(d[0]) > recipe.tokens_per_step:
                batches.append([])
            batches[-1].append(d)
        r.shuffle(batches)
        return batches


def tensors(batch: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, ``[batch, longest]`` each; causal attention needs no mask then."""
    import torch

    longest = max(len(ids) for ids, _ in batch)
    x = torch.full((len(batch), longest), pad)
    y = torch.full((len(batch), longest), -100)
    for i, (ids, labels) in enumerate(batch):
        x[i, : len(ids)] = torch.tensor(ids)
        y[i, : len(labels)] = torch.tensor(labels)
    return x, y


def inherit(model: Any, tok: PreTrainedTokenizerFast, source: Path) -> None:
    """Take over the weights under ``source``; a token it does not know begins near the mean of its words."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    weights = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
    known = AutoTokenizer.from_pretrained(source).get_vocab()
    old = weights["model.embed_tokens.weight"]
    words = old[[i for token, i in known.items() if len(token) > 1]]
    new = words.mean(0) + 0.7 * words.std(0) * torch.randn(len(tok), old.shape[1])
    for token, i in tok.get_vocab().items():
        if token in known:
            new[i] = old[known[token]]
    model.load_state_dict(weights | {"model.embed_tokens.weight": new, "lm_head.weight": new})


def train(recipe: Recipe, out: Path, threads: int, save_every: int, stop_at: float = math.inf) -> None:
    """Train to ``recipe.steps``, resuming from ``out/state.pt`` when it is there."""
    import torch
    import torch.nn.functional as F
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out.mkdir(parents=True, exist_ok=True)
    tok = cutting.build(corpus.vocabulary_texts())
    tok.save_pretrained(out)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    if recipe.begin_from:
        inherit(model, tok, Path(recipe.begin_from))
    else:
        wire(model, torch.Generator().manual_seed(recipe.seed))
    model.to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in model.named_parameters() if not any(p is m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.01)
    ]
    if recipe.optimizer == "muon":
        optimizers.append(torch.optim.Muon(matrices, recipe.muon_lr, weight_decay=0.01, momentum=0.95))
    else:
        optimizers.append(torch.optim.AdamW(matrices, recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.1))
    peaks = [g["lr"] for o in optimizers for g in o.param_groups]
    stream, step, pool, tokens = Stream(tok, recipe), 0, 0, 0
    before: dict[str, Any] = {}
    if recipe.begin_from:
        before = {"begun_from": json.loads((Path(recipe.begin_from) / "recipe.json").read_text("utf-8"))}
        tokens = before["begun_from"]["tokens"]
    state = out / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        for o, s in zip(optimizers, saved["optimizers"], strict=True):
            o.load_state_dict(s)
        step, pool, tokens = saved["step"], saved["pool"], saved["tokens"]
        print(f"resumed at step {step}", flush=True)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tok)} tokens in the vocabulary",
        flush=True,
    )

    def save() -> None:
        model.save_pretrained(out, safe_serialization=True)
        (out / "recipe.json").write_text(json.dumps({**asdict(recipe), **before, "tokens": tokens}, indent=1) + "\n")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
                "pool": pool,
                "tokens": tokens,
            },
            state,
        )

    started, mean = time.monotonic(), 0.0
    while step < recipe.steps:
        for batch in stream.pool(pool):
            share = learning_rate(step, recipe)
            for group, peak in zip([g for o in optimizers for g in o.param_groups], peaks, strict=True):
                group["lr"] = peak * share
            x, y = (t.to(device) for t in tensors(batch, tok.pad_token_id))
            # on a CPU the fused kernel loses to plain matrices while rows are short
            model.config._attn_implementation = "eager" if device == "cpu" and x.shape[1] < 512 else "sdpa"
            with torch.autocast(device, torch.bfloat16):
                hidden = model.model(input_ids=x).last_hidden_state[:, :-1]
                target = y[:, 1:]
                wanted = target != -100  # logits only where loss falls: the vocabulary is a third of the work
                logits = model.lm_head(hidden[wanted])
            loss = F.cross_entropy(logits.float(), target[wanted])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o in optimizers:
                o.step()
                o.zero_grad()
            step, tokens = step + 1, tokens + x.numel()
            mean = loss.item() if not mean else 0.95 * mean + 0.05 * loss.item()
            if step % 25 == 0:
                print(
                    f"step {step}/{recipe.steps} loss {mean:.4f} {tokens / 1e6:.2f} M tokens {time.monotonic() - started:.0f} s",
                    flush=True,
                )
        pool += 1
        if step // save_every != (step - 17) // save_every or step >= recipe.steps:
            save()
        if time.monotonic() - started > stop_at:
            break
    save()
    if step >= recipe.steps:  # what ships is bf16, half the size
        model.to(torch.bfloat16).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/seedling"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--stop-at", type=float, default=math.inf, help="seconds after which to stop (resumable)")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    run = {k: arguments.pop(k) for k in ("out", "threads", "save_every", "stop_at")}
    train(Recipe(**arguments), **run)


if __name__ == "__main__":
    main()
