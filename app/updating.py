"""Carrying proposals through the update graph: a person's answer, training, gate, and the checkpoints between them."""

from __future__ import annotations

import sqlite3
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from langgraph.types import Command

from agent.learning.proposing import refile, stale
from agent.learning.running import check_approved
from agent.records import Decision, GateReport, Proposal, Run
from app import forms
from app import report as training_report
from graphs import update
from graphs.context import Context

Json = dict[str, Any]


class Updates:
    """The update graph over one bag; each version of a proposal that a person was shown has a thread of its own."""

    def __init__(self, context: Context) -> None:
        self.bag, self.context = context.bag, context

    def answer(self, p: Proposal, answer: Json) -> None:
        """Bring the proposal's thread to its interrupt and resume it with the person's answer."""
        graph, config = self._graph, self._thread(p)
        if not graph.get_state(config).next:
            graph.invoke({"proposal": p.id}, config, context=self.context, durability="sync")
        if graph.get_state(config).next == ("approve",):
            graph.invoke(Command(resume=answer), config, context=self.context, durability="sync")
        if graph.get_state(config).next == ("settle",):  # a crash came between answer and record: this one holds
            graph.update_state(config, {"answer": answer}, as_node="approve")
            graph.invoke(None, config, context=self.context, durability="sync")

    def carry_out(self, p: Proposal) -> Json:
        """Train what was approved, examine it, promote or reject; put it before the person anew where it has gone stale.

        Raises:
            HabitusError: it was not approved so, or the training failed.
        """
        if stale(self.bag, p):
            fresh = refile(self.bag, p)
            return {"proposal": p.id, "status": "withdrawn", "adapter": "", "self": self.bag.selves.current().id, "promoted": False, "replaced_by": fresh.id if fresh else "",
                    "gate": {"passed": False, "probes": []}, "seconds": {"train": 0.0, "gate": 0.0, "swap": 0.0}}  # fmt: skip
        check_approved(self.bag, p)
        graph, config = self._graph, self._thread(p)
        if graph.get_state(config).next in ((), ("approve",), ("settle",)):
            # the checkpoint is only an index: begin anew from the recorded decision
            last = self.bag.ledger.all(Decision, parent=p.id)[-1]
            self.answer(p, {"verdict": last.verdict, "digest": last.digest, "note": last.note})
        started = time.monotonic()
        state = graph.invoke(None, config, context=self.context, durability="sync")
        whole = time.monotonic() - started
        run = self.bag.ledger.get(Run, state["run"]) if state.get("run") else None
        reports = self.bag.ledger.all(GateReport, parent=p.id)
        report = reports[-1] if reports else None
        training_report.write(self.bag, p.id)
        train, gate = (run.seconds if run else 0.0), (report.seconds if report else 0.0)
        status = self.bag.ledger.get(Proposal, p.id).status
        return {
            "proposal": p.id,
            "status": status,
            "adapter": run.adapter if run else "",
            "self": self.bag.selves.current().id,
            "promoted": status == "promoted",
            "gate": forms.gate(report) if report else {"passed": True, "probes": []},
            "seconds": {"train": train, "gate": gate, "swap": round(max(0.0, whole - train - gate), 2)},
        }

    def stay_approved(self, ref: str) -> None:
        """What failed or was broken off may be edited or tried again; what came to an end stays as it ended."""
        with self.bag.ledger.together() as add:
            p = self.bag.ledger.get(Proposal, ref)
            if p.status == "running":
                add(p.model_copy(update={"status": "approved", "at": ""}))

    def let_go(self) -> None:
        """Close the checkpoints: their file is about to be dropped."""
        if graph := self.__dict__.pop("_graph", None):
            graph.checkpointer.conn.close()

    def _thread(self, p: Proposal) -> Any:
        edits = sum(d.verdict == "edit" for d in self.bag.ledger.all(Decision, parent=p.id))
        return {"configurable": {"thread_id": f"{p.id}.{edits}"}, "recursion_limit": 50}

    @cached_property
    def _graph(self) -> Any:
        from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
        from langgraph.checkpoint.sqlite import SqliteSaver

        self.bag.path.mkdir(parents=True, exist_ok=True)
        _ = self.bag.ledger
        strict = JsonPlusSerializer(allowed_msgpack_modules=None)  # the default one calls whatever a checkpoint names
        saver = SqliteSaver(_opened(self.bag.path / "checkpoints.db"), serde=strict)
        return update.build().compile(checkpointer=saver, interrupt_before=["train"])


def _opened(file: Path) -> sqlite3.Connection:
    """The checkpoints. Damaged ones are dropped: they are only an index, and begin anew from what is recorded."""
    connection = sqlite3.connect(file, check_same_thread=False, timeout=30)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
            return connection
    except sqlite3.OperationalError:  # locked, or a disk that is full: no damage
        raise
    except sqlite3.DatabaseError:
        pass
    connection.close()
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    return sqlite3.connect(file, check_same_thread=False, timeout=30)
