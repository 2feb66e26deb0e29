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

TAIL = 2  # exchanges by which a conversation is known whose beginning is not resent: one alone is soon said twice
LOOK_BACK = 2000  # turns: an older conversation, resent, begins a new thread
Pair = tuple[str, str]


class Place(NamedTuple):
    """Where a history stands in what is recorded."""

    thread: str  # empty: nowhere, a new one begins
    again: str = ""  # the turn said last there, where it is the one that is asked: another reply is wanted


class _End(NamedTuple):
    """How a thread ends."""

    digest: str  # of all that was said
    tail: str  # … of what was said last
    asked: tuple[str, str]  # the digest before its last turn, and what was said in that
    turn: str
    open: bool  # the reply to that is yet to come, or was broken off


class Threads:
    """The ends of recorded conversations, by a digest of all that was said up to there."""

    def __init__(self, bag: Bag) -> None:
        self._bag, self._mark, self._lock = bag, START, threading.Lock()
        self._known: dict[str, _End] = {}
        self._ends: dict[str, list[str]] = {}  # threads by what they end with, the latest at the end
        self._tails: dict[str, list[str]] = {}  # … by what was said last in them
        self._asked: dict[tuple[str, str], list[str]] = {}  # … by what their last turn was said after, and its words

    def place(self, history: Sequence[Pair], user: str, named: str = "", likely: str = "") -> Place:
        """The conversation that ends where ``history`` does, or ends with a reply to ``user`` right after it.

        The longest recorded beginning counts, so that a reply that was cut off, which nobody recorded, is passed
        over. One that goes on otherwise than was recorded is a branch: a new thread. The same first words are no
        sign that the same conversation is meant. Where one conversation ends so and another went on with the same
        words, the first is meant: two people may say the same. A client that resends only what was said last is known
        by the last of that, where no other conversation ends so.

        Args:
            named: the thread, where the client knows it; only whether another reply is wanted is asked.
            likely: what the client calls the conversation. It counts where two ends are alike, and for a new thread;
                on its own it does not, as clients send chores and branches under the same name.
        """
        digests = _digests(history)
        with self._lock:
            self._refresh()
            known, asked = self._known.get(named or likely), (digests[-1], user.strip())
            if known and known.asked == asked:
                return Place(named or likely, "" if known.open else known.turn)
            if named:
                return Place(named)
            same = self._asked.get(asked, [])
            if open_ := [t for t in same if self._known[t].open]:
                return Place(open_[-1])
            if history and same and not self._ends.get(digests[-1]):
                return Place(same[-1], self._known[same[-1]].turn)
            ends = [self._ends.get(digest, []) for digest in reversed(digests[1:])]
            alike = self._tails.get(_tail(history), []) if history else []
            ends.insert(1, alike if len(alike) == 1 or likely in alike else [])
            for ending in filter(None, ends):
                return Place(likely if likely in ending else ending[-1])
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
            if known := self._known.pop(thread, None):
                self._ends[known.digest].remove(thread)
                self._tails[known.tail].remove(thread)
                self._asked[known.asked].remove(thread)
            if turns := self._bag.thread(thread):
                last, pairs = turns[-1], [(t.user, t.reply) for t in turns if t.reply]
                said = _digests(pairs)
                asked = (said[-2] if last.reply else said[-1], last.user.strip())
                now = self._known[thread] = _End(said[-1], _tail(pairs), asked, last.id, not last.reply)
                self._ends.setdefault(now.digest, []).append(thread)
                self._tails.setdefault(now.tail, []).append(thread)
                self._asked.setdefault(now.asked, []).append(thread)
        self._mark = end


def _digests(pairs: Sequence[Pair]) -> list[str]:
    """One digest for each beginning, the empty one first."""
    found = [""]
    for user, reply in pairs:
        text = "\x1f".join((found[-1], user.strip(), reply.strip()))
        found.append(hashlib.sha256(text.encode()).hexdigest())
    return found


def _tail(pairs: Sequence[Pair]) -> str:
    """The digest of the last exchanges alone; of all, where there are not more."""
    return _digests(pairs[-TAIL:])[-1]
