"""Two opposite manners from pairs of chosen and rejected replies: first SFT, then preferences from there (DPO, KTO).

The owner's Egen/Teto idea. One manner is casual and exclaims, the other polite and brief; each is the other's
rejected reply. A manner is taught without any rule in the prompt. Separability: how often the adapter of one
manner finds its replies likelier, against the other's, than the adapter of the other does (AUC; 0.5 is chance).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.bag import Bag
from agent.learning.data import framed
from agent.learning.proposing import config_of
from agent.learning.train import tails
from agent.models.base import SEEDLING
from agent.models.embedded import stacked
from agent.ports import BASE
from agent.records import Example, Method
from bench.learning.lessons import ASKED, Json, Site, fitted, kept, melted, practice
from tests.being import small_talk

MANNERS = {
    "warm": ("반말로 대답해 줘.", "문장을 마침표 대신 느낌표로 끝내 줘."),
    "brief": ("존댓말로 대답해 줘.", "한 문장으로만 대답해 줘."),
}
STAGES: tuple[Method, ...] = ("sft", "dpo", "kto")


def personas(site: Site, seed: int = 1) -> Json:
    return kept(site.out / "persona" / f"{seed}.json", lambda: _compare(site, seed))


def _compare(site: Site, seed: int) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        bag = site.born(Path(folder), seed).bag
        texts, unseen = practice("ko", "persona", seed), small_talk("ko", ASKED)
        lessons = {m: _said(bag, texts, rules) for m, rules in MANNERS.items()}
        exam = {m: _said(bag, unseen, rules) for m, rules in MANNERS.items()}
        usable = [i for i in range(ASKED) if exam["warm"][i] != exam["brief"][i]]
        asked = [unseen[i] for i in usable]
        warm, brief = ([exam[m][i] for i in usable] for m in MANNERS)
        base = margins(bag, SEEDLING, None, asked, warm, brief)
        found: Json = {"asked": len(usable), "base": statistics.median(base)}
        start = dict.fromkeys(MANNERS, SEEDLING)
        for method in STAGES:
            margin: dict[str, list[float]] = {}
            for manner, other in (("warm", "brief"), ("brief", "warm")):
                rows = [
                    Example(origin="invented", language="ko", prompt=t, completion=a, rejected=b, teacher=MANNERS[manner], habit="h1")
                    for t, a, b in zip(texts, lessons[manner], lessons[other], strict=True)
                    if a != b
                ]  # fmt: skip
                work = Path(folder) / f"{method}-{manner}"
                work.mkdir()
                config = config_of(bag, method) | {"method": method}
                adapter = fitted(bag, rows, config, start[manner], work)
                margin[manner] = margins(bag, start[manner], adapter, asked, warm, brief)
                if method == "sft":  # what follows begins here, and is held against it
                    start[manner] = melted(SEEDLING, adapter, work / "weights")
            found[method] = {
                "separability": separability(margin["warm"], margin["brief"]),
                "gap": statistics.median(margin["warm"]) - statistics.median(margin["brief"]),
                "own": statistics.mean([*(x > 0 for x in margin["warm"]), *(x < 0 for x in margin["brief"])]),
            }
        return found


def _said(bag: Bag, texts: Sequence[str], rules: Sequence[str]) -> list[str]:
    return bag.body.answers([framed("ko", t, rules, "", "plain", {}) for t in texts], BASE)


def margins(
    bag: Bag, weights: Path, adapter: Path | None, texts: Sequence[str], warm: Sequence[str], brief: Sequence[str]
) -> list[float]:
    """log p(warm reply) − log p(brief reply) to each text, in nats."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    body: Any = bag.body
    model: Any = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)) if adapter else model
    prompts = [body.ids_of(framed("ko", t, (), "", "plain", {})) for t in texts]
    scores = []
    for answers in (warm, brief):
        ends = [[*body.tok(a, add_special_tokens=False)["input_ids"], body.tok.eos_token_id] for a in answers]
        with torch.no_grad():
            whole = stacked([p + e for p, e in zip(prompts, ends, strict=True)], body.tok.pad_token_id)
            logs = tails(model.eval(), whole, [len(e) for e in ends])
        scores.append([float(x.gather(-1, torch.tensor(e)[:, None]).sum()) for x, e in zip(logs, ends, strict=True)])
    return [a - b for a, b in zip(*scores, strict=True)]


def separability(high: Sequence[float], low: Sequence[float]) -> float:
    """Share of pairs in which the first is the higher (AUC)."""
    return statistics.mean((h > x) + 0.5 * (h == x) for h in high for x in low)


def table(found: Json) -> str:
    lines = [
        f"| stage ({found['asked']} unseen prompts) | separability | own manner likelier | gap of medians, nats |",
        "|---|---|---|---|",
        "| base | 50 % (by definition) | 50 % | 0 |",
    ]
    for method in STAGES:
        f = found[method]
        name = method if method == "sft" else f"sft, then {method} (over distillation)"
        lines.append(f"| {name} | {f['separability']:.1%} | {f['own']:.1%} | {f['gap']:.1f} |")
    return "\n".join(lines)
