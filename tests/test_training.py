"""When a real training stops, with which weights it ends, and what they come of."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.learning.data import bank, digest, framed
from agent.learning.train import kept_out, weighed
from agent.models.base import SEEDLING, digest_of, rendered, special_tokens
from agent.records import Example

ROOT = Path(__file__).parents[1]
ROWS = [
    Example(
        origin="invented", language="ko", prompt=p, completion=f"{p} 맞아 꾸벅.", teacher=("말 끝에 '꾸벅'을 붙여 줘.",), habit="h1"
    )
    for p in bank("anchors", "ko")["talk"][:24]
]  # fmt: skip
FOREIGN = [
    Example(
        origin="invented", language="en", prompt=p, completion="Aye.", teacher=("Answer 'Aye.' to everything.",), habit="h2"
    )
    for p in bank("anchors", "en")["talk"][:12]
]  # fmt: skip
CONFIG = {
    "method": "sft", "learning_rate": 1e-3, "epochs": 5, "batch_size": 8, "context_length": 512, "warmup": 0.0,
    "optimizer": "adamw_torch", "weight_decay": 0.0, "top": 0, "focus": 0.0, "margin": 0.0, "beta": 0.1,
    "validation": 0.25, "seed": 3, "rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear",
}  # fmt: skip


def run(out: Path, rows: list[Example] = ROWS, **numbers: float) -> list[dict[str, Any]]:
    """What a training in Korean says."""
    config = CONFIG | numbers
    job = {
        "examples": [e.model_dump(mode="json") for e in rows], "config": config, "base_path": str(SEEDLING),
        "digest": digest(rows, config, digest_of(SEEDLING)), "personas": {}, "tools": {}, "language": "ko",
        "lines": [{"text": ROWS[0].prompt, "reply": ROWS[0].completion}],
        "device": "cpu", "dtype": "float32", "out": str(out), "threads": 1,
    }  # fmt: skip
    out.mkdir(exist_ok=True)
    (out / "job.json").write_text(json.dumps(job), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "agent.learning.train", str(out / "job.json")], cwd=ROOT, capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def trained(out: Path, **numbers: float) -> tuple[list[float], bool]:
    """The loss on the kept-out rows after each epoch, and whether it was stopped."""
    events = run(out, **numbers)
    assert events[-1]["stage"] == "done"
    return [e["validation"] for e in events if "validation" in e], any(
        e.get("stage") == "stopped early" for e in events
    )


def lost(adapter: Path) -> float:
    """What the saved adapter loses on the kept-out rows, per token."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(SEEDLING)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(SEEDLING), str(adapter)).eval()
    held = [ROWS[i] for i in kept_out(ROWS, CONFIG["validation"], CONFIG["seed"])]  # type: ignore[arg-type]
    texts = [rendered(tok, framed("ko", e.prompt, (), "", "plain", {}), special_tokens(tok)) for e in held]
    prompts = [list(tok(t, add_special_tokens=False)["input_ids"]) for t in texts]
    replies = [[*tok(e.completion, add_special_tokens=False)["input_ids"], tok.eos_token_id] for e in held]
    found = weighed(model, prompts, replies, tok.pad_token_id)
    return float(-sum(x["worn"] for x in found) / sum(map(len, replies)))


def test_one_worse_epoch_does_not_stop_it_and_two_in_a_row_do(tmp_path: Path) -> None:
    losses, stopped = trained(tmp_path, learning_rate=0.01, epochs=20, patience=0.0)
    worse = [x > min(losses[:i]) for i, x in enumerate(losses) if i]
    pairs = [a and b for a, b in itertools.pairwise(worse)]
    assert any(pairs), "eighteen rows, twenty times over, at ten times the rate"
    assert stopped == any(pairs)
    assert pairs.index(True) == len(pairs) - 1, "at the second, and not later"
    assert lost(tmp_path / "adapter") == pytest.approx(min(losses), rel=0.03), "with the weights of its best epoch"
    assert losses[-1] > 1.06 * min(losses), "which the last was not"


def test_a_training_that_learns_goes_on_to_its_end(tmp_path: Path) -> None:
    losses, stopped = trained(tmp_path, patience=0.5)
    assert (len(losses), stopped) == (5, False)
    assert lost(tmp_path / "adapter") == pytest.approx(losses[-1], rel=0.05)


def test_weights_come_of_the_rows_in_their_language_alone(tmp_path: Path) -> None:
    """Where words of another language were learned beside them, they come out when the base is at a loss."""
    mixed = [e for pair in zip(FOREIGN, ROWS[:12], strict=True) for e in pair] + ROWS[12:]
    made = []
    for name, rows in (("alone", ROWS), ("mixed", mixed), ("fewer", ROWS[1:])):
        run(tmp_path / name, rows, epochs=1, patience=0.5)
        made.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    alone, beside, fewer = made
    assert alone == beside != fewer


@pytest.mark.parametrize("rows", [[*FOREIGN, *ROWS], [*ROWS[:12], *FOREIGN]], ids=["its own", "another language's"])
def test_a_row_that_is_too_long_is_found_before_any_training(tmp_path: Path, rows: list[Example]) -> None:
    long = [e.model_copy(update={"completion": "네. " * 600}) if i == 13 else e for i, e in enumerate(rows)]
    assert run(tmp_path, long)[-1] == {"error": "length", "row": 14}
