"""One training, as a process of its own: ``python -m agent.learning.train JOB.json``.

Reads top to bottom: check the digest that was approved, tokenise the fixed rows, let the frozen
base say its next-token distribution on them, fit a LoRA, save. Progress goes to stdout as JSON
lines. ``distill`` minimises KL(teacher ‖ student) over the completion's tokens (context
distillation, Snell et al. 2022, arXiv 2209.15189); ``sft`` is plain cross-entropy on them.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOP = 256  # teacher probabilities kept per token; the rest is one bucket


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def main(job_file: Path) -> None:
    """Run the job. Exits 3 when the data is not what was approved, 4 when a row is too long."""
    started = time.monotonic()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1")
    job: dict[str, Any] = json.loads(job_file.read_text("utf-8"))

    from agent.learning.data import digest, framed
    from agent.models.embedded import defused, digest_of, special_tokens
    from agent.records import Example

    examples = [Example.model_validate(e) for e in job["examples"]]
    config: dict[str, Any] = job["config"]
    found = digest(examples, config, digest_of(Path(job["base_path"])))
    if found != job["digest"]:
        say(error="digest", found=found, approved=job["digest"])
        raise SystemExit(3)
    say(stage="loading")

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
    from transformers.trainer_callback import PrinterCallback
    from transformers.utils import logging as noise
    from trl import SFTConfig, SFTTrainer

    noise.set_verbosity_error()
    set_seed(config["seed"])
    torch.set_flush_denormal(True)  # as the loss nears nothing, denormal numbers make a CPU four times slower
    cuda = torch.cuda.is_available()
    tok = AutoTokenizer.from_pretrained(job["base_path"])
    if job.get("template"):
        tok.chat_template = job["template"]
    if tok.pad_token_id is None:
        tok.pad_token = tok.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["base_path"], dtype=torch.bfloat16 if cuda else torch.float32)
    model.to("cuda" if cuda else "cpu")
    specials = special_tokens(tok)
    tools = {frame: tuple(t) for frame, t in job["tools"].items()}

    def encode(e: Example, rules: tuple[str, ...]) -> list[int]:
        prompt = framed(e.language, e.prompt, rules, job["personas"].get(e.language, ""), e.frame, tools)
        text = tok.apply_chat_template(
            defused(list(prompt.messages), specials),
            tools=defused(list(prompt.tools), specials) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        return list(tok(text, add_special_tokens=False)["input_ids"])

    data: list[dict[str, Any]] = []
    for i, e in enumerate(examples):
        tail = [*tok(e.completion, add_special_tokens=False)["input_ids"], tok.eos_token_id]
        student, teacher = encode(e, e.rules), encode(e, e.teacher)
        if len(teacher) + len(tail) > config["context_length"]:
            say(error="length", row=i + 1)
            raise SystemExit(4)
        data.append({"row": i, "input_ids": student + tail, "teacher_ids": teacher + tail, "tail": len(tail)})
    say(stage="teacher", rows=len(data))
    belief: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    if config["method"] == "distill":
        model.eval()
        order = sorted(data, key=lambda d: len(d["teacher_ids"]))
        with torch.no_grad():
            for start in range(0, len(order), 16):
                some = order[start : start + 16]
                told = model(
                    input_ids=padded([d["teacher_ids"] for d in some], tok.pad_token_id).to(model.device)
                ).logits
                bare = model(input_ids=padded([d["input_ids"] for d in some], tok.pad_token_id).to(model.device)).logits
                for j, d in enumerate(some):
                    n, m = len(d["teacher_ids"]), len(d["input_ids"])
                    logp = told[j, n - d["tail"] - 1 : n - 1].float().log_softmax(-1)
                    before = bare[j, m - d["tail"] - 1 : m - 1].float().softmax(-1)
                    # a rule changes few tokens of an answer: those it changes most count most
                    changed = 1 - torch.minimum(logp.exp(), before).sum(-1)
                    top = logp.topk(min(TOP, logp.shape[-1]), -1)
                    if (
                        examples[d["row"]].origin == "anchor"
                    ):  # wherever the habit could leak to, staying counts as much
                        changed = torch.full_like(changed, 0.5)
                    belief[d["row"]] = (top.values.clone(), top.indices.clone(), 1 + config["focus"] * changed)

    quick = not cuda and torch.cpu._is_avx512_bf16_supported()  # elsewhere bf16 on a CPU is slower than fp32

    class Trainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with the distillation loss in place of cross-entropy."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            rows, tails, lengths = inputs.pop("rows"), inputs.pop("tails"), inputs.pop("lengths")
            if config["method"] == "sft":
                out = model(**inputs)
                return (out.loss, out) if return_outputs else out.loss
            inputs.pop("labels")
            with torch.autocast("cpu", torch.bfloat16, enabled=quick):
                out = model(**inputs)
            total = torch.zeros((), device=out.logits.device)
            count = torch.zeros_like(total)
            for j, row in enumerate(rows):
                student = out.logits[j, lengths[j] - tails[j] - 1 : lengths[j] - 1].float().log_softmax(-1)
                logp, where, weight = (x.to(student.device) for x in belief[row])
                p, q = logp.exp(), student.gather(-1, where)
                rest_p = (1 - p.sum(-1)).clamp_min(1e-6)
                rest_q = (1 - q.exp().sum(-1)).clamp_min(1e-6)
                kl = (p * (logp - q)).sum(-1) + rest_p * (rest_p.log() - rest_q.log())
                total, count = total + (weight * kl).sum(), count + weight.sum()
            loss = total / count
            return (loss, out) if return_outputs else loss

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        x = padded([d["input_ids"] for d in batch], tok.pad_token_id)
        mask, labels = torch.zeros_like(x), torch.full_like(x, -100)
        for j, d in enumerate(batch):
            n = len(d["input_ids"])
            mask[j, :n] = 1
            labels[j, n - d["tail"] : n] = x[j, n - d["tail"] : n]
        return {"input_ids": x, "attention_mask": mask, "labels": labels, "rows": [d["row"] for d in batch],
                "tails": [d["tail"] for d in batch], "lengths": [len(d["input_ids"]) for d in batch]}  # fmt: skip

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            if logs and "loss" in logs:
                say(step=state.global_step, of=state.max_steps, loss=round(float(logs["loss"]), 5))

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
            bf16=cuda,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=cuda,
            max_length=None,
        ),
        train_dataset=Dataset.from_list(data),
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
    say(
        stage="done",
        seconds=round(time.monotonic() - started, 2),
        peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        gpu_mb=round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else 0,
    )


def padded(rows: list[list[int]], pad: int) -> torch.Tensor:
    """Right-padded ids ``[rows, longest]``."""
    import torch

    x = torch.full((len(rows), max(map(len, rows))), pad)
    for i, ids in enumerate(rows):
        x[i, : len(ids)] = torch.tensor(ids)
    return x


if __name__ == "__main__":
    main(Path(sys.argv[1]))
