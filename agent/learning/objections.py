"""What the person did not want to hear: replies that were said again, written anew, or rebuked."""

from __future__ import annotations

from collections.abc import Sequence

from agent.bag import Bag
from agent.learning.data import marks
from agent.records import Example, Habit, Turn, Verdict


def unwanted(bag: Bag, turn: Turn) -> str:
    """The reply to this turn that the person did not let stand; empty when there is none.

    An earlier state of the turn holds a reply that was said again or written anew. A correction in the next
    turn of the conversation rebukes the reply before it.
    """
    ledger = bag.ledger
    said = [t.reply for t in ledger.history(Turn, turn.id) if t.self_name]  # not what the person wrote in its place
    replaced = [reply for reply in said if reply and reply != turn.reply]
    if replaced:
        return replaced[-1]
    return turn.reply if rebuked(bag, turn) else ""


def rebuked(bag: Bag, turn: Turn) -> bool:
    """Whether the next turn of the conversation corrects the reply to this one."""
    after = next((t for t in bag.thread(turn.thread) if int(t.id[1:]) > int(turn.id[1:])), None)
    return after is not None and any(v.kind == "correction" for v in bag.ledger.all(Verdict, parent=after.id))


def objected(bag: Bag, e: Example, taught: Sequence[str]) -> Example:
    """A row from a turn, with the reply that was not wanted there as the one to be rejected.

    Where the person wrote the answer himself, and it shows the habit as ``taught`` (what is said under its rule)
    does, his words are what is to be said.
    """
    turn, habit = bag.ledger.get(Turn, e.source), bag.ledger.get(Habit, e.habit)
    bad = unwanted(bag, turn)
    words = marks(habit.rule, taught)
    by_hand = not turn.self_name and bool(bad) and bool(words) and all(w in turn.reply for w in words)
    said = turn.reply if by_hand else e.completion
    return e.model_copy(update={"completion": said, "rejected": bad if bad and bad != said else e.rejected})
