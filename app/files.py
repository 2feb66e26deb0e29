"""What a person hands in as a file: a mask, an edited proposal."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.errors import UsageError
from agent.learning.data import digest, is_probe
from agent.records import Example, Mask, Proposal
from app.conversation import as_rule
from prompts import language_of

Json = dict[str, Any]


def mask_table(file: Path, now: Mask) -> Json:
    """The fields of a mask that a TOML file sets, fit to be laid over ``now``.

    Raises:
        UsageError: it cannot be read, or sets what a mask does not have.
    """
    try:
        table = tomllib.loads(file.read_text("utf-8"))
        unknown = set(table) - {"persona", "mood", "rules", "few_shot"}
        if unknown:
            raise UsageError(
                "{file} sets {unknown}, which a mask does not have.",
                "It may hold persona, mood, rules, few_shot.",
                file=file,
                unknown=", ".join(sorted(unknown)),
            )
        if not isinstance(table.get("rules", []), list):
            raise TypeError("rules is a list of sentences")
        if not all(isinstance(t, str) for t in table.get("rules", [])):
            raise TypeError("rules is a list of sentences")
        if "rules" in table:
            table["rules"] = [{"text": as_rule(t), "scope": (language_of(t),)} for t in table["rules"]]
        if isinstance(table.get("persona"), str):
            table["persona"] = {"ko": table["persona"], "en": table["persona"]}
        Mask.model_validate({**now.model_dump(), **table})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError, TypeError) as error:
        raise UsageError(
            "{file} cannot be worn: {reason}",
            'Example: persona = "…"\\nrules = ["…"]',
            file=file,
            reason=_first(error),
        ) from error
    return table


def _first(error: Exception) -> str:
    """What is wrong, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]


def edited(p: Proposal, drop: Sequence[int], file: Path | None) -> Proposal:
    """``p`` with examples dropped by number and changes from a JSON file, waiting again under a new digest.

    Raises:
        UsageError: a number or the file makes no sense, a gate's question slips in, or nothing changes.
    """
    change: Json = {}
    if file is not None:
        try:
            given = json.loads(file.read_text("utf-8"))
            if "examples" in given:
                change["examples"] = tuple(
                    Example.model_validate({k: v for k, v in e.items() if k != "n"}) for e in given["examples"]
                )
                if not all(e.prompt.strip() and e.completion.strip() for e in change["examples"]):
                    raise ValueError("an example needs a prompt and a completion")
            if "scope" in given:
                change["scope"] = tuple(dict.fromkeys(given["scope"]))
            if "method" in given:
                if given["method"] == "none":
                    raise ValueError("rows need a method: distill, sft, dpo or kto")
                change["config"] = {**p.config, "method": given["method"]}
                change["method"] = given["method"]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UsageError(
                "{file} is no edited proposal: {reason}",
                "Start from `habitus proposals show {ref} --json`.",
                file=file,
                reason=_first(error),
                ref=p.id,
            ) from error
    examples = change.get("examples", p.examples)
    wrong = [n for n in drop if not 1 <= n <= len(examples)]
    if wrong:
        raise UsageError(
            "{ref} has no example {number}.", "It has 1 to {count}.", ref=p.id, number=wrong[0], count=len(examples)
        )
    examples = tuple(e for i, e in enumerate(examples, 1) if i not in drop)
    leaks = [e.prompt for e in examples if is_probe(e.prompt)]
    if leaks:
        raise UsageError(
            "An example is one of the gate's questions: {leak!r}.",
            "Change it: the exam must stay unseen.",
            leak=leaks[0],
        )
    if not any(e.habit == p.habit for e in examples) and p.kind in ("learn", "correct"):
        raise UsageError(
            "Nothing of the habit itself would be left.", "To refuse it, `habitus veto {ref} --reason …`.", ref=p.id
        )
    try:
        changed = Proposal.model_validate(
            {**p.model_dump(), **change, "examples": examples, "status": "waiting", "at": ""}
        )
    except ValidationError as error:
        raise UsageError(
            "{reason}.", "Start from `habitus proposals show {ref} --json`.", reason=_first(error), ref=p.id
        ) from error
    if not changed.scope:
        raise UsageError("A habit needs a scope.", 'It may be ["ko"], ["en"] or both.')
    learns = p.kind in ("learn", "correct")
    if changed.scope != p.scope and not learns:
        raise UsageError("Only what is to be learned has a scope to change.", "Leave it as it is in {ref}.", ref=p.id)
    staying = {*p.living} - ({p.habit} if learns else set())
    spoken = {(e.habit, e.language) for e in p.examples if e.habit in staying}
    spoken |= {(p.habit, x) for x in changed.scope} if learns else set()
    if examples and (mute := spoken - {(e.habit, e.language) for e in examples}):
        raise UsageError(
            "No row would be left in {language}, in which it is to speak.",
            "Put rows of that language in with --file, or narrow the scope.",
            language=min(language for _, language in mute),
        )
    config = changed.config | ({"scope": list(changed.scope)} if "scope" in p.config else {})
    changed = changed.model_copy(
        update={"config": config, "preview": (), "digest": digest(examples, config, changed.base)}
    )
    if changed.digest == p.digest:
        raise UsageError("The edit changes nothing.", "Use --drop N, or --file F with changed examples.")
    return changed
