"""To which conversation a resent history belongs: clients send the whole of it each time, and most name none."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from agent.bag import Bag
from agent.memory import START
from agent.records import Turn

LOOK_BACK = 2000  # turns: an older conversation, resent, begins a new thread
Pair = tuple[str, str]


class Place(NamedTuple):
    """Where a history stands in what is recorded."""

    thread: str  # empty: nowhere, a new one begins
    again: bool = False  # its message is the one that was said last there: another reply is wanted


class Threads:
    """The ends of recorded conversations, by a digest of all that was said up to there."""

    def __init__(self, bag: Bag) -> None:
        self._bag, self._mark, self._lock = bag, START, threading.Lock()
        self._ends: dict[str, str] = {}  # digest of a whole conversation → thread
        self._asked: dict[tuple[str, str], str] = {}  # digest of all but its last turn, and what was said in that
        self._keys: dict[str, tuple[str, tuple[str, str]]] = {}  # both, of each thread

    def place(self, history: Sequence[Pair], user: str, named: str = "", likely: str = "") -> Place:
        """The conversation that ends where ``history`` does, or ends with a reply to ``user`` right after it.

        The longest recorded beginning counts, so that a reply that was cut off, which nobody recorded, is passed
        over. One that goes on otherwise than was recorded is a branch: a new thread. The same first words are no
        sign that the same conversation is meant.

        Args:
            named: the thread, where the client knows it; only whether another reply is wanted is asked.
            likely: what the client calls the conversation. It counts where two ends are alike, and for a new thread;
                on its own it does not, as clients send chores and branches under the same name.
        """
        digests = _digests(history)
        with self._lock:
            self._refresh()
            known = self._keys.get(named or likely)
            again = known is not None and known[1] == (digests[-1], user.strip())
            if named or again:
                return Place(named or likely, again)
            if history and (thread := self._asked.get((digests[-1], user.strip()))):
                return Place(thread, again=True)
            for digest in reversed(digests[1:]):
                if thread := likely if known and digest == known[0] else self._ends.get(digest, ""):
                    return Place(thread)
            return Place("" if known else likely)

    def _refresh(self) -> None:
        """Take in what was recorded since, by whichever process."""
        ledger, end = self._bag.ledger, self._bag.ledger.end()
        if end == self._mark:
            return
        new = islice(ledger.newest(Turn), LOOK_BACK) if self._mark == START else ledger.since(Turn, self._mark)
        changed = list(dict.fromkeys(t.thread for t in new))
        if self._mark == START:
            changed.reverse()  # where two conversations were the same, the later one counts
        for thread in changed:
            if known := self._keys.pop(thread, None):
                self._ends.pop(known[0], None)
                self._asked.pop(known[1], None)
            pairs = [(t.user, t.reply) for t in self._bag.thread(thread)]
            if pairs:
                *_, before, last = _digests(pairs)
                self._keys[thread] = (last, (before, pairs[-1][0].strip()))
                self._ends[last] = self._asked[self._keys[thread][1]] = thread
        self._mark = end


def _digests(pairs: Sequence[Pair]) -> list[str]:
    """One digest for each beginning, the empty one first."""
    found = [""]
    for user, reply in pairs:
        text = "\x1f".join((found[-1], user.strip(), reply.strip()))
        found.append(hashlib.sha256(text.encode()).hexdigest())
    return found
