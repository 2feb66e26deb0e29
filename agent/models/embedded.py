"""The embedded body: transformers + PEFT in this process.

One base, several LoRA adapters with weights active at once, another self without reloading
the base. Adapters are state of the model, so whoever uses it takes turns: by the token where words are spoken,
by the batch where many are asked at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError
from agent.models.base import Base, unloadable
from agent.models.calls import calling
from agent.models.sampling import Sampler, circling, looped
from agent.ports import BASE, Prompt, Usage, Voice

if TYPE_CHECKING:
    import torch
    from langchain_core.language_models import BaseChatModel

    from agent.settings import ModelTable, Sampling

TOGETHER = 32  # prompts in a batch
PACE = 0.03  # seconds between two pieces of a stream: no eye is faster, and each costs LangChain 0.2 ms


class EmbeddedBody(Base):
    """See ``agent.ports.Body``."""

    def __init__(self, table: ModelTable) -> None:
        """Load the base that ``table`` names.

        Raises:
            ModelError: it is not there, or no causal language model.
        """
        import torch
        from transformers import AutoModelForCausalLM

        super().__init__(table)
        if table.threads:
            torch.set_num_threads(table.threads)
        device = table.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = {"auto": torch.float32 if device == "cpu" else torch.bfloat16}.get(table.dtype) or getattr(
            torch, table.dtype
        )
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype).to(device).eval()
        except Exception as error:
            raise unloadable(table.name, error) from error
        stops = self.model.generation_config.eos_token_id
        self._stops = {
            self.tok.eos_token_id,
            *(stops if isinstance(stops, list) else [stops] if stops is not None else []),
        }
        self._turns = Turns()
        self._worn: Voice = BASE
        self._peft: Any = None
        self._scaling: dict[str, dict[str, float]] = {}

    def chat(self, voice: Voice, sampling: Sampling, salt: str = "") -> BaseChatModel:
        from agent.models.chat import HabitusChat

        return HabitusChat(body=self, voice=voice, sampling=sampling, salt=salt, streaming=True)

    def resting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ready(self, voice: Voice) -> None:
        with self._turns:
            self._wear(voice)

    # -- speaking ------------------------------------------------------------------------------

    def stream(
        self, prompt: Prompt, voice: Voice, sampling: Sampling, tool_choice: str = "auto"
    ) -> Generator[str, None, Usage]:
        import torch

        if any(not isinstance(m["content"], str) for m in prompt.messages):
            raise ModelError("This model cannot look at pictures.", "Say it in words.")
        ids = self.ids_of(prompt)
        sampler = Sampler(self.tok, sampling)
        constraint = self._constraint(prompt, tool_choice) if tool_choice not in ("auto", "none") else None
        undecided = bool(prompt.tools) and tool_choice == "auto"
        context = torch.tensor(ids, device=self.model.device)
        step, cache, shown, at = context[None, :], None, "", 0.0
        reply: list[int] = []
        room = min(sampling.max_tokens, self.context - len(ids))
        while len(reply) < room:
            with self._turns, torch.inference_mode():  # by the token, so that nobody waits for another's whole reply
                out = self._wear(voice)(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
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
                called = calling(text)
                undecided = called is None
                if called:  # asked for again: only a legal call may follow
                    constraint = self._constraint(prompt, "required")
                    step, cache, reply = context[None, : len(ids)], None, []
                    continue
            if constraint is not None and constraint.finished:
                break
            if constraint is None and (cut := _stopped(text, sampling.stop)):
                yield text[len(shown) : cut - 1]
                return Usage(len(ids), len(reply))
            if constraint is None and looped(text):
                break
            ready = text.rstrip("\ufffd")  # half a character waits for the rest
            ready = ready[: len(ready) - _held_back(ready, sampling.stop)]
            if not undecided and len(ready) > len(shown) and time.monotonic() - at >= PACE:
                yield ready[len(shown) :]
                shown, at = ready, time.monotonic()
            step = torch.tensor([[token]], device=context.device)
            context = torch.cat([context, step[0]])
        text = self.tok.decode(reply, skip_special_tokens=True)
        if len(text) > len(shown):
            yield text[len(shown) :]
        return Usage(len(ids), len(reply))

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
        for start in range(0, len(order), TOGETHER):
            batch = order[start : start + TOGETHER]
            with self._turns, torch.inference_mode():
                found = self._greedy(self._wear(voice), [rows[i] for i in batch], max_tokens)
            said |= zip(batch, found, strict=True)
        # the end stays: of one cut behind a space every token counts
        return [self.tok.decode(said[i], skip_special_tokens=True).lstrip() for i in range(len(rows))]

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
        for start in range(0, len(order), TOGETHER):
            batch = order[start : start + TOGETHER]
            whole = stacked([rows[i] + tails[i] for i in batch], self.tok.pad_token_id)
            longest = max(len(tails[i]) for i in batch)
            with self._turns, torch.inference_mode():
                inputs = {k: v.to(self.model.device) for k, v in whole.items()}
                best = self._wear(voice)(**inputs, logits_to_keep=longest + 1).logits.argmax(-1).cpu()
            for i, row in zip(batch, best, strict=True):
                wanted = torch.tensor(tails[i])
                shares[i] = int((row[-len(wanted) - 1 : -1] == wanted).sum()) / len(wanted)
        return shares

    def next(self, prompt: Prompt, voice: Voice) -> torch.Tensor:
        import torch

        ids = torch.tensor([self.ids_of(prompt)], device=self.model.device)
        with self._turns, torch.inference_mode():
            return self._wear(voice)(input_ids=ids, logits_to_keep=1).logits[0, -1].float().log_softmax(-1).cpu()

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
        for name in [n for n in self._peft.peft_config if n not in weights][:-6]:
            self._peft.delete_adapter(name)  # keep the other language, and the few selves a rollback may return to
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


class Turns:
    """A lock that is had in the order in which it was asked for; a plain one may starve somebody for long."""

    def __init__(self) -> None:
        self._guard, self._held, self._waiting = threading.Lock(), False, deque[threading.Lock]()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()  # until the one before hands it on

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False


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
