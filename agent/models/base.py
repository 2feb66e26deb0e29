"""The base as files: which weights these are, how a prompt is written for them, how many tokens a text has.

What every body shares, wherever the weights run. No weights are loaded here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError, UsageError
from agent.ports import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agent.settings import ModelTable

SEEDLING = Path(__file__).parents[2] / "seedling" / "model"
_WHOLE = 1 << 30  # files larger than this are identified by size and samples
_SAMPLES, _SAMPLE = 256, 1 << 16
LEAST_ROOM = 8  # tokens without which nothing can be answered


def locate(name: str) -> str:
    """The path or hub id behind a model's name."""
    return str(SEEDLING) if name == "seedling" else name


def digest_of(path: Path) -> str:
    """Digest of a base directory: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    names = sorted(
        p for p in path.iterdir() if p.suffix in (".safetensors", ".json", ".jinja") and p.name != "recipe.json"
    )
    for p in names:
        size = p.stat().st_size
        digest.update(f"{p.name}\x1f{size}\x1f".encode())
        with p.open("rb") as f:
            if size <= _WHOLE:
                digest.update(f.read())
            else:  # a sample all through: the head alone is the same for a base and its fine-tunes
                for i in range(_SAMPLES):
                    f.seek(i * (size - _SAMPLE) // (_SAMPLES - 1))
                    digest.update(f.read(_SAMPLE))
    return digest.hexdigest()


def _fetched(name: str) -> Path:
    """The folder of a model of the hub, its weights in it; what is there already is not asked for again."""
    from huggingface_hub import snapshot_download
    from transformers.utils import cached_file

    config = cached_file(name, "config.json")
    assert config is not None
    folder, index = Path(config).parent, "model.safetensors.index.json"
    wanted = {"model.safetensors"}
    if (folder / index).exists():
        wanted = set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
    if not all((folder / file).exists() for file in wanted):
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.safetensors"]))
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError("it holds no safetensors")
    return folder


def gpu(device: str) -> str:
    """``CUDA_VISIBLE_DEVICES`` for a process of ours that is to see the one GPU that ``device`` means in this one."""
    number, seen = int(device.partition(":")[2] or 0), os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        return str(number)
    return dict(enumerate(seen.split(","))).get(number, "").strip()


def special_tokens(tok: PreTrainedTokenizerFast) -> list[str]:
    """Every token that the template uses as structure."""
    return [t.content for t in tok.added_tokens_decoder.values() if t.special and len(t.content) > 1]


def defused(node: Any, specials: Sequence[str]) -> Any:
    """``node`` with the structure's own tokens broken up wherever they stand in text: words cannot pose as structure."""
    if isinstance(node, dict):
        return {k: defused(v, specials) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [defused(v, specials) for v in node]
    if isinstance(node, str):
        for special in specials:
            node = node.replace(special, f"{special[0]} {special[1:]}")
    return node


def rendered(tok: PreTrainedTokenizerFast, prompt: Prompt, specials: Sequence[str]) -> str:
    """``prompt`` as the template writes it, with no structure smuggled into its texts.

    The arguments of earlier calls are read first, as servers do: a template that writes JSON would quote them twice.
    """
    messages, tools = defused((prompt.messages, prompt.tools), specials)
    for message in messages:
        message["content"] = _words(message["content"])
        for function in (c["function"] for c in message.get("tool_calls", ())):
            if isinstance(function["arguments"], str):
                function["arguments"] = json.loads(function["arguments"])
    return str(tok.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False))


class Base:
    """The files of the base that ``table`` names."""

    def __init__(self, table: ModelTable) -> None:
        """Read tokenizer and template.

        Raises:
            ModelError: it is not there, has no chat template, or the one in the settings cannot be used.
        """
        from transformers import AutoConfig, AutoTokenizer
        from transformers.utils import logging as noise

        noise.set_verbosity_error()
        noise.disable_progress_bar()
        self.where = locate(table.name)
        try:
            self.tok: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(self.where)
            config = AutoConfig.from_pretrained(self.where)
        except Exception as error:  # transformers raises many kinds for a missing or broken model
            raise unloadable(table.name, error) from error
        if table.template:
            self._take(table.template)
        if self.tok.chat_template is None:
            raise ModelError(
                "The model {name!r} has no chat template.", "Set [model] template to a Jinja file.", name=table.name
            )
        if self.tok.pad_token_id is None:
            self.tok.pad_token = self.tok.eos_token
        self.path = Path(self.where).absolute()  # a training runs in another folder
        if not self.path.is_dir():
            try:
                self.path = _fetched(self.where)
            except Exception as error:  # no network, no leave, a full disk
                raise unloadable(table.name, error) from error
        self.digest = digest_of(self.path)
        self.sees = hasattr(config, "vision_config")
        self.context = table.context or int(config.get_text_config().max_position_embeddings)
        self.specials = special_tokens(self.tok)

    def _take(self, template: str) -> None:
        """Use another template than the model's own; tried here, so that no reply fails on it."""
        try:
            self.tok.chat_template = Path(template).read_text("utf-8")
            self.tok.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True, tokenize=False)
        except Exception as error:  # whatever a template may do
            raise ModelError(
                "The template {file} cannot be used: {reason}.",
                "Mend it, or leave [model] template empty to keep the model's own.",
                file=template,
                reason=getattr(error, "strerror", None) or " ".join(str(error).split()),
            ) from error

    def count(self, text: str) -> int:
        """Tokens in ``text``."""
        return len(self.tok(text, add_special_tokens=False)["input_ids"])

    def safe(self, prompt: Prompt) -> Prompt:
        """``prompt`` with no structure smuggled into its texts."""
        messages, tools = defused((prompt.messages, prompt.tools), self.specials)
        return Prompt(tuple(messages), tuple(tools), prompt.salt)

    def text_of(self, prompt: Prompt) -> str:
        """The raw prompt the model sees."""
        return rendered(self.tok, prompt, self.specials)

    def ids_of(self, prompt: Prompt) -> list[int]:
        """Its token ids.

        Raises:
            UsageError: longer than the context, so nothing could be answered.
        """
        ids: list[int] = self.tok(self.text_of(prompt), add_special_tokens=False)["input_ids"]
        if len(ids) >= self.context - LEAST_ROOM:
            raise UsageError(
                "The prompt has {count} tokens; the model reads {context}.",
                "Shorten the message, or lower [model] history in habitus.toml.",
                count=len(ids),
                context=self.context,
            )
        return ids


def _words(content: Any) -> str:
    """What stands in words in a message; pictures are the server's to count."""
    return content if isinstance(content, str) else " ".join(p["text"] for p in content if p.get("type") == "text")


def unloadable(name: str, error: Exception) -> ModelError:
    """What to say when transformers cannot load a model."""
    return ModelError(
        "The model {name!r} cannot be loaded: {reason}",
        "Set [model] name in habitus.toml (or --model) to a directory with a Llama, or to 'seedling'.",
        name=name,
        reason=str(error).strip().splitlines()[0],
    )
