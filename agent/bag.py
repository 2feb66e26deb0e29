"""The bag: the folder that holds everything the agent is, opened.

habitus.toml   settings            adapters/   immutable LoRA weights
ledger.db      the record          runs/       work in progress and training logs
index/         Chroma, rebuilt     checkpoints.db  LangGraph, update only, rebuilt
turns/         JSONL export
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any

from agent.errors import BusyError, StorageError
from agent.ledger import Ledger
from agent.memory import Index
from agent.ports import Body
from agent.records import OPEN, Abstention, Event, Frame, Habit, Proposal, Self, Turn, Verdict
from agent.selves import Selves
from agent.settings import FILE, Settings, default_toml

Toolboxes = dict[Frame, tuple[dict[str, Any], ...]]  # tools offered in each frame, for teaching and examining
LOOK_BACK = 1000  # turns in which use and keeping are looked for
KEPT_ENOUGH = 12  # conversations: more would not change any decision, only cost time


class Bag:
    """One being's folder. Everything heavy opens on first use."""

    def __init__(self, path: Path, settings: Settings, body: Callable[[], Body], toolboxes: Toolboxes) -> None:
        self.path, self.settings, self._make_body, self.toolboxes = path, settings, body, toolboxes

    @cached_property
    def ledger(self) -> Ledger:
        ledger = Ledger(self.path / "ledger.db")
        settings = self.path / FILE
        if not settings.exists():
            settings.write_text(default_toml(), "utf-8")
        return ledger

    @cached_property
    def body(self) -> Body:
        return self._make_body()

    @cached_property
    def index(self) -> Index:
        return Index(self.ledger, self.path / "index")

    @cached_property
    def passing_index(self) -> Index:
        """The same index in memory: for sandbox, which may leave nothing behind."""
        return Index(self.ledger, None)

    @cached_property
    def selves(self) -> Selves:
        return Selves(self.ledger, self.path, self.settings, lambda: self.body)

    def keep(self, turn: Turn) -> Turn:
        """Record a turn, or a newer state of one: ledger first, then the export, which can be rebuilt.

        One without a reply, yet or for good, is in the ledger alone. One that was erased meanwhile stays as it is.
        """
        with self.ledger.together() as add:
            before = self.ledger.get(Turn, turn.id) if turn.id else None
            if before and not before.user:
                return before
            turn = add(turn)
        if self.settings.sync.auto_save and turn.reply:
            try:
                if before and before.reply:
                    self.export(turn.at[:10])
                    return turn
                with self._day(turn.at[:10]) as file:
                    if self.ledger.get(Turn, turn.id).user:
                        file.write(_line(turn))
            except OSError as error:
                raise StorageError(
                    "The turn is in the ledger, but its JSONL export cannot be written: {error}.",
                    "Free the disk or mend permissions, or set [sync] auto_save = false.",
                    error=error,
                ) from error
        return turn

    def thread(self, name: str) -> list[Turn]:
        """The turns of a conversation in the order in which they were said; erased ones are left out.

        Not in the order of their rows: another reply, or an erasing, writes a newer one.
        """
        return sorted((t for t in self.ledger.all(Turn, parent=name) if t.user), key=lambda t: int(t.id[1:]))

    def export(self, day: str) -> None:
        """Write a day's JSONL file anew from the ledger; ``day`` is YYYY-MM-DD."""
        with self._day(day) as file:
            file.truncate(0)
            file.writelines(_line(t) for t in self.ledger.all(Turn, day=day) if t.user and t.reply)

    @contextmanager
    def _day(self, day: str) -> Iterator[IO[str]]:
        """A day's export, open at its end and held against other processes."""
        folder = self.path / "turns"
        folder.mkdir(exist_ok=True)
        with (folder / f"{day}.jsonl").open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def unjudged(self, limit: int) -> list[Turn]:
        """The oldest turns that were neither judged nor declined to be judged."""
        declined = {t for a in self.ledger.newest(Abstention, phase=("judge",)) for t in a.turns}
        found = self.ledger.unjudged(Turn, limit + len(declined))
        return [t for t in found if t.id not in declined][:limit]

    def kept_in(self, habit: Habit) -> int:
        """In how many of the latest conversations the rule stood in the mask and was let stand, up to ``KEPT_ENOUGH``."""
        ledger = self.ledger
        told = {ledger.get(Turn, t).thread for t in habit.evidence}  # being told is one act, keeping it another
        wearing = [s.id for s in ledger.newest(Self) if any(r.text == habit.rule for r in s.mask.rules)]
        threads: dict[str, bool] = {}
        for turn in islice(ledger.newest(Turn, self_name=wearing), LOOK_BACK):
            if habit.rule in turn.rules and turn.thread not in told:
                kinds = {v.kind for v in ledger.all(Verdict, parent=turn.id)}
                if "correction" in kinds:
                    threads[turn.thread] = False  # objected to
                elif "instruction" not in kinds:  # asking again is not keeping
                    threads.setdefault(turn.thread, True)
            if sum(threads.values()) >= KEPT_ENOUGH:
                break
        return sum(threads.values())

    def note(self, what: str, about: str = "") -> None:
        """Keep an event."""
        self.ledger.add(Event(what=what, about=about))

    @contextmanager
    def deciding_lock(self) -> Iterator[None]:
        """One decision at a time, whichever process it comes from; waits."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "deciding.lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def training_lock(self) -> AbstractContextManager[None]:
        """The one exclusive lock per training; dies with its process.

        Raises:
            BusyError: another process is training in this bag.
        """
        return self._alone(
            "training.lock",
            lambda process: BusyError(
                "Another training holds this bag (process {process}).",
                "Wait until it has finished; approved proposals stay approved.",
                process=process,
            ),
        )

    def ruminating_lock(self) -> AbstractContextManager[None]:
        """One pass of thinking over at a time, and nothing is erased under it; dies with its process.

        Raises:
            BusyError: one is under way.
        """
        return self._alone(
            "ruminating.lock",
            lambda process: BusyError(
                "What was said is being thought over (process {process}).",
                "Wait until it has finished, then try again.",
                process=process,
            ),
        )

    @contextmanager
    def _alone(self, name: str, busy: Callable[[str], BusyError]) -> Iterator[None]:
        """Hold a lock without waiting; ``busy``: what to say when a process has it already."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / name).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise busy(file.read().strip() or "?") from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def _line(turn: Turn) -> str:
    messages = [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.reply}]
    line = {"id": turn.id, "at": turn.at, "thread": turn.thread, "self": turn.self_name, "messages": messages}
    return json.dumps(line, ensure_ascii=False) + "\n"


def settled(bag: Bag) -> set[str]:
    """Habits that hold in the weights, or about to be decided on."""
    open_ = {p.habit for p in bag.ledger.all(Proposal) if p.status in OPEN}
    return open_ | {h.id for h in living(bag) if h.stage in ("essence", "fading")}


def living(bag: Bag) -> list[Habit]:
    """The habits that are in the weights now, with the scope in which they are worn: they may be told in another, too."""
    parts = bag.selves.current().parts
    return [bag.ledger.get(Habit, p.habit).model_copy(update={"scope": p.scope}) for p in parts if p.scope]
