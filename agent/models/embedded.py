"""The embedded body: transformers + PEFT in this process.

One base, several LoRA adapters with weights active at once, another self without reloading
the base. One reply at a time: adapters are state of the model, so a lock guards it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError
from agent.models.calls import looks_like_call
from agent.models.sampling import Sampler, circling, looped
from agent.ports import BASE, Prompt, Voice

if TYPE_CHECKING:
    import torch
    from langchain_core.language_models import BaseChatModel
    from transformers import PreTrainedTokenizerFast

    from agent.settings import ModelTable, Sampling

SEEDLING = Path(__file__).parents[2] / "seedling" / "model"
_WHOLE = 1 << 30  # files larger than this are identified by size and samples
_SAMPLES, _SAMPLE = 256, 1 << 16
PACE = 0.03  # seconds between two pieces of a stream: no eye is faster, and each costs LangChain 0.2 ms


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


class EmbeddedBody:
    """See ``agent.ports.Body``."""

    def __init__(self, table: ModelTable) -> None:
        """Load the base that ``table`` names.

        Raises:
            ModelError: it is not there, or no causal language model.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as noise

        noise.set_verbosity_error()
        noise.disable_progress_bar()
        if table.threads:
            torch.set_num_threads(table.threads)
        device = table.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = {"auto": torch.float32 if device == "cpu" else torch.bfloat16}.get(table.dtype) or getattr(
            torch, table.dtype
        )
        where = locate(table.name)
        try:
            self.tok: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(where)
            self.model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype).to(device).eval()
        except Exception as error:  # transformers raises many kinds for a missing or broken model
            raise ModelError(
                "The model {name!r} cannot be loaded: {reason}",
                "Set [model] name in habitus.toml (or --model) to a directory with a Llama, or to 'seedling'.",
                name=table.name,
                reason=str(error).strip().splitlines()[0],
            ) from error
        if table.template:
            self.tok.chat_template = Path(table.template).read_text("utf-8")
        if self.tok.chat_template is None:
            raise ModelError(
                "The model {name!r} has no chat template.", "Set [model] template to a Jinja file.", name=table.name
            )
        if self.tok.pad_token_id is None:
            self.tok.pad_token = self.tok.eos_token
        self._path = Path(getattr(self.model.config, "_name_or_path", where) or where)
        if not self._path.is_dir():
            from huggingface_hub import snapshot_download

            self._path = Path(snapshot_download(where, local_files_only=True))
        self._digest = digest_of(self._path)
        self.context = table.context or int(self.model.config.max_position_embeddings)
        stops = self.model.generation_config.eos_token_id
        self._stops = {
            self.tok.eos_token_id,
            *(stops if isinstance(stops, list) else [stops] if stops is not None else []),
        }
        self._specials = special_tokens(self.tok)
        self._lock = threading.RLock()
        self._worn: Voice = BASE
        self._peft: Any = None
        self._scaling: dict[str, dict[str, float]] = {}

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def path(self) -> Path:
        return self._path

    def chat(self, voice: Voice, sampling: Sampling) -> BaseChatModel:
        from agent.models.chat import HabitusChat

        return HabitusChat(body=self, voice=voice, sampling=sampling, streaming=True)

    def count(self, text: str) -> int:
        return len(self.tok(text, add_special_tokens=False)["input_ids"])

    # -- speaking ------------------------------------------------------------------------------

    def text_of(self, prompt: Prompt) -> str:
        """The raw prompt the model sees."""
        return str(
            self.tok.apply_chat_template(
                defused(list(prompt.messages), self._specials),
                tools=defused(list(prompt.tools), self._specials) or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        )

    def ids_of(self, prompt: Prompt) -> list[int]:
        """Its token ids.

        Raises:
            ModelError: longer than the context, so nothing could be answered.
        """
        ids: list[int] = self.tok(self.text_of(prompt), add_special_tokens=False)["input_ids"]
        if len(ids) >= self.context - 8:
            raise ModelError(
                "The prompt has {count} tokens; the model reads {context}.",
                "Shorten the message, or lower [model] history in habitus.toml.",
                count=len(ids),
                context=self.context,
            )
        return ids

    def stream(self, prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto") -> Iterator[str]:
        import torch

        ids = self.ids_of(prompt)
        sampler = Sampler(self.tok, sampling)
        constraint = self._constraint(prompt, tool_choice) if tool_choice not in ("auto", "none") else None
        undecided = bool(prompt.tools) and tool_choice == "auto"
        with self._lock:
            model = self._wear(voice)
            device = model.device
            context = torch.tensor(ids, device=device)
            step, cache, shown, at = context[None, :], None, "", 0.0
            reply: list[int] = []
            room = min(sampling.max_tokens, self.context - len(ids))
            while len(reply) < room:
                with torch.inference_mode():  # not around the yield: the caller is not to be left in it
                    out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    cache, scores = out.past_key_values, out.logits[0, -1].float()
                if constraint is not None:
                    token = sampler.draw_constrained(scores, constraint.allowed(scores))
                    constraint.accept(token)
                else:
                    token = sampler.draw(scores, context, reply)
                if token in self._stops:
                    break
                reply.append(token)
                text = self.tok.decode(reply, skip_special_tokens=True)
                if undecided:
                    raw = self.tok.decode(reply)
                    if looks_like_call(raw):  # from here on only a legal call may follow
                        constraint = self._constraint(prompt, "required")
                        opening = self.tok('{"', add_special_tokens=False)["input_ids"]
                        reply, text = opening[:1], self.tok.decode(opening[:1])
                        if token != opening[0]:
                            break
                        constraint.accept(opening[0])
                    undecided = not raw.strip()
                if constraint is not None and constraint.finished:
                    yield text[len(shown) :]
                    return
                if constraint is None and (cut := _stopped(text, sampling.stop)):
                    yield text[len(shown) : cut - 1]
                    return
                if constraint is None and looped(text):
                    break
                ready = text.rstrip("\ufffd")  # half a character waits for the rest
                ready = ready[: len(ready) - _held_back(ready, sampling.stop)]
                if len(ready) > len(shown) and time.monotonic() - at >= PACE:
                    yield ready[len(shown) :]
                    shown, at = ready, time.monotonic()
                step = torch.tensor([[token]], device=device)
                context = torch.cat([context, step[0]])
            text = self.tok.decode(reply, skip_special_tokens=True)
            if len(text) > len(shown):
                yield text[len(shown) :]

    def _constraint(self, prompt: Prompt, tool_choice: str) -> Any:
        from agent.models.grammar import Constraint

        tools = list(prompt.tools)
        if tool_choice not in ("required", "any"):
            tools = [t for t in tools if t.get("function", t)["name"] == tool_choice]
        if not tools:
            raise ModelError("The tool {tool!r} is not among those offered.", tool=tool_choice)
        return Constraint(self.tok, tools)

    def answers(self, prompts: Sequence[Prompt], voice: Voice, max_tokens: int = 120) -> list[str]:
        import torch

        rows = [self.ids_of(p) for p in prompts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        said: dict[int, list[int]] = {}
        with self._lock, torch.inference_mode():
            model = self._wear(voice)
            for start in range(0, len(order), 32):
                batch = order[start : start + 32]
                said |= zip(batch, self._greedy(model, [rows[i] for i in batch], max_tokens), strict=True)
        return [self.tok.decode(said[i], skip_special_tokens=True).strip() for i in range(len(rows))]

    def _greedy(self, model: Any, rows: list[list[int]], most: int) -> list[list[int]]:
        """The likeliest reply to each row of tokens, until it ends or goes in circles.

        A row that has ended leaves the batch. transformers' own loop drags it along until the last one ends,
        which takes half as long again (docs/log.md).
        """
        import torch

        inputs = {k: v.to(model.device) for k, v in stacked(rows, self.tok.pad_token_id).items()}
        stops = torch.tensor(sorted(self._stops), device=model.device)
        said: list[list[int]] = [[] for _ in rows]
        live, replies, cache = list(range(len(rows))), inputs["input_ids"][:, :0], None
        for _ in range(most):
            out = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            replies = torch.cat([replies, token], -1)
            ended = torch.isin(token[:, 0], stops) | circling(replies)
            for i, reply in zip(live, replies.tolist(), strict=True):
                said[i] = reply
            stay = (~ended).nonzero()[:, 0]
            if not len(stay):
                break
            if len(stay) < len(live):
                cache.batch_select_indices(stay)
                live = [live[j] for j in stay.tolist()]
            replies, mask = replies[stay], inputs["attention_mask"][stay]
            inputs = {
                "input_ids": token[stay],
                "attention_mask": torch.cat([mask, torch.ones_like(token[stay])], -1),
                "position_ids": inputs["position_ids"][stay, -1:] + 1,
            }
        return said

    def agreement(self, prompts: Sequence[Prompt], replies: Sequence[str], voice: Voice) -> list[float]:
        import torch

        rows = [self.ids_of(p) for p in prompts]
        tails = [[*self.tok(r, add_special_tokens=False)["input_ids"], self.tok.eos_token_id] for r in replies]
        shares = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + len(tails[i]))
        with self._lock, torch.inference_mode():
            model = self._wear(voice)
            for start in range(0, len(order), 32):
                batch = order[start : start + 32]
                whole = stacked([rows[i] + tails[i] for i in batch], self.tok.pad_token_id)
                longest = max(len(tails[i]) for i in batch)
                inputs = {k: v.to(model.device) for k, v in whole.items()}
                best = model(**inputs, logits_to_keep=longest + 1).logits.argmax(-1).cpu()
                for i, row in zip(batch, best, strict=True):
                    wanted = torch.tensor(tails[i])
                    shares[i] = int((row[-len(wanted) - 1 : -1] == wanted).sum()) / len(wanted)
        return shares

    # -- wearing adapters ----------------------------------------------------------------------

    def _wear(self, voice: Voice) -> Any:
        """The model with exactly ``voice``'s adapters active."""
        import torch

        with torch.inference_mode(False):  # what is loaded in inference mode can never be switched again
            return self._dress(voice)

    def _dress(self, voice: Voice) -> Any:
        if voice == self._worn:
            return self._peft if voice.parts else self._bare()
        if not voice.parts:
            self._worn = voice
            return self._bare()
        weights: dict[str, float] = {}
        for path, weight in voice.parts:
            self._load(path)
            weights[path.name] = weights.get(path.name, 0.0) + weight
        self._peft.base_model.enable_adapter_layers()
        self._peft.base_model.set_adapter(list(weights))
        self._peft.requires_grad_(False)
        for key, module in self._peft.named_modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                for name, weight in weights.items():
                    if name in module.scaling:
                        own = self._scaling.setdefault(name, {}).setdefault(key, module.scaling[name])
                        module.scaling[name] = own * weight
        self._worn = voice
        self._peft.active_adapter = next(iter(weights))  # PEFT keeps a pointer of its own
        for name in [n for n in self._peft.peft_config if n not in weights][:-3]:
            self._peft.delete_adapter(name)  # keep the few selves a rollback may return to
            self._scaling.pop(name, None)
        return self._peft

    def _bare(self) -> Any:
        if self._peft is not None:
            self._peft.base_model.disable_adapter_layers()
            return self._peft
        return self.model

    def _load(self, path: Path) -> None:
        from peft import PeftModel

        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.model, str(path), adapter_name=path.name).eval()
            elif path.name not in self._peft.peft_config:
                self._peft.load_adapter(str(path), adapter_name=path.name)
                self._peft.eval()
        except Exception as error:
            raise ModelError(
                "The adapter {adapter} cannot be worn: {reason}",
                "Run `habitus doctor`; `habitus rollback` returns to an earlier self.",
                adapter=path.name,
                reason=str(error).strip().splitlines()[0],
            ) from error


def stacked(rows: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Model inputs ``[rows, longest]``, padded on the left so that every completion ends in the last column."""
    import torch

    ids = torch.full((len(rows), max(map(len, rows))), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, -len(row) :] = torch.tensor(row)
        mask[i, -len(row) :] = 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}


def _stopped(text: str, stops: Sequence[str]) -> int:
    """One past the place where a stop sequence begins in ``text``; 0 when none does."""
    places = [text.find(s) for s in stops if s and s in text]
    return min(places) + 1 if places else 0


def _held_back(text: str, stops: Sequence[str]) -> int:
    """How many last characters could be the beginning of a stop sequence."""
    return max((n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
