"""What a person can do with Habitus, once: every door (CLI, page, API) calls these and adds no rules."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from agent.bag import Bag, living
from agent.erasing import erase, sweep
from agent.errors import BusyError, ConflictError, HabitusError, ModelError, NotFoundError, UsageError
from agent.learning.conflict import adopt, drop_rule, let_go
from agent.learning.lifecycle import DECAY, standing, told
from agent.learning.proposing import file_release, offer_retraining
from agent.learning.running import rebuild
from agent.models.chat import to_message
from agent.models.composing import compose
from agent.phrase import Phrase
from agent.ports import BASE, Prompt
from agent.records import (
    OPEN,
    READY,
    Decision,
    Habit,
    Mask,
    Mode,
    Proposal,
    Run,
    Self,
    Turn,
    Verdict,
)
from app import forms, lineage
from app import report as training_report
from app.conversation import Conversation, as_rule, new_thread, without_rule
from app.files import edited, mask_table
from app.lid import lifted
from app.updating import Updates
from graphs import converse, ruminate, update
from graphs.context import Context, Progress, silent
from prompts import LANGUAGES, language_of

Json = dict[str, Any]
ASK_MOST = 512  # tokens of a probe's answer


class Habitus:
    """The runtime over one bag."""

    def __init__(self, bag: Bag, progress: Progress = silent) -> None:
        self.bag = bag
        self.context = Context(bag, progress)
        self.updates = Updates(self.context)

    # -- talking -------------------------------------------------------------------------------

    @cached_property
    def talking(self) -> Any:
        """The graph of one message."""
        return converse.build().compile()

    def talk(self, thread: str = "", mode: Mode = "growth", who: str = "") -> Conversation:
        """A conversation: a new thread unless one is named; ``who``: in sandbox, with a self of before.

        Raises:
            UsageError: a thread is named for sandbox.
            NotFoundError: the named thread holds no turn, or there is no such self.
        """
        if thread and mode == "sandbox":
            raise UsageError("A sandbox conversation is always a new one.", "Leave out --thread or --sandbox.")
        if thread:
            self.begun(thread)
        return Conversation(self, thread or new_thread(), mode, who)

    def begun(self, thread: str) -> None:
        """Something was said in this conversation.

        Raises:
            NotFoundError: nothing was.
        """
        if not self.bag.ledger.all(Turn, parent=thread):
            raise NotFoundError(
                "There is no conversation {thread!r}.", "Leave --thread out to begin a new one.", thread=thread
            )

    def ask(self, texts: Sequence[str], with_rules: bool = True, name: str = "") -> list[Json]:
        """The clean probe: greedy, unpenalised, nothing recalled, nothing recorded."""
        bag = self.bag
        who = None if name == "base" else bag.selves.get(name) if name else bag.selves.current()
        if who and not with_rules:
            who = who.model_copy(update={"mask": who.mask.model_copy(update={"rules": (), "silenced": ()})})
        most = min(bag.selves.sampling(who).max_tokens if who else bag.settings.sampling.max_tokens, ASK_MOST)
        found: dict[int, Json] = {}
        for language in dict.fromkeys(map(language_of, texts)):  # each in the weights it is spoken with
            mine = [i for i, text in enumerate(texts) if language_of(text) == language]
            mask, voice = bag.selves.dressed(who, language) if who else (Mask(), BASE)
            prompts = [Prompt(tuple(map(to_message, converse.ask_messages(mask, texts[i], language)))) for i in mine]
            rules = list(mask.rules_for(language))
            for i, reply in zip(mine, bag.body.answers(prompts, voice, most), strict=True):
                found[i] = {"text": texts[i], "reply": reply, "self": who.id if who else "base", "mask": rules}
        return [found[i] for i in range(len(texts))]

    def lid(self, text: str, thread: str = "") -> Json:
        """The lid off: what the model would read if ``text`` were said now, and how it would choose its first word."""
        return lifted(self, text, thread)

    # -- the mask ------------------------------------------------------------------------------

    def mask_add(self, rule: str) -> Self:
        """The person's own hand: one more rule, in the scope of its language."""
        rule = as_rule(rule)
        return adopt(self.bag, told(self.bag, rule, language_of(rule)), Phrase("mask add"))

    def mask_drop(self, number: int) -> Self:
        """Take the rule shown under ``number`` (from 1) out of the mask."""
        mask = self.bag.selves.current().mask
        without_rule(mask, number)
        drop_rule(self.bag, mask.rules[number - 1].text)
        return self.bag.selves.current()

    def mask_use(self, file: Path) -> Self:
        """Wear the mask a TOML file describes: persona, mood, rules, few_shot; what it leaves out stays."""
        now = self.bag.selves.current().mask
        table, lines = mask_table(file, now), [r.text for r in now.rules]
        wanted = [r["text"] for r in table.pop("rules")] if "rules" in table else lines
        leaving = [text for text in lines if text not in wanted]

        def overlaid(mask: Mask) -> Mask:
            rules = [r.model_dump() for r in mask.rules if r.text not in leaving]
            return Mask.model_validate({**mask.model_dump(), **table, "rules": rules})

        why = Phrase("mask use {file}", file=file.name)
        who = self.bag.selves.wear(overlaid, why)
        for text in leaving:
            let_go(self.bag, text, why)
        for rule in wanted:  # one by one: a line may give way to the next
            who = who if rule in lines else self.mask_add(rule)
        return who

    # -- learning ------------------------------------------------------------------------------

    def ruminate(self) -> Json:
        """Let the self judge what is new and propose, or abstain.

        Raises:
            BusyError: another pass is under way.
        """
        bag, graph = self.bag, ruminate.build().compile()
        with bag.ruminating_lock():
            self._sweep(bag.training_lock())
            offered = offer_retraining(bag)
            state = graph.invoke(
                {},
                context=self.context,
                config={
                    "recursion_limit": 200 + bag.settings.rumination.turns + 40 * bag.settings.rumination.proposals
                },
            )
        ledger = self.bag.ledger
        verdicts = [ledger.get(Verdict, v) for v in state["verdicts"]]
        return {
            "judged": len(verdicts),
            "verdicts": [{"turn_id": v.turn, "value": v.value, "kind": v.kind, "reason": v.reason} for v in verdicts],
            "proposals": [*([offered.id] if offered else []), *state["proposals"]],
            "abstained": state["abstained"] and not offered,
            "reason": state["reason"] or ("" if state["verdicts"] else Phrase("nothing new was said")),
            "diary": state["diary"],
        }

    def proposals(self) -> list[Json]:
        """Every proposal, oldest first."""
        return [forms.summary(p) for p in self.bag.ledger.all(Proposal)]

    def proposal(self, ref: str) -> Json:
        """One proposal with everything a person needs to judge it."""
        return forms.proposal(self.bag, self.bag.ledger.get(Proposal, ref))

    def approve(self, ref: str, digest: str, note: str = "") -> Json:
        """The person's approval, bound to the digest of what was shown.

        ``ref`` "decay" (its digest is the same word) is standing leave to let unused habits fade without being
        asked each time. It covers lowering a weight down to the floor, never a release.
        """
        return self._decide(ref, "approve", digest, note)

    def veto(self, ref: str, reason: str) -> Json:
        """The person's veto, with a reason."""
        if not reason.strip():
            raise UsageError(
                "A veto needs a reason.", "Add --reason TEXT: it is kept, and the model may learn from it."
            )
        return self._decide(ref, "veto", DECAY if ref == DECAY else self.bag.ledger.get(Proposal, ref).digest, reason)

    def _decide(self, ref: str, verdict: Literal["approve", "veto"], shown: str, note: str) -> Json:
        with self.bag.deciding_lock():
            if ref == shown == DECAY:
                self.bag.ledger.add(Decision(proposal=DECAY, verdict=verdict, digest=shown, note=note))
                return {"id": DECAY, "kind": DECAY, "status": "approved" if verdict == "approve" else "vetoed"}
            p = self.bag.ledger.get(Proposal, ref)
            if verdict == "veto" and p.status in READY:  # a change of mind before it has happened
                with self.bag.training_lock():
                    update.settle(self.bag, p.id, update.Verdict(verdict=verdict, digest=p.digest, note=note))
                return forms.summary(self.bag.ledger.get(Proposal, ref))
            if p.status != "waiting":
                raise ConflictError(
                    "{ref} is {status} already.",
                    "See `habitus proposals`; a decision is made once.",
                    ref=ref,
                    status=Phrase(p.status),
                )
            if shown != p.digest:
                raise ConflictError(
                    "{ref} is not what you were shown: its digest is {now}…, not {shown}….",
                    "Read it again with `habitus proposals show {ref}`.",
                    ref=ref,
                    now=p.digest[:12],
                    shown=shown[:12],
                )
            self.updates.answer(p, {"verdict": verdict, "digest": shown, "note": note})
            return forms.summary(self.bag.ledger.get(Proposal, ref))

    def edit(self, ref: str, drop: Sequence[int] = (), file: Path | None = None) -> Json:
        """Change what would be trained on. It waits for a new decision, under a new digest."""
        ledger = self.bag.ledger
        with self.bag.deciding_lock():
            p = ledger.get(Proposal, ref)
            if p.status not in ("waiting", "approved"):
                raise ConflictError(
                    "{ref} is {status} already and cannot be edited.",
                    "See `habitus proposals`.",
                    ref=ref,
                    status=Phrase(p.status),
                )
            changed = edited(p, drop, file)
            with ledger.together() as add:
                if ledger.get(Proposal, ref) != p:  # looking for the gate's questions takes a while
                    raise ConflictError(
                        "{ref} has changed meanwhile.", "Read it again with `habitus proposals show {ref}`.", ref=ref
                    )
                add(changed)
                add(Decision(proposal=ref, verdict="edit", digest=changed.digest))
        return forms.summary(changed)

    def learn(self) -> list[Json]:
        """Run what is approved: train → gate → promote or reject. A run cut short goes on.

        One that fails leaves the others their turn; it stays approved, and its error comes last.
        """
        done: list[Json] = []
        failed: list[HabitusError] = []
        with self.bag.training_lock():
            self._sweep(self.bag.ruminating_lock())
            for ref in [p.id for p in self.bag.ledger.all(Proposal) if p.status in READY]:
                p = self.bag.ledger.get(Proposal, ref)
                if p.status not in READY:  # withdrawn while those before it were trained
                    continue
                try:
                    done.append(self.updates.carry_out(p))
                except HabitusError as error:
                    self.bag.note(error.message, ref)
                    failed.append(error)
                finally:  # Ctrl-C, too
                    self.updates.stay_approved(ref)
            self._sweep(self.bag.ruminating_lock())
        if failed:
            failed[0].done = done
            raise failed[0]
        return done

    def report(self, ref: str) -> Json:
        """What one training was, for a person to read in a minute."""
        return training_report.data(self.bag, ref)

    def rebuild(self, name: str) -> Json:
        """Train the adapters of a self again from the ledger alone, and say whether the same bytes came out."""
        bag = self.bag
        who = bag.selves.get(name)
        runs = {r.adapter: r for r in bag.ledger.all(Run)}
        with bag.training_lock():
            found = [
                {"adapter": a, "digest": runs[a].adapter_digest, "rebuilt": rebuild(bag, a, self._trained)}
                for a in dict.fromkeys(p.adapter for p in who.parts)
            ]
        return {"self": who.id, "adapters": found, "same": all(f["digest"] == f["rebuilt"] for f in found)}

    def export(self, name: str, out: Path, rank: int = 0) -> Json:
        """Write what a self wears as one plain adapter for each language: ``out/ko``, ``out/en``.

        Its mask stays here: what the system prompt says is not in the weights.

        Raises:
            ConflictError: it wears none, or ``out`` holds something.
        """
        who = self.bag.selves.get(name)
        voices = {x: self.bag.selves.voice(who, x) for x in LANGUAGES}
        if not who.parts:
            raise ConflictError("{who} wears no adapters.", "`habitus self log` lists who does.", who=who.id)
        if rank < 0:
            raise UsageError("The rank is {rank}.", "Allowed: 1 and up, or 0 for as much as it needs.", rank=rank)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConflictError("{out} holds something already.", "Name a new folder.", out=out)
        found = []
        for x in (x for x in LANGUAGES if voices[x].parts):
            got, error = compose(voices[x], out / x, rank)
            worn = [path.parent.name for path, _ in voices[x].parts]
            found.append({"language": x, "path": str(out / x), "adapters": worn, "rank": got, "error": round(error, 6)})
        return {"self": who.id, "base": str(self.bag.body.path), "exported": found}

    def _trained(self, event: Json) -> None:
        self.context.progress("train", event)

    def sleep(self) -> Json:
        """The scheduled pass: ruminate, then run what the person has approved, once or by standing leave."""
        found = self.ruminate()
        try:
            if leave := standing(self.bag):
                for p in self.bag.ledger.all(Proposal):
                    if p.kind == "decay" and p.status == "waiting":
                        self.approve(p.id, p.digest, Phrase("by the standing leave {ref}", ref=leave.id))
            return {"ruminate": found, "learn": self.learn()}
        except HabitusError as error:
            error.done = {"ruminate": found} | ({"learn": error.done} if error.done else {})
            raise

    # -- selves --------------------------------------------------------------------------------

    def self_now(self, name: str = "") -> Json:
        """Who speaks, or who ``name`` is."""
        return forms.self_(self.bag.selves.get(name) if name else self.bag.selves.current())

    def self_log(self) -> list[Json]:
        """How it came to be: each time another self began to speak."""
        return forms.trail(self.bag)

    def rollback(self, name: str = "") -> Json:
        """Let an earlier self speak again, mask included."""
        try:
            return forms.self_(self.bag.selves.back(name))
        except ModelError as error:
            self.bag.note(error.message, name)
            raise

    def forget(self, ref: str) -> Json:
        """The person's own decision that a habit shall go: out of mask and weights."""
        bag = self.bag
        with bag.training_lock():
            habit = bag.ledger.get(Habit, ref)
            now = bag.selves.current()
            inside = ref in {p.habit for p in now.parts}
            if habit.stage == "released" and not inside:
                raise ConflictError("{ref} is forgotten already.", "See `habitus self log`.", ref=ref)
            for p in bag.ledger.all(Proposal, parent=ref):
                if p.status in OPEN:
                    bag.ledger.add(p.model_copy(update={"status": "withdrawn", "note": "forgotten", "at": ""}))
            if any(r.habit == ref or r.text == habit.rule for r in now.mask.rules):
                drop_rule(bag, habit.rule)
            if not inside:
                bag.ledger.add(habit.become("released", Phrase("The person asked to forget it.")))
                self._sweep(bag.ruminating_lock())
                return {"habit": ref, "self": bag.selves.current().id, "gate": None}
            proposal = file_release(bag, habit, Phrase("The person asked to forget it."))
            self.updates.answer(
                proposal,
                {"verdict": "approve", "digest": proposal.digest, "note": Phrase("forget is the person's decision")},
            )
            done = self.updates.carry_out(bag.ledger.get(Proposal, proposal.id))
            self._sweep(bag.ruminating_lock())
        return {"habit": ref, "self": done["self"], "gate": done["gate"]}

    def erase(self, ref: str) -> Json:
        """Erase a turn, or a whole conversation, for good. What rested on it is offered for retraining."""
        bag = self.bag
        turns = [t for t in bag.ledger.all(Turn) if ref in (t.id, t.thread)]
        if not turns:
            raise NotFoundError(
                "There is no turn and no conversation {ref!r}.",
                "`habitus why HABIT` and turns/*.jsonl name them.",
                ref=ref,
            )
        with bag.ruminating_lock():
            with bag.deciding_lock(), bag.training_lock():
                self.updates.let_go()
                done = erase(bag, [t.id for t in turns])
                self._report_anew()
            offered = offer_retraining(bag)
        return {
            **done.model_dump(mode="json", include={"turns", "memories", "examples", "adapters"}),
            "habits": [
                {"id": h.id, "rule": h.rule, "stage": h.stage} for h in (bag.ledger.get(Habit, x) for x in done.habits)
            ],
            "proposal": offered.id if offered else "",
        }

    def _sweep(self, other: AbstractContextManager[None]) -> None:
        """Finish what erasing began, while nobody thinks over, trains or decides; where somebody does, the next pass will.

        ``other``: of the locks of trainings and of passes the one that the caller does not hold.
        """
        with suppress(BusyError), self.bag.deciding_lock(), other:
            self.updates.let_go()
            if sweep(self.bag):
                self._report_anew()

    def _report_anew(self) -> None:
        """Every report, without what was erased."""
        for p in self.bag.ledger.all(Proposal):
            training_report.write(self.bag, p.id)

    def why(self, habit: str) -> Json:
        """From a habit back to what made it: weights, runs, decisions, examples, turns."""
        return lineage.why(self.bag, habit)

    def diff(self, a: str, b: str) -> Json:
        """What two selves are made of and say differently."""
        found = lineage.differences(self.bag.selves.get(a), self.bag.selves.get(b))
        texts = lineage.questions()
        answers = zip(texts, self.ask(texts, name=a), self.ask(texts, name=b), strict=True)
        said = [{"text": t, "a": x["reply"], "b": y["reply"]} for t, x, y in answers]
        return {**found, "asked": len(said), "answers": [s for s in said if s["a"] != s["b"]]}

    def habits(self) -> list[Habit]:
        """The habits in the weights now."""
        return living(self.bag)
