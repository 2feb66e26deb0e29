"""The lid off: the exact prompt, layer by layer, and what each sampling value makes of the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from agent.models.chat import to_message
from agent.models.sampling import Sampler
from agent.ports import BASE, Prompt, Voice
from agent.records import Mask
from agent.settings import Sampling
from graphs import converse
from prompts import language_of, render

if TYPE_CHECKING:
    import torch

    from app.habitus import Habitus

Json = dict[str, Any]
SHOWN = 8  # tokens of a distribution


def lifted(habitus: Habitus, text: str, thread: str = "") -> Json:
    """What the model would read if ``text`` were said now, and what it would be likely to say first.

    ``next`` holds three: who speaks now, the same prompt without its adapters, and the base without mask or history.

    Raises:
        NotFoundError: the named thread holds no turn.
    """
    bag = habitus.bag
    if thread:
        habitus.begun(thread)
    who, language = bag.selves.current(), language_of(text)
    mask, voice = bag.selves.dressed(who, language)
    memories = [found for _, found, _ in bag.index.near(text, "memory", 3, least=converse.NEAR)]
    system = converse.system_text(mask, language, memories)
    told = converse.latest(bag, converse.history(bag, thread)) if thread else []
    tools = converse.own_tools(bag, "growth", who, language, text)
    messages = converse.fitting(bag, system, [*mask.few_shot, *told], [HumanMessage(text)], tools)
    prompt = Prompt(tuple(map(to_message, messages)), tuple(tools))
    bare = Prompt(tuple(map(to_message, converse.ask_messages(Mask(), text, language))))
    sampling = bag.selves.sampling(who)
    return {
        "text": text,
        "self": who.id,
        "language": language,
        "layers": {
            "base": converse.system_text(Mask(), language, []),
            "mask": {
                "persona": mask.persona.get(language) or render("persona", language),
                "mood": mask.mood,
                "rules": list(mask.rules_for(language)),
                "few_shot": [list(pair) for pair in mask.few_shot],
            },
            "weights": [{"adapter": path.parent.name, "weight": weight} for path, weight in voice.parts],
            "memory": memories,
            "history": [list(pair) for pair in told],
            "tools": [t["function"]["name"] for t in tools],
        },
        "prompt": bag.body.text_of(prompt),
        "tokens": len(bag.body.ids_of(prompt)),
        "next": {
            "self": _steps(habitus, prompt, voice, sampling),
            "without its weights": _steps(habitus, prompt, BASE, sampling),
            "base": _steps(habitus, bare, BASE, sampling),
        },
    }


def _steps(habitus: Habitus, prompt: Prompt, voice: Voice, sampling: Sampling) -> list[Json]:
    """The likeliest first tokens: as the weights have it, then after each value of the sampling table that is on."""
    import torch

    body = habitus.bag.body
    scores = body.next(prompt, voice)
    context = torch.tensor(body.ids_of(prompt))
    found = [("weights", scores), *Sampler(body.tok, sampling).steps(scores, context, [])]
    return [{"step": name, "top": _top(body.tok, s)} for name, s in found]


def _top(tok: Any, scores: torch.Tensor) -> list[Json]:
    best = scores.softmax(-1).topk(SHOWN)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"token": tok.decode([i]), "p": round(p, 4)} for i, p in pairs if p > 0]
