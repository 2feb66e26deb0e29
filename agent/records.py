"""The nouns: one frozen type for each kind of ledger row, and the parts they are made of.

Data goes one way: turn → verdict → draft → proposal → decision → run → gate report → self.
A record with the same ``id`` as an earlier one is its newer state; nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from prompts import Language

Mode = Literal["growth", "sandbox"]
Source = Literal["user", "imported", "tool"]
Kind = Literal["instruction", "correction", "preference", "fact", "feeling", "smalltalk", "secret"]
TEACHING: tuple[Kind, ...] = ("instruction", "correction", "preference")  # turns a habit may be made of
Stage = Literal["told", "repeated", "proposed", "essence", "fading", "released"]
Purpose = Literal["learn", "correct", "decay", "release", "consolidate"]
Status = Literal["waiting", "approved", "vetoed", "running", "promoted", "rejected", "withdrawn"]
OPEN: tuple[Status, ...] = ("waiting", "approved", "running")  # proposals that may still change the weights
READY: tuple[Status, ...] = ("approved", "running")  # of these what was decided on
Origin = Literal["turn", "invented", "anchor"]
Method = Literal["distill", "sft", "dpo", "kto"]
Frame = Literal["plain", "tools", "loop", "judge"]
LONGEST_RULE = 300  # characters


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share of ``count``; all there is where nothing was counted."""
    if not count:
        return 0.0, 1.0
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


class Frozen(BaseModel):
    """An immutable value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Frozen):
    """A ledger row's content. ``id`` is given by the ledger when empty."""

    prefix: ClassVar[str]
    id: str = ""
    at: str = ""  # UTC, ISO 8601; given by the ledger


class Call(Frozen):
    """One tool call the model made, and what came of it."""

    name: str
    arguments: dict[str, object]
    result: str = ""


class Rule(Frozen):
    """A line of the mask: what is asked, where it applies, and the habit it belongs to."""

    text: str
    scope: tuple[Language, ...]
    habit: str = ""
    overrules: tuple[str, ...] = ()  # habits in the weights that do not go together with it


class Example(Frozen):
    """One training row, fixed before approval.

    The student sees ``rules`` (none for a habit's own rows), the teacher saw ``teacher``.
    ``frame`` says in which prompt the message stands: alone, with tools offered, after one has answered, or to
    be judged.
    """

    origin: Origin
    language: Language
    prompt: str
    completion: str
    rules: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    frame: Frame = "plain"
    habit: str = ""
    source: str = ""  # the turn a prompt was once given in
    rejected: str = ""  # of a habit's own row: what is not to be said instead

    @property
    def tombstone(self) -> bool:
        """Whether its words were erased: it is never trained on again."""
        return not self.prompt


class Mask(Frozen):
    """What the system prompt says now."""

    persona: dict[Language, str] = {}
    mood: str = ""
    rules: tuple[Rule, ...] = ()
    few_shot: tuple[tuple[str, str], ...] = ()
    silenced: tuple[str, ...] = ()  # habits in the weights that the person took back

    def adding(self, rule: Rule, gone: Collection[str] = ()) -> Mask:
        """With one more rule, its habit no longer silenced, and without the lines ``gone``."""
        rules = (*(r for r in self.rules if r.text not in {*gone, rule.text}), rule)
        return self.model_copy(update={"rules": rules, "silenced": tuple(h for h in self.silenced if h != rule.habit)})

    def put_aside(self, language: Language) -> set[str]:
        """Habits of the weights that do not speak ``language`` now: taken back, or overruled by a line."""
        return {*self.silenced, *(h for rule in self.rules if language in rule.scope for h in rule.overrules)}

    def rules_for(self, language: Language) -> tuple[str, ...]:
        """The rules in whose scope ``language`` lies."""
        return tuple(rule.text for rule in self.rules if language in rule.scope)


class Part(Frozen):
    """One habit's place in the weights; several may share an adapter. Outside its scope it is not worn."""

    habit: str
    adapter: str
    weight: float = 1.0
    stage: Literal["core", "fresh"] = "core"
    scope: tuple[Language, ...] = ("ko", "en")

    @property
    def habit_stage(self) -> Stage:
        """How far on its road a habit is whose place in the weights this is."""
        return "fading" if self.weight < 1 else "essence"


# -- rows of the ledger ------------------------------------------------------------------------


class Turn(Record):
    prefix = "t"
    thread: str
    user: str  # empty once it was erased
    reply: str
    tool_calls: tuple[Call, ...] = ()
    source: Source = "user"
    mode: Mode = "growth"
    self_name: str = ""
    model: str = ""
    rules: tuple[str, ...] = ()  # the mask's rules when it was said


class Verdict(Record):
    prefix = "v"
    turn: str
    value: int = Field(ge=0, le=5)
    kind: Kind
    reason: str


class Habit(Record):
    prefix = "h"
    rule: str
    quote: str = ""
    scope: tuple[Language, ...]
    stage: Stage = "told"
    evidence: tuple[str, ...] = ()  # turns
    kept: int = 0  # conversations in which the rule stood and was not objected to
    reason: str = ""  # of its stage

    def become(self, stage: Stage, reason: str) -> Habit:
        """Its next state."""
        return self.model_copy(update={"stage": stage, "reason": reason, "at": ""})


class Draft(Record):
    """A proposal in the making; only ``schedule_lora_update`` turns it into one."""

    prefix = "d"
    habit: str
    rationale: str
    prompts: tuple[str, ...] = ()  # invented


class Proposal(Record):
    prefix = "p"
    kind: Purpose
    status: Status = "waiting"
    habit: str
    rule: str
    quote: str = ""
    scope: tuple[Language, ...]
    method: Method | Literal["none"] = "distill"
    examples: tuple[Example, ...] = ()
    evidence: tuple[str, ...] = ()
    rationale: str = ""
    risks: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()  # older habits that do not go together with this one: they leave
    preview: tuple[tuple[str, str, str], ...] = ()  # (prompt, now, with the habit)
    living: tuple[str, ...] = ()  # habits the trained adapter carries, this one included
    weight: float = 0.0  # for decay: the weight asked for
    config: dict[str, object] = {}
    base: str = ""
    digest: str = ""
    note: str = ""


class Decision(Record):
    prefix = "k"
    proposal: str
    verdict: Literal["approve", "veto", "edit"]
    digest: str
    note: str = ""


class Run(Record):
    prefix = "r"
    proposal: str
    base: str
    data: str
    config: dict[str, object]
    adapter: str = ""
    adapter_digest: str = ""
    curve: tuple[tuple[int, float], ...] = ()  # (step, loss)
    validation: tuple[tuple[int, float], ...] = ()  # the same on rows that were kept out
    stopped_early: bool = False
    began: dict[Language, int] = {}  # the weights of each language: after which of these steps their training began
    environment: dict[str, str] = {}  # what else the bytes of an adapter depend on: versions, threads, device
    seconds: float = 0.0
    peak_mb: float = 0.0
    failure: str = ""


class Probe(Frozen):
    """One question of the gate's exam and how it was answered."""

    name: str
    before: float
    after: float
    threshold: float
    passed: bool
    count: int = 0
    detail: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of ``after``."""
        return wilson(self.after, self.count)


class GateReport(Record):
    prefix = "g"
    proposal: str
    adapter: str
    passed: bool
    parts: tuple[Part, ...] = ()  # what sat the exam: nothing else may be promoted on it
    mask_line_needed: bool = False
    probes: tuple[Probe, ...] = ()
    samples: tuple[tuple[str, str, str], ...] = ()  # (question, what the speaking self said, what the candidate says)
    seconds: float = 0.0


class Self(Record):
    """What can speak: base, weighted adapters, mask, sampling, template. Its id is its name."""

    prefix = "self-"
    base: str
    parts: tuple[Part, ...] = ()
    mask: Mask = Mask()
    sampling: dict[str, object] = {}
    template: str = ""
    cause: str = ""  # what made it: a proposal, the person's hand, settings


class Speaking(Record):
    """Which self speaks from here on."""

    prefix = "s"
    self_name: str
    cause: str


class Memory(Record):
    """A fact the model chose to remember."""

    prefix = "m"
    text: str  # empty once it was erased
    turns: tuple[str, ...] = ()  # in which it was told


class Abstention(Record):
    """The model chose to learn nothing, and said why."""

    prefix = "a"
    phase: Literal["judge", "propose", "write", "schedule", "decay"]
    reason: str
    turns: tuple[str, ...] = ()


class Diary(Record):
    prefix = "e"
    entry: str
    judged: int
    proposals: tuple[str, ...] = ()


class Erasure(Record):
    """That words were erased for good, and what had rested on them; the words themselves are gone."""

    prefix = "z"
    turns: tuple[str, ...]
    memories: tuple[str, ...] = ()
    habits: tuple[str, ...] = ()  # that cite these turns
    examples: int = 0  # rows that used them, tombstoned
    adapters: tuple[str, ...] = ()  # trained on such rows
    swept: bool = False  # every file has been rebuilt without them


class Event(Record):
    """Something that happened to the runtime and is worth keeping: a failure, a repair."""

    prefix = "x"
    what: str
    about: str = ""
