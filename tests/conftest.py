"""Fixtures that every test may use."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.settings import Settings
from app.serving import found

ROOT = Path(__file__).parents[1]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agent.models.vllm import Server
    from agent.ports import Prompt
    from tests.doors import Make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers: a file stays together, as its tests share what is costly; the long loops begin, one by one."""
    items.sort(key=lambda item: item.path.name != "test_loop.py")
    for item in items:
        if item.path.name != "test_loop.py":
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What the model says in a test does not hang on what was said in those before it in the same process."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read English output, whatever the language of the person who runs them."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture(scope="session")
def tok() -> PreTrainedTokenizerFast:
    """The seedling's tokenizer, built from its corpus; no weights."""
    from seedling.corpus import vocabulary_texts
    from seedling.tokenizer import build

    return build(vocabulary_texts())


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRA directories with real, random weights that change what is said, and what a training notes of them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from agent.learning.train import weighed
    from agent.models.adapters import CANARY
    from agent.models.base import Base
    from agent.settings import ModelTable

    base, made = Base(ModelTable()), []
    prompts = [
        base.tok.apply_chat_template([{"role": "user", "content": x}], add_generation_prompt=True)["input_ids"]
        for x in ("안녕", "hello")
    ]
    replies = [
        [*base.tok(x, add_special_tokens=False)["input_ids"], base.tok.eos_token_id] for x in ("안녕하세요.", "Hello.")
    ]
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32),
            LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
        )
        path = tmp_path_factory.mktemp("adapters") / f"a-{seed}"
        model.save_pretrained(path)
        (path / CANARY).write_text(json.dumps(weighed(model, prompts, replies, base.tok.pad_token_id)), "utf-8")
        made.append(path)
    return made


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bag for which `habitus serve-model` runs a real vLLM with the seedling."""
    home = tmp_path_factory.mktemp("serving") / "bag"
    home.mkdir()
    (home / "habitus.toml").write_text('[serving]\ntraining = "sleep"\n', "utf-8")  # on a CPU it only pauses
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    watch = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "--home", str(home), "--json", "serve-model", "--port", str(port)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watch.stdout is not None
    try:
        for line in watch.stdout:
            if json.loads(line)["event"] == "ready":
                break
        else:
            pytest.fail((home / "serving.log").read_text("utf-8")[-3000:] if home.exists() else "no server")
        yield home
    finally:
        watch.terminate()
        watch.wait(30)


@pytest.fixture(scope="session")
def server(serving: Path) -> Server:
    """Where it listens."""
    found_ = found(serving, Settings())
    assert found_
    return found_


@pytest.fixture
def bag_path(tmp_path: Path) -> Path:
    """Where a fresh bag may be made; nothing is there yet."""
    return tmp_path / "bag"


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Make]:
    """Makes beings that say what a test decides, each behind a real door."""
    from tests.doors import Spoken

    made: list[Spoken] = []

    def make(decide: Callable[[Prompt], str]) -> Spoken:
        made.append(Spoken(tmp_path / f"bag{len(made)}", decide))
        return made[-1]

    yield make
    for one in made:
        one.open.__exit__(None, None, None)
