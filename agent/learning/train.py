"""One training in one language, as a process of its own: ``python -m agent.learning.train JOB.json``.

Reads top to bottom: check the digest that was approved, tokenise the fixed rows of the language, let the frozen
base say its next-token distribution on them, fit a LoRA, save. Progress goes to stdout as JSON
lines. ``distill`` minimises KL(teacher ‖ student) over the completion's tokens (context
distillation, Snell et al. 2022, arXiv 2209.15189); ``sft`` is plain cross-entropy on them. ``dpo`` and
``kto`` distil, too, and push each answer apart from the one that is not to be said (Rafailov et al.
2023, arXiv 2305.18290; Ethayarajh et al. 2024, arXiv 2402.01306), as without the first the wanted
answer itself may grow unlikely (Pang et al. 2024, arXiv 2404.19733).
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from operator import mul
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.learning.data import digest, framed
from agent.models.adapters import CANARY
from agent.models.base import digest_of, rendered, special_tokens
from agent.models.calls import looks_like_call
from agent.models.embedded import stacked
from agent.ports import Prompt
from agent.records import Example

if TYPE_CHECKING:
    import torch


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def main(job_file: Path) -> None:
    """Run the job. Exits 3 when the data is not what was approved, 4 when a row is too long."""
    started = time.monotonic()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")
    job: dict[str, Any] = json.loads(job_file.read_text("utf-8"))

    examples = [Example.model_validate(e) for e in job["examples"]]
    config: dict[str, Any] = job["config"]
    found = digest(examples, config, digest_of(Path(job["base_path"])))
    if found != job["digest"]:
        say(error="digest", found=found, approved=job["digest"])
        raise SystemExit(3)
    say(stage="loading", language=job["language"])

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
    from transformers.trainer_callback import PrinterCallback
    from transformers.utils import logging as noise
    from trl import SFTConfig, SFTTrainer

    noise.set_verbosity_error()
    set_seed(config["seed"])
    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    torch.set_flush_denormal(True)  # as the loss nears nothing, denormal numbers make a CPU four times slower
    cuda = torch.cuda.is_available() if job["device"] == "auto" else job["device"].startswith("cuda")
    half = cuda and job["dtype"] != "float32"
    tok = AutoTokenizer.from_pretrained(job["base_path"])
    if job.get("template"):
        tok.chat_template = job["template"]
    if tok.pad_token_id is None:
        tok.pad_token = tok.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        job["base_path"],
        dtype=torch.bfloat16 if half else torch.float32,
        attn_implementation="sdpa" if cuda else "eager",  # short rows on a CPU: the fused kernel is slower
    )
    model.to("cuda" if cuda else "cpu")
    specials = special_tokens(tok)
    tools = {frame: tuple(t) for frame, t in job["tools"].items()}

    def encode(e: Example, rules: tuple[str, ...]) -> list[int]:
        return written(framed(e.language, e.prompt, rules, job["personas"].get(e.language, ""), e.frame, tools))

    def written(prompt: Prompt) -> list[int]:
        return list(tok(rendered(tok, prompt, specials), add_special_tokens=False)["input_ids"])

    def completed(e: Example) -> list[int]:
        return [*tok(e.completion, add_special_tokens=False)["input_ids"], tok.eos_token_id]

    for n, e in enumerate(examples, 1):  # of every language, before the first is trained
        if len(encode(e, e.teacher) + completed(e)) > config["context_length"]:
            say(error="length", row=n)
            raise SystemExit(4)

    examples = [e for e in examples if e.language == job["language"]]
    preferring = config["method"] in ("dpo", "kto")
    rules = taught(examples)
    data: list[dict[str, Any]] = []
    for i, e in enumerate(examples):
        tail = completed(e)
        row: dict[str, Any] = {
            "row": i,
            "input_ids": encode(e, e.rules) + tail,
            "teacher_ids": encode(e, e.teacher) + tail,
            "rejected_ids": [],
        }
        if preferring and e.rejected:
            row["rejected_ids"] = [*tok(e.rejected, add_special_tokens=False)["input_ids"], tok.eos_token_id]
        row["other_ids"] = encode(*otherwise(e, rules, i)) + tail
        data.append(row | {"tail": len(tail)})
    say(stage="teacher", rows=len(data))

    belief: dict[int, Belief] = {}
    if config["method"] == "sft":  # a teacher that is certain of the words
        for d in data:
            ids = torch.tensor(d["input_ids"][-d["tail"] :])[:, None]
            belief[d["row"]] = Belief(torch.zeros(ids.shape), ids, torch.ones(len(ids)), ids, torch.zeros(ids.shape))
    else:
        model.eval()
        order = sorted(data, key=lambda d: len(d["teacher_ids"]))
        for some in (order[i : i + 16] for i in range(0, len(order), 16)):
            with torch.no_grad():
                told, other = (
                    tails(model, stacked([d[key] for d in some], tok.pad_token_id), [d["tail"] for d in some])
                    for key in ("teacher_ids", "other_ids")
                )
            for d, logp, unlike in zip(some, told, other, strict=True):
                # A rule changes few tokens of an answer, and those count most. In an anchor, too, those count most
                # that the rule would change if it leaked; the rest of an anchor counts as half changed.
                changed = 1 - torch.minimum(logp, unlike).exp().sum(-1)
                half = 0.5 if examples[d["row"]].origin == "anchor" else 0.0
                top = logp.topk(min(config["top"] or logp.shape[-1], logp.shape[-1]), -1)
                rival = unlike.argmax(-1)
                lead = config.get("margin", 0.0) * changed * (rival != logp.argmax(-1))
                belief[d["row"]] = Belief(
                    top.values.clone(),
                    top.indices.clone(),
                    1 + config["focus"] * (changed + half),
                    rival[:, None],
                    lead[:, None],
                )

    apart = kept_out(examples, config["validation"], config["seed"])
    held = [data[i] for i in sorted(apart)]  # never trained on: how it generalises
    kept = [d for d in data if d["row"] not in apart]
    quick = not cuda and torch.cpu._is_avx512_bf16_supported()  # elsewhere bf16 on a CPU is slower than fp32

    class Trainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with KL(teacher ‖ student) on the completion in place of cross-entropy."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            total = count = torch.zeros((), device=model.device)
            for part in inputs["parts"]:
                with torch.autocast("cpu", torch.bfloat16, enabled=quick):
                    students = tails(model, part["inputs"], [d["tail"] for d in part["rows"]])
                for d, student in zip(part["rows"], students, strict=True):
                    held_to = Belief(*(x.to(student.device) for x in belief[d["row"]]))
                    total = total + (held_to.weight * divergence(student, held_to)).sum()
                    count = count + held_to.weight.sum()
            loss = total / count
            asked = [d for part in inputs["parts"] for d in part["rows"] if d["rejected_ids"]]
            if asked:
                prompts = [d["input_ids"][: -d["tail"]] for d in asked]
                good, bad = [d["input_ids"][-d["tail"] :] for d in asked], [d["rejected_ids"] for d in asked]
                better, worse = (ratios(model, prompts, answers, tok.pad_token_id) for answers in (good, bad))
                if config["method"] == "dpo":
                    return loss + preference(better, worse, config["beta"])
                drift = torch.zeros((), device=model.device)  # alone, an answer would be held to itself
                if len(asked) > 1:
                    with torch.no_grad():  # how far the student has drifted: its odds on answers to other questions
                        drift = ratios(model, prompts, good[1:] + good[:1], tok.pad_token_id).mean().clamp_min(0)
                loss = loss + desirability(better, worse, config["beta"], drift)
            return (loss, None) if return_outputs else loss

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        order = sorted(batch, key=lambda d: len(d["input_ids"]))  # long rows apart from short ones: less padding
        halves = [order[: len(order) // 2], order[len(order) // 2 :]]
        return {
            "parts": [
                {
                    "inputs": stacked([d["input_ids"] for d in h], tok.pad_token_id),
                    "rows": h,
                }
                for h in halves
                if h
            ]
        }

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            if logs and "loss" in logs:
                say(step=state.global_step, of=state.max_steps, loss=round(float(logs["loss"]), 5))

        best: tuple[float, dict[str, torch.Tensor]] = math.inf, {}  # loss and weights
        worse = 0  # epochs in a row

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not held:
                return
            trainer.model.eval()
            with torch.no_grad():
                batches = [held[i : i + 16] for i in range(0, len(held), 16)]
                sizes = [sum(float(belief[d["row"]].weight.sum()) for d in b) for b in batches]
                losses = [float(trainer.compute_loss(trainer.model, collate(b))) for b in batches]
            trainer.model.train()
            loss = sum(map(mul, sizes, losses)) / sum(sizes)
            say(step=state.global_step, of=state.max_steps, validation=round(loss, 5))
            lowest, _ = self.best
            self.worse = self.worse + 1 if loss > lowest * (1 + config["patience"]) else 0
            if self.worse > 1:  # once may be chance, with the few rows that are kept out
                say(stage="stopped early", step=state.global_step)
                control.should_training_stop = True
            elif loss < lowest:
                named = trainer.model.named_parameters()
                self.best = loss, {n: p.detach().clone() for n, p in named if p.requires_grad}

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.worse:
                _, weights = self.best
                for name, p in trainer.model.named_parameters():
                    if name in weights:
                        p.data.copy_(weights[name])

    out = Path(job["out"])
    trainer = Trainer(
        model=model,
        args=SFTConfig(
            output_dir=str(out / "trainer"),
            learning_rate=config["learning_rate"],
            num_train_epochs=config["epochs"],
            per_device_train_batch_size=config["batch_size"],
            lr_scheduler_type="linear",
            warmup_steps=config["warmup"],
            weight_decay=config["weight_decay"],
            optim=config["optimizer"],
            logging_steps=4,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=config["seed"],
            use_cpu=not cuda,
            bf16=half,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=cuda,
            max_length=None,
        ),
        train_dataset=Dataset.from_list(kept),
        processing_class=tok,
        data_collator=collate,
        callbacks=[Progress()],
        peft_config=LoraConfig(
            r=config["rank"],
            lora_alpha=config["alpha"],
            lora_dropout=config["dropout"],
            target_modules=config["target_modules"],
            task_type="CAUSAL_LM",
        ),
    )
    trainer.remove_callback(PrinterCallback)  # it prints dicts to stdout, where our events go
    say(stage="training")
    trainer.train()
    trainer.model.save_pretrained(str(out / "adapter"))
    ordered(out / "adapter" / "adapter_config.json")
    trainer.model.eval()
    prompts = [written(framed(job["language"], x["text"], (), "", "plain", tools)) for x in job["lines"]]
    replies = [[*tok(x["reply"], add_special_tokens=False)["input_ids"], tok.eos_token_id] for x in job["lines"]]
    noted = weighed(trainer.model, prompts, replies, tok.pad_token_id)
    (out / "adapter" / CANARY).write_text(json.dumps(noted) + "\n", "utf-8")
    say(
        stage="done",
        seconds=round(time.monotonic() - started, 2),
        peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        gpu_mb=round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else 0,
        environment={
            **{name: version(name) for name in ("torch", "transformers", "peft", "trl")},
            "threads": str(torch.get_num_threads()),
            "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        },
    )


def taught(examples: Sequence[Example]) -> list[str]:
    """The rules that are to be learned; in a language that no habit has rows of its own in, the anchors tell them."""
    own_first = sorted(examples, key=lambda e: e.origin == "anchor")
    return list(dict.fromkeys(x for e in own_first for x in e.teacher if x not in e.rules))


def otherwise(e: Example, rules: Sequence[str], i: int) -> tuple[Example, tuple[str, ...]]:
    """Where the same words are to be held against something else: the row, and the rules over it.

    Without the habit; a row that is to do without it, under it, of several of these the ``i``-th in turn. Where
    such a row calls a tool, with none there to call: a habit that opens every answer would talk instead.
    """
    if e.teacher != e.rules or not rules:
        return e, e.rules
    calls = e.frame == "tools" and looks_like_call(e.completion)
    return e.model_copy(update={"frame": "plain"}) if calls else e, (*e.rules, rules[i % len(rules)])


class Belief(NamedTuple):
    """What the student is held to on one completion of ``n`` tokens."""

    logp: torch.Tensor  # [n, k] the teacher's log-probabilities of its k likeliest tokens
    ids: torch.Tensor  # [n, k] those tokens
    weight: torch.Tensor  # [n] how much each place counts
    rival: torch.Tensor  # [n, 1] what would be said without the rule (in a row without it: under it)
    lead: torch.Tensor  # [n, 1] the rival's head start, in nats


def divergence(student: torch.Tensor, belief: Belief) -> torch.Tensor:
    """KL(teacher ‖ student) at each place ``[n]``, in nats, after the rival's head start.

    Without the head start nothing pushes any more once the rows are learned, and where the base is surest of
    its own word the habit is missed (additive margin; cf. logit adjustment, Menon et al. 2020, arXiv 2007.07314).

    Args:
        student: its log-probabilities ``[n, vocabulary]``.
    """
    q = student.scatter_add(-1, belief.rival, belief.lead).log_softmax(-1).gather(-1, belief.ids)
    p = belief.logp.exp()
    rest_p, rest_q = (1 - p.sum(-1)).clamp_min(1e-6), (1 - q.exp().sum(-1)).clamp_min(1e-6)
    return (p * (belief.logp - q)).sum(-1) + rest_p * (rest_p.log() - rest_q.log())


def kept_out(examples: Sequence[Example], share: float, seed: int) -> set[int]:
    """The rows by which a training is watched: whole prompts, of each kind of row its share; none of a few rows."""
    if not share or len(examples) * share < 4:
        return set()
    rows: dict[str, list[int]] = {}
    kinds: dict[tuple[str, str], list[str]] = {}
    for i, e in enumerate(examples):
        if e.prompt not in rows:
            kinds.setdefault((e.habit or e.origin, e.frame), []).append(e.prompt)
        rows.setdefault(e.prompt, []).append(i)
    r, found = Random(seed), set[int]()
    for prompts in kinds.values():
        r.shuffle(prompts)
        wanted, had = share * sum(len(rows[p]) for p in prompts), 0
        for p in prompts:
            if had + len(rows[p]) / 2 > wanted:
                break
            had += len(rows[p])
            found.update(rows[p])
    return found


def ordered(file: Path) -> None:
    """An adapter's configuration so that the same training gives the same bytes: PEFT writes sets, and a path of here."""
    table = json.loads(file.read_text("utf-8")) | {"base_model_name_or_path": None}
    table = {k: sorted(v) if isinstance(v, list) else v for k, v in table.items()}
    file.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", "utf-8")


def preference(better: torch.Tensor, worse: torch.Tensor, beta: float) -> torch.Tensor:
    """DPO: −log σ(β (better − worse)), the mean over pairs.

    Args:
        better: log student/base of the wanted answers ``[pairs]``, in nats; ``worse`` of the others.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (better - worse)).mean()


def desirability(better: torch.Tensor, worse: torch.Tensor, beta: float, drift: torch.Tensor) -> torch.Tensor:
    """KTO: each answer by itself, wanted or not, against how far the student has drifted from the base anyway."""
    return (2 - (beta * (better - drift)).sigmoid() - (beta * (drift - worse)).sigmoid()).mean() / 2


def ratios(model: Any, prompts: list[list[int]], answers: list[list[int]], pad: int) -> torch.Tensor:
    """log student/base of each whole answer ``[rows]``, in nats; the base is the model without its adapter."""
    import torch

    inputs = stacked([p + a for p, a in zip(prompts, answers, strict=True)], pad)
    counts = [len(a) for a in answers]
    student = tails(model, inputs, counts)
    with torch.no_grad(), model.disable_adapter():
        base = tails(model, inputs, counts)
    said = [torch.tensor(a, device=s.device)[:, None] for a, s in zip(answers, student, strict=True)]
    return torch.stack([(s - b).gather(-1, ids).sum() for s, b, ids in zip(student, base, said, strict=True)])


def weighed(model: Any, prompts: list[list[int]], replies: list[list[int]], pad: int) -> list[dict[str, Any]]:
    """log-probability of each whole reply, in nats, with the adapter and without it (``adapters.Line``)."""
    import torch

    inputs, counts = stacked([p + r for p, r in zip(prompts, replies, strict=True)], pad), [len(r) for r in replies]

    def said() -> list[float]:
        ids = [torch.tensor(r, device=model.device)[:, None] for r in replies]
        return [float(s.gather(-1, i).sum()) for s, i in zip(tails(model, inputs, counts), ids, strict=True)]

    with torch.no_grad():
        worn = said()
        with model.disable_adapter():
            base = said()
    return [
        {"prompt": p, "reply": r, "base": round(b, 4), "worn": round(w, 4)}
        for p, r, b, w in zip(prompts, replies, base, worn, strict=True)
    ]


def tails(model: Any, inputs: dict[str, torch.Tensor], counts: list[int]) -> list[torch.Tensor]:
    """Log-probabilities ``[count, vocabulary]`` of the last ``count`` tokens of each row; no other logits are computed."""
    moved = {k: v.to(model.device) for k, v in inputs.items()}
    logits = model(**moved, logits_to_keep=max(counts) + 1).logits
    return [logits[j, -n - 1 : -1].float().log_softmax(-1) for j, n in enumerate(counts)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
