"""Who speaks: immutable selves, and the pointer to the one that speaks now."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ConflictError, StorageError
from agent.ports import Voice
from agent.records import Mask, Part, Run, Self, Speaking
from agent.settings import Sampling, Settings, sampling

if TYPE_CHECKING:
    from agent.ledger import Ledger


def digest_of(adapter: Path) -> str:
    """Digest of an adapter directory.

    Raises:
        StorageError: it is not whole.
    """
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        try:
            digest.update((adapter / name).read_bytes())
        except OSError as error:
            raise StorageError(
                f"The adapter {adapter.name} is not whole: {name} cannot be read.",
                "`habitus rollback` returns to an earlier self; a copy of the bag brings the adapter back.",
            ) from error
    return digest.hexdigest()


class Selves:
    """The selves of one bag."""

    def __init__(self, ledger: Ledger, bag: Path, settings: Settings, base: str) -> None:
        self._ledger, self._bag, self._settings, self._base = ledger, bag, settings, base

    def current(self) -> Self:
        """The self that speaks now; a fresh bag is born with its first."""
        speaking = self._ledger.last(Speaking)
        if speaking is None:
            mask = Mask(persona=self._settings.prompt.persona, few_shot=self._settings.prompt.few_shot)
            return self._speak(self._new(Mask.model_validate(mask), (), "born"), "born")
        return self._ledger.get(Self, speaking.self_name)

    def refresh(self) -> Self:
        """The current self, renewed first when the settings or the base it was made with have changed."""
        now = self.current()
        wanted = sampling(self._settings).model_dump(mode="json")
        if now.base != self._base:
            if now.parts:
                raise ConflictError(
                    "The base model is not the one this being's adapters were trained on.",
                    "Point [model] name back to it, or start another bag with --home.",
                )
            return self._speak(self._new(now.mask, (), "another base"), "another base")
        if now.sampling != wanted or now.template != self._settings.model.template:
            return self._speak(self._new(now.mask, now.parts, "settings"), "settings")
        return now

    def get(self, name: str) -> Self:
        """A self by name."""
        return self._ledger.get(Self, name)

    def wear(self, mask: Mask, cause: str) -> Self:
        """A new self with another mask."""
        now = self.current()
        return now if mask == now.mask else self._speak(self._new(mask, now.parts, cause), cause)

    def become(self, parts: tuple[Part, ...], mask: Mask, cause: str) -> Self:
        """A new self with other weights."""
        return self._speak(self._new(mask, parts, cause), cause)

    def back(self, name: str = "") -> Self:
        """Let an earlier self speak again: ``name``, or the one before the last weight change.

        Raises:
            NotFoundError: no such self.
            ConflictError: there is no weight change to undo.
        """
        if name:
            self.voice(self.get(name))
            return self._speak(self.get(name), f"rollback to {name}")
        now = self.current()
        for speaking in reversed(self._ledger.rows(Speaking)):
            earlier = self.get(speaking.self_name)
            if earlier.parts != now.parts:
                self.voice(earlier)
                return self._speak(earlier, "rollback")
        raise ConflictError(
            "There is no weight change to undo.", "See `habitus self log`; `rollback NAME` goes to any self."
        )

    def voice(self, who: Self) -> Voice:
        """The adapters ``who`` wears, each checked against the digest it was promoted with.

        Raises:
            StorageError: an adapter is missing or was altered.
        """
        weights: dict[str, float] = {}
        for part in who.parts:
            weights[part.adapter] = max(part.weight, weights.get(part.adapter, 0.0))
        known = {run.adapter: run.adapter_digest for run in self._ledger.all(Run)}
        paths = []
        for name, weight in weights.items():
            path = self._bag / "adapters" / name
            if digest_of(path) != known.get(name):
                raise StorageError(
                    f"The adapter {name} was altered since it passed the gate; it may not speak.",
                    "`habitus rollback` returns to an earlier self; a copy of the bag brings the adapter back.",
                )
            paths.append((path, weight))
        return Voice(tuple(paths))

    def sampling(self, who: Self) -> Sampling:
        """The sampling saved with ``who``."""
        return Sampling.model_validate(who.sampling)

    def _new(self, mask: Mask, parts: tuple[Part, ...], cause: str) -> Self:
        return self._ledger.add(
            Self(
                base=self._base,
                parts=parts,
                mask=mask,
                sampling=sampling(self._settings).model_dump(mode="json"),
                template=self._settings.model.template,
                cause=cause,
            )
        )

    def _speak(self, who: Self, cause: str) -> Self:
        self._ledger.add(Speaking(self_name=who.id, cause=cause))
        return who
