"""What is wrong with an installation or a bag, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from typing import Any

from agent.errors import HabitusError
from agent.phrase import Phrase
from app.wiring import home, open_habitus, settings_of
from app.words import padded, say

Json = dict[str, Any]
NEEDED = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "langgraph",
    "langchain-core",
    "chromadb",
    "llguidance",
    "pydantic",
    "sqlalchemy",
)
LEAST_FREE = 512 * 2**20


def examine(given: str | None, model: str | None) -> list[Json]:
    """Findings ``{name, ok, detail, mend}``, from the ground up."""
    found: list[Json] = []

    def check(name: str, look: Callable[[], str], mend: str = "") -> bool:
        try:
            detail, ok = look(), True
        except HabitusError as error:
            detail, ok, mend = error.message, False, error.hint or mend
        except Exception as error:  # a doctor reports, whatever it meets
            detail, ok = f"{type(error).__name__}: {error}", False
        found.append({"name": name, "ok": ok, "detail": detail, "mend": "" if ok else mend})
        return ok

    def packages() -> str:
        missing = [n for n in NEEDED if not _version(n)]
        if missing:
            raise HabitusError(
                "Not installed: {missing}.",
                "Run `make install`, or pip install -e . again.",
                missing=", ".join(missing),
            )
        return ", ".join(f"{n} {_version(n)}" for n in NEEDED[:4])

    path = home(given)

    def writable() -> str:
        place = path if path.exists() else next(p for p in path.parents if p.exists())
        if not os.access(place, os.W_OK):
            raise HabitusError(
                "{place} cannot be written.", "Mend its permissions, or choose another bag with --home.", place=place
            )
        return str(path) if path.exists() else Phrase("{path} (not made yet)", path=path)

    def space() -> str:
        place = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(place).free
        if free < LEAST_FREE:
            raise HabitusError(
                "Only {free} MiB are free.", "Free at least 512 MiB before learning.", free=free // 2**20
            )
        return Phrase("{free} GiB free", free=free // 2**30)

    def settings() -> str:
        from agent.settings import warnings

        notes = {f"note{i}": note for i, note in enumerate(warnings(settings_of(path, model)))}
        return Phrase(" ".join(f"{{{name}}}" for name in notes), **notes) if notes else Phrase("all in range")

    installed = check(Phrase("packages"), packages)
    check(Phrase("bag"), writable)
    check(Phrase("disk"), space)
    sound = check(Phrase("settings"), settings)
    if installed and sound:
        habitus = open_habitus(given, model)

        def ledger() -> str:
            if not (path / "ledger.db").exists():
                return Phrase("not begun yet")
            wrong = habitus.bag.ledger.verify()
            if wrong:
                raise HabitusError(
                    "{first} ({count} in all).",
                    "Restore ledger.db from a copy of the bag.",
                    first=wrong[0],
                    count=len(wrong),
                )
            return Phrase("the chain holds")

        def speaks() -> str:
            body = habitus.bag.body
            return Phrase("{model}, digest {digest}", model=habitus.bag.settings.model.name, digest=body.digest[:12])

        def adapters() -> str:
            if not (path / "ledger.db").exists():
                return Phrase("none")
            who = habitus.bag.selves.current()
            return Phrase("{who} wears {count}, unaltered", who=who.id, count=habitus.bag.selves.check(who))

        check(Phrase("ledger"), ledger)
        if check(Phrase("model"), speaks):
            check(Phrase("adapters"), adapters)
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def show(findings: list[Json]) -> None:
    """One line each, and the mend below."""
    for f in findings:
        print(f"{'✓' if f['ok'] else '✗'} {padded(say(f['name']), 9)} {say(f['detail'])}")
        if f["mend"]:
            print(f"    → {say(f['mend'])}")
