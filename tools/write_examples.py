from typing import Annotated

from pydantic import Field, StringConstraints

from agent.learning.data import is_probe, near_duplicate
from agent.phrase import Phrase
from prompts import language_of
from tools.base import Desk, ToolError, tool


@tool
def write_examples(
    desk: Desk,
    habit: int,
    prompts: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200)]], Field(min_length=1, max_length=12)
    ],
) -> str:
    """Make up short messages a person might send, to practise the habit with."""
    if desk.draft is None or habit not in desk.habits:
        raise ToolError("there is no draft to write for")
    kept = list(desk.draft.prompts)
    for prompt in prompts:
        fits = language_of(prompt) in desk.habits[habit].scope
        if fits and not is_probe(prompt) and not any(near_duplicate(prompt, k) for k in kept):
            kept.append(prompt)
    new = len(kept) - len(desk.draft.prompts)
    desk.draft = desk.bag.ledger.add(desk.draft.model_copy(update={"prompts": tuple(kept)}))
    return Phrase("kept {kept} of {count}", kept=new, count=len(prompts))
