"""The same rows, trained in different ways: which keeps the habit best and harms the least.

A proposal is filed as the product files it; each way trains an adapter on its rows, and every adapter sits the
product's own exam. Beside it, as a yardstick, TRL's on-policy SDFT (Shenfeld et al. 2026, arXiv 2601.19897),
which trains on text of the student's own that nobody approved: with TRL's default divergence (JSD) and
with forward KL.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.bag import Bag
from agent.learning.data import framed
from agent.learning.exam import Exam
from agent.learning.gate import examine
from agent.models.base import SEEDLING
from agent.models.embedded import EmbeddedBody
from agent.ports import BASE, Voice
from agent.records import Example, Habit, Proposal
from app.habitus import Habitus
from bench.learning.lessons import LESSONS, Json, Site, asked, fitted, kept, practice, share, spread
from prompts import LANGUAGES
from tests.being import file_habit

PLAIN = {"focus": 0.0, "margin": 0.0}
# name → (what differs from the defaults, whether anchors are among the rows)
WAYS: dict[str, tuple[Json, bool]] = {
    "SFT, the habit's rows alone": ({"method": "sft"}, False),
    "SFT with replay (anchors)": ({"method": "sft"}, True),
    "distilled, the habit's rows alone": ({**PLAIN, "top": 256}, False),
    "distilled with anchors, whole vocabulary": ({**PLAIN, "top": 0}, True),
    "distilled with anchors, 256 likeliest": ({**PLAIN, "top": 256}, True),
    "distilled with anchors, 16 likeliest": ({**PLAIN, "top": 16}, True),
    "the same, 256, focus": ({"margin": 0.0}, True),
    "the same, 256, focus and margin (default)": ({}, True),
    # it answers every row itself each time: half of the others' passes is all that fits into the hours
    "SDFT (TRL), on-policy, JSD (its default)": ({"method": "sdft", "epochs": 3, "divergence": 0.5}, True),
    "SDFT (TRL), on-policy, forward KL": ({"method": "sdft", "epochs": 3, "divergence": 0.0}, True),
}


def compared(site: Site, way: str, name: str, seed: int) -> Json:
    """One adapter, trained in this way, and what it scores."""

    def one() -> Json:
        with tempfile.TemporaryDirectory() as folder:
            return _compare(site.born(Path(folder), seed).bag, way, name, seed)

    return kept(site.out / "methods" / f"{way.replace('/', ' ')} {name} {seed}.json", one)


def _compare(bag: Bag, way: str, name: str, seed: int) -> Json:
    lesson, body = LESSONS[name], bag.body
    p = bag.ledger.get(Proposal, file_habit(Habitus(bag), lesson.rule, practice(lesson.language, name, seed)))
    numbers, anchored = WAYS[way]
    examples = [e for e in p.examples if anchored or e.origin != "anchor"]
    config, work = p.config | numbers, bag.path / "work"
    work.mkdir()
    started = time.monotonic()
    train = on_policy if config["method"] == "sdft" else fitted
    adapter = train(bag, examples, config, SEEDLING, work)
    seconds = time.monotonic() - started
    voice = Voice(((adapter, 1.0),))
    bare, masked = asked([], lesson.language), asked([name], lesson.language)
    teacher, said = body.answers(masked, BASE), body.answers(bare, voice)
    worn = {x: voice if x == lesson.language else BASE for x in LANGUAGES}
    exam = Exam(
        body=body, candidate=worn, speaking=dict.fromkeys(LANGUAGES, BASE), habit=bag.ledger.get(Habit, p.habit),
        purpose="learn", earlier=(), personas={}, tools=bag.toolboxes, table=bag.settings.gate,
    )  # fmt: skip
    probes, _, _ = examine(exam)
    return {
        "followed": share(lesson, said),
        "agreement": statistics.mean(body.agreement(bare, teacher, voice)),
        "exact": statistics.mean(a == b for a, b in zip(teacher, said, strict=True)),
        **{q.name: q.after for q in probes},
        "passed": all(q.passed for q in probes),
        "seconds": round(seconds, 1),
    }


def on_policy(bag: Bag, examples: Sequence[Example], config: Json, weights: Path, work: Path) -> Path:
    """TRL's SDFT on the same prompts: the student's own samples, scored by the base under the rules."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer
    from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder

    class Told(DemonstrationTeacherContextBuilder):  # type: ignore[misc]
        """The rules stand in the system prompt, so the teacher's prompt is a whole one, not the student's with more behind it."""

        def _compose_teacher_prompt(self, prompt: str, privileged_context: str) -> str:
            return privileged_context

    body: EmbeddedBody = bag.body  # type: ignore[assignment]

    def text(e: Example, rules: Sequence[str]) -> str:
        return body.text_of(framed(e.language, e.prompt, rules, "", e.frame, bag.toolboxes))

    rows = [{"prompt": text(e, e.rules), "privileged_context": text(e, e.teacher)} for e in examples]
    trainer: Any = SDFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32),
        args=SDFTConfig(
            output_dir=str(work / "trainer"), seed=config["seed"], use_cpu=True, bf16=False, report_to=[],
            save_strategy="no", disable_tqdm=True, logging_steps=1000, gradient_checkpointing=False,
            learning_rate=config["learning_rate"], num_train_epochs=config["epochs"],
            per_device_train_batch_size=config["batch_size"], num_generations=1,
            lr_scheduler_type="linear", warmup_steps=config["warmup"],
            max_prompt_length=None, max_completion_length=120, distillation_mode="full_logits",
            distillation_alpha=config["divergence"],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(weights, padding_side="left"),
        peft_config=LoraConfig(
            r=config["rank"], lora_alpha=config["alpha"], target_modules=config["target_modules"], task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    trainer.teacher_context_builder = Told(trainer)
    trainer.train()
    trainer.model.save_pretrained(str(work / "adapter"))
    return work / "adapter"


SHOWN = ("followed", "agreement", "exact", "rules", "tools", "in tools", "fluency")


def table(found: dict[str, list[Json]]) -> str:
    """One line a way: medians over habits and seeds, in percent, with the lowest and the highest."""
    head = " | ".join(SHOWN)
    lines = [f"| trained | {head} | gate | s |", "|---" * (len(SHOWN) + 3) + "|"]
    for way, runs in found.items():
        cells = " | ".join(spread([100 * r[key] for r in runs], "") for key in SHOWN)
        passed, seconds = sum(r["passed"] for r in runs), statistics.median(r["seconds"] for r in runs)
        lines.append(f"| {way} | {cells} | {passed} of {len(runs)} | {seconds:.0f} |")
    return "\n".join(lines)
