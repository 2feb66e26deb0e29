"""Who speaks: immutable selves, and the pointer to the one that speaks now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.content import ERASED
from agent.errors import ConflictError, StorageError
from agent.phrase import Phrase
from agent.ports import Body, Voice
from agent.records import Erasure, Habit, Mask, Part, Record, Rule, Run, Self, Speaking
from agent.settings import Sampling, Settings, sampling
from prompts import LANGUAGES, Language

if TYPE_CHECKING:
    from agent.ledger import Ledger


BACK = "rollback to "  # how the cause of a rollback begins


def digest_of(adapter: Path) -> str:
    """Digest of an adapter: of its weights in each language.

    Raises:
        StorageError: it is not whole.
    """
    digest = hashlib.sha256()
    found = [p for p in sorted(adapter.glob("*")) if p.name.rpartition("-")[2] in LANGUAGES]
    for weights in found or [adapter]:  # of none nothing can be read
        digest.update(f"{weights.name.rpartition('-')[2]}\x1f".encode())  # the language
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            try:
                digest.update((weights / name).read_bytes())
            except OSError as error:
                raise StorageError(
                    "The adapter {adapter} is not whole: {file} cannot be read.",
                    "`habitus rollback` returns to an earlier self; a copy of the bag brings the adapter back.",
                    adapter=adapter.name,
                    file=name,
                ) from error
    return digest.hexdigest()


def worn(bag: Path, parts: Sequence[Part], language: Language) -> Voice:
    """The weights that ``parts`` mean where ``language`` is spoken: a habit speaks only inside its scope.

    Habits that share an adapter share its full weight.
    """
    weights: dict[str, float] = {}
    for part in parts:
        if language in part.scope:
            weights[part.adapter] = max(part.weight, weights.get(part.adapter, 0.0))
    home = bag / "adapters"
    return Voice(tuple((home / name / f"{name}-{language}", weight) for name, weight in weights.items()))


class Selves:
    """The selves of one bag. ``body`` gives what they speak with, asked only when needed."""

    def __init__(self, ledger: Ledger, bag: Path, settings: Settings, body: Callable[[], Body]) -> None:
        self._ledger, self._bag, self._settings, self._body = ledger, bag, settings, body
        self._known: dict[Path, tuple[float, str]] = {}
        self._digests: dict[str, str] = {}  # digests of the adapters that runs made; a run is never altered
        self._settled = False  # this process's settings have been put on, or are the ones worn

    def current(self) -> Self:
        """The self that speaks now. An unborn being's is not recorded before something is."""
        speaking = self._ledger.last(Speaking)
        if speaking is not None:
            return self._ledger.get(Self, speaking.self_name)
        prompt = self._settings.prompt
        return self._made(
            Mask(persona=prompt.persona, few_shot=prompt.few_shot), (), Phrase("born"), self._body().digest
        ).model_copy(update={"id": "self-0001"})

    def refresh(self) -> Self:
        """The current self, recorded, and renewed first when settings or an adapterless base have changed.

        Settings are put on once in a process: of two that have read different ones, the later to start has its way.
        """
        wanted = sampling(self._settings).model_dump(mode="json")
        base, template = self._body().digest, self._settings.model.template

        def renewed(now: Self) -> Self:
            if now.base != base and now.parts:
                raise _foreign(now)
            if now.base == base and (self._settled or (now.sampling == wanted and now.template == template)):
                return now
            return now.model_copy(update={"base": base, "sampling": wanted, "template": template})

        now = self._born()
        if renewed(now) != now:
            now = self._change(renewed, Phrase("settings"))
        self._settled = True
        return now

    def get(self, name: str) -> Self:
        """A self by name."""
        return self._ledger.get(Self, name)

    def wear(self, edit: Callable[[Mask], Mask], cause: str) -> Self:
        """A new self with an edited mask. ``edit`` gets the mask of the moment it is written."""
        return self._change(lambda now: now.model_copy(update={"mask": edit(now.mask)}), cause)

    def become(
        self,
        parts: tuple[Part, ...],
        edit: Callable[[Mask], Mask],
        cause: str,
        along: Callable[[], Sequence[Record]] = tuple,
    ) -> Self:
        """A new self with other weights, written together with the records ``along`` of that moment: all or none.

        Raises:
            ModelError: it could not speak; who speaks now goes on.
        """
        self._prepare(parts)
        return self._change(lambda now: now.model_copy(update={"mask": edit(now.mask), "parts": parts}), cause, along)

    def _change(
        self, change: Callable[[Self], Self], cause: str, along: Callable[[], Sequence[Record]] = tuple
    ) -> Self:
        """Read, change and write while nobody else can write: two processes lose nothing of each other's."""
        self._born()
        with self._ledger.together() as add:
            now = self.current()
            new = change(now)
            if new != now:
                now = add(new.model_copy(update={"id": "", "at": "", "cause": cause}))
                add(Speaking(self_name=now.id, cause=cause))
            for record in along():
                add(record)
        return now

    def back(self, name: str = "") -> Self:
        """Let an earlier self speak again: ``name``, or the one before the last weight change.

        A second call without a name goes further back: what was undone is not returned to.

        Raises:
            NotFoundError: no such self.
            ConflictError: there is no weight change to undo.
            ModelError: it could not speak; who speaks now goes on.
        """
        target = self.get(name) if name else self._before_last_change()
        tainted = {adapter for erasure in self._ledger.all(Erasure) for adapter in erasure.adapters}
        if any(part.adapter in tainted for part in target.parts):
            raise ConflictError(
                "{who} was trained on words that were erased since; it cannot come back.",
                "`habitus self log` lists the others.",
                who=target.id,
            )
        self.check(target)
        self._prepare(target.parts)
        cause = Phrase("rollback to {who}", who=target.id)
        lines = tuple(r for r in target.mask.rules if r.text != ERASED)
        if lines != target.mask.rules:  # it comes back without what was erased
            mask = target.mask.model_copy(update={"rules": lines})
            target = target.model_copy(update={"id": "", "at": "", "mask": mask, "cause": cause})
        inside, masked = {p.habit: p.habit_stage for p in target.parts}, {r.habit for r in target.mask.rules}
        stages: list[Record] = []
        for habit in self._ledger.all(Habit):
            if habit.id in inside:
                if habit.stage != inside[habit.id]:
                    stages.append(habit.become(inside[habit.id], cause))
                continue
            left = habit.stage in ("essence", "fading")
            back = habit.id in masked and habit.stage == "released"  # dropped since, or a newer one took its place
            if left or back:
                stages.append(habit.become("repeated", cause))
        return self._speak(target, cause, stages)

    def _before_last_change(self) -> Self:
        trail: list[Self] = []  # selves in the order they spoke, with what was undone cut off
        for speaking in self._ledger.rows(Speaking):
            if speaking.cause.startswith(BACK):
                target = self.get(speaking.cause.removeprefix(BACK))
                trail = trail[: trail.index(target)] if target in trail else trail
            trail.append(self.get(speaking.self_name))
        for earlier in reversed(trail):
            if earlier.parts != self.current().parts:
                return earlier
        raise ConflictError(
            "There is no weight change to undo.", "See `habitus self log`; `rollback NAME` goes to any self."
        )

    def voice(self, who: Self, language: Language) -> Voice:
        """What ``who`` wears in ``language``; all of its adapters are checked.

        Raises:
            StorageError, ConflictError: as ``check``.
        """
        self.check(who)
        return worn(self._bag, who.parts, language)

    def check(self, who: Self) -> int:
        """Whether ``who`` may speak, in any language: how many adapters it has, worn or not just now.

        Raises:
            StorageError: an adapter is missing or was altered.
            ConflictError: they were trained on another base than the one loaded.
        """
        if not who.parts:
            return 0
        if who.base != self._body().digest:
            raise _foreign(who)
        if not {p.adapter for p in who.parts} <= self._digests.keys():
            self._digests = {run.adapter: run.adapter_digest for run in self._ledger.all(Run)}
        names = {p.adapter for p in who.parts}
        for name in sorted(names):
            if self._fingerprint(self._bag / "adapters" / name) != self._digests.get(name):
                raise StorageError(
                    "The adapter {adapter} was altered since it passed the gate; it may not speak.",
                    "`habitus rollback` returns to an earlier self; a copy of the bag brings the adapter back.",
                    adapter=name,
                )
        return len(names)

    def dressed(self, who: Self, language: Language) -> tuple[Mask, Voice]:
        """Mask and weights as ``who`` wears them to speak ``language``.

        An adapter with a habit that the person took back, or that a rule of the mask overrules, is put aside, and
        its other habits speak as lines of the mask, until the weights have learned better or it is told again.

        Raises:
            StorageError, ConflictError: as ``voice``.
        """
        voice = self.voice(who, language)
        overruled = who.mask.put_aside(language)
        here = [p for p in who.parts if language in p.scope]
        aside = {p.adapter for p in here if p.habit in overruled}
        if not aside:
            return who.mask, voice
        lines = {r.habit for r in who.mask.rules}
        silent = [p.habit for p in here if p.adapter in aside and p.habit not in overruled | lines]
        rules = [Rule(text=h.rule, scope=(language,), habit=h.id) for h in self._ledger.some(Habit, silent)]
        mask = who.mask.model_copy(update={"rules": (*rules, *who.mask.rules)})
        return mask, worn(self._bag, [p for p in here if p.adapter not in aside], language)

    def sampling(self, who: Self) -> Sampling:
        """The sampling saved with ``who``."""
        return Sampling.model_validate(who.sampling)

    def _fingerprint(self, adapter: Path) -> str:
        """``digest_of`` once for each state of the files."""
        try:
            stamp = max(p.stat().st_mtime for p in adapter.glob("*/*"))
        except (OSError, ValueError):
            stamp = 0.0
        seen = self._known.get(adapter)
        if seen is None or seen[0] != stamp:
            seen = self._known[adapter] = (stamp, digest_of(adapter))
        return seen[1]

    def _prepare(self, parts: Sequence[Part]) -> None:
        """Nobody begins to speak who then could not."""
        for voice in {worn(self._bag, parts, x) for x in LANGUAGES}:
            if voice.parts:
                self._body().ready(voice)

    def _born(self) -> Self:
        if self._ledger.last(Speaking) is None:
            with self._ledger.together() as add:
                if self._ledger.last(Speaking) is None:
                    first = add(self.current())
                    add(Speaking(self_name=first.id, cause=first.cause))
        return self.current()

    def _made(self, mask: Mask, parts: tuple[Part, ...], cause: str, base: str) -> Self:
        """A self in hand, not yet recorded."""
        return Self(
            base=base,
            parts=parts,
            mask=mask,
            sampling=sampling(self._settings).model_dump(mode="json"),
            template=self._settings.model.template,
            cause=cause,
        )

    def _speak(self, who: Self, cause: str = "", along: Sequence[Record] = ()) -> Self:
        """Let ``who`` speak from here on, recording it first when it is new."""
        with self._ledger.together() as add:
            recorded = who if who.at else add(who)
            add(Speaking(self_name=recorded.id, cause=cause or who.cause))
            for record in along:
                add(record)
        return recorded


def _foreign(who: Self) -> ConflictError:
    return ConflictError(
        "The adapters of {who} were trained on another base model than the one loaded.",
        "Point [model] name back to it, or open another bag with --home.",
        who=who.id,
    )
