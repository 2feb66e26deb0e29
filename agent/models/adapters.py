"""Which adapters a vLLM server holds, under names that never change their meaning.

A name stands for bytes: an adapter's own where it speaks alone, else a digest of what was put together. The same
name with other bytes would go on speaking from the server's cache. Before a name speaks it must show that its
weights do: a server that silently stays on its base answers all the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.errors import ModelError, StorageError
from agent.models.composing import CONFIG, compose, still
from agent.ports import Voice

if TYPE_CHECKING:
    import openai

Forced = list[tuple[float, int]]  # log-probability and rank of each token of a reply that was forced
KEEP = 4  # names held besides those that speak just now: both languages, now and before
CANARY = "canary.json"
SERVED = "served"  # in the bag: what was put together for servers
OF = "of.json"  # in each of these: the adapters it was put together of
ALONE, AMONG = 0.25, 0.1  # how far off one adapter may be; how much of their shift several must show


class Line(NamedTuple):
    """A reply of the base, and what it weighs: log-probability under the base and under the adapter, in nats."""

    prompt: list[int]
    reply: list[int]
    base: float
    worn: float


class Adapters:
    """What one server wears."""

    def __init__(
        self,
        api: openai.OpenAI,
        base: str,
        store: Path,
        rank: int,
        plain: Path | None,
        forced: Callable[[str, Sequence[tuple[list[int], list[int]]]], list[Forced]],
    ) -> None:
        """``plain``: the base's files, where it must not be asked for beside adapters (``Server.still``)."""
        self._api, self._base, self._store, self._rank, self._forced = api, base, store, rank, forced
        self._plain = plain
        self._loading, self._lock = threading.Lock(), threading.Lock()  # nobody waits for a load but who needs it
        self._known: dict[Voice, str] = {}  # loaded and proven, the one used last at the end
        self._speaking: Counter[str] = Counter()

    @contextmanager
    def worn(self, voice: Voice) -> Iterator[str]:
        """The name to ask for. While inside, it is not unloaded."""
        voice = Voice(tuple(part for part in voice.parts if part[1]))
        name = self._taken(voice)
        while name is None:
            self.load(voice)
            name = self._taken(voice)
        try:
            yield name
        finally:
            with self._lock:
                self._speaking[name] -= 1
            self._tidy()

    def _taken(self, voice: Voice) -> str | None:
        with self._lock:
            name = self._base if self._bare(voice) else self._known.pop(voice, None)
            if name:
                self._speaking[name] += 1
                if not self._bare(voice):
                    self._known[voice] = name  # at the end: the one used last
            return name

    def _bare(self, voice: Voice) -> bool:
        """Whether the server's own name is asked for."""
        return not voice.parts and self._plain is None

    def load(self, voice: Voice) -> str:
        """Have the server hold ``voice`` and show that its weights speak; the name.

        Raises:
            ModelError: the server refuses the adapter, or answers as if it were not there.
            StorageError: it cannot be put together here.
        """
        if self._bare(voice):
            return self._base
        with self._loading:
            if name := self._known.get(voice):
                return name
            path = self._directory(voice)
            self._announce(path)
            try:
                if voice.parts:
                    self._prove(path.name, voice)
            except BaseException:
                self._withdraw(path.name)
                raise
            with self._lock:
                self._known[voice] = path.name
            return path.name

    def lost(self) -> None:
        """The server was restarted: it holds nothing any more."""
        with self._lock:
            self._known.clear()

    def _directory(self, voice: Voice) -> Path:
        """A directory with ``voice`` as one adapter that the server can wear."""
        make: Callable[..., object]
        match voice.parts:
            case ():
                assert self._plain
                home, make = self._store / "still", partial(still, self._plain)
            case ((path, 1.0),) if _rank_of(path) <= self._rank:
                return path
            case parts:
                what = json.dumps([[[p.name, w] for p, w in parts], self._rank])
                home = self._store / f"s-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
                make = partial(compose, voice, rank=self._rank)
        if not home.is_dir():
            making = self._store / f"{home.name}.{os.getpid()}.{threading.get_ident()}"
            try:
                make(out=making)
                (making / OF).write_text(json.dumps([p.parent.name for p, _ in voice.parts]), "utf-8")
                with suppress(OSError):  # another process was faster: the same bytes
                    os.replace(making, home)
            except OSError as error:
                raise StorageError(
                    "The adapters could not be put together for the server: {reason}.",
                    "Free the disk or mend permissions; who spoke before goes on speaking.",
                    reason=error.strerror or str(error),
                ) from error
            finally:
                shutil.rmtree(making, ignore_errors=True)
        return home

    def _announce(self, path: Path) -> None:
        import openai

        from agent.models.vllm import reason_of

        body = {"lora_name": path.name, "lora_path": str(path.absolute())}
        try:
            self._api.post("/load_lora_adapter", cast_to=str, body=body)
        except openai.APIStatusError as error:
            reason = reason_of(error)
            if "already been loaded" in reason:  # by another process: a name stands for the same bytes everywhere
                return
            raise ModelError(
                "The model server does not take the adapter {adapter}: {reason}.",
                "Who spoke before goes on speaking. `habitus doctor` looks at the adapter and the server.",
                adapter=path.name,
                reason=reason,
            ) from error

    def _withdraw(self, name: str) -> None:
        import openai

        with suppress(openai.OpenAIError):
            self._api.post("/unload_lora_adapter", cast_to=str, body={"lora_name": name})

    def _prove(self, name: str, voice: Voice) -> None:
        """Let the server weigh replies whose weight under base and adapter the training had noted.

        One adapter by itself must shift them as noted. What several do together nobody noted: they must shift them.
        """
        lines = [(x, weight) for path, weight in voice.parts for x in canary(path)]
        got = self._forced(name, [(x.prompt, x.reply) for x, _ in lines])
        found = [sum(p for p, _ in row) - x.base for row, (x, _) in zip(got, lines, strict=True)]
        noted = [weight * (x.worn - x.base) for x, weight in lines]
        if [weight for _, weight in voice.parts] == [1.0]:
            shown = sum(map(mul, found, noted)) / (sum(map(mul, noted, noted)) or 1.0)
            proven = abs(1 - shown) <= ALONE
        else:
            shown = math.hypot(*found) / (math.hypot(*noted) or 1.0)
            proven = shown >= AMONG
        if not proven:
            raise ModelError(
                "The model server does not speak as {name}: {shown} of the effect noted in training is there.",
                "Who spoke before goes on speaking. Restart the server, then try again.",
                name=name,
                shown=f"{shown:.0%}",
            )

    def _tidy(self) -> None:
        """Let the server forget what has not spoken for long."""
        with self._lock:
            idle = [v for v, name in self._known.items() if not self._speaking[name]]
            gone = [self._known.pop(v) for v in idle[: max(0, len(self._known) - KEEP)]]
        for name in gone:
            self._withdraw(name)


def drop(store: Path, names: set[str]) -> None:
    """Delete from ``store`` what was put together of any of these adapters, or does not say of which."""
    for path in store.glob("*"):
        try:
            of = set(json.loads((path / OF).read_text("utf-8")))
        except (OSError, ValueError):
            of = names
        if of & names:
            shutil.rmtree(path, ignore_errors=True)


def canary(path: Path) -> list[Line]:
    """What a training noted of its adapter (``agent/learning/train.py``).

    Raises:
        StorageError: nothing is noted there.
    """
    try:
        return [Line(**row) for row in json.loads((path / CANARY).read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            "The adapter {adapter} is not whole: {file} cannot be read.",
            "`habitus rollback` returns to an earlier self; a copy of the bag brings the adapter back.",
            adapter=path.name,
            file=CANARY,
        ) from error


def _rank_of(path: Path) -> int:
    config = json.loads((path / CONFIG).read_text("utf-8"))
    return int(max([config["r"], *config.get("rank_pattern", {}).values()]))
