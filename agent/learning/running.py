"""Carry out one approved training: a subprocess, its progress, and an immutable adapter at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.bag import Bag
from agent.errors import ConflictError, LearningError
from agent.learning.data import digest
from agent.phrase import Phrase
from agent.records import Decision, Proposal, Run
from agent.selves import digest_of

ROOT = Path(__file__).parents[2]


def check_approved(bag: Bag, proposal: Proposal) -> None:
    """Nothing is trained that a person did not approve exactly so.

    Raises:
        ConflictError: no approval, or data, configuration or base differ from what was shown.
    """
    decisions = bag.ledger.all(Decision, parent=proposal.id)
    last = decisions[-1] if decisions else None
    found = digest(proposal.examples, proposal.config, bag.body.digest)
    if last is None or last.verdict != "approve":
        raise ConflictError("{ref} was not approved.", "Read it with `habitus proposals show {ref}`.", ref=proposal.id)
    if not last.digest == proposal.digest == found:
        raise ConflictError(
            "{ref} is not what was approved: data, configuration or base have changed since.",
            "Nothing was trained. Veto it and let it be proposed again.",
            ref=proposal.id,
        )


def train(bag: Bag, proposal: Proposal, progress: Callable[[dict[str, Any]], None]) -> Run:
    """Train what was approved; a run that already produced its adapter is returned as it is.

    Raises:
        LearningError: the training failed; the log's path is in the hint.
    """
    check_approved(bag, proposal)
    for run in bag.ledger.all(Run, parent=proposal.id):
        if run.adapter and (bag.path / "adapters" / run.adapter).is_dir():
            return run
    work = bag.path / "runs" / proposal.id
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    template = bag.settings.model.template
    job = {
        "examples": [e.model_dump(mode="json") for e in proposal.examples],
        "config": proposal.config,
        "digest": proposal.digest,
        "base_path": str(bag.body.path),
        "personas": proposal.config["personas"],
        "tools": bag.toolboxes,
        "template": Path(template).read_text("utf-8") if template else "",
        "out": str(work),
    }
    file, log = work / "job.json", work / "log.txt"
    file.write_text(json.dumps(job, ensure_ascii=False), "utf-8")
    curve: list[tuple[int, float]] = []
    last: dict[str, Any] = {}
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages: a seventh less time on a CPU (docs/log.md)
    }
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.learning.train", str(file)],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=work,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    last = json.loads(line)
                except ValueError:
                    continue  # some library's remark
                if "loss" in last:
                    curve.append((int(last["step"]), float(last["loss"])))
                progress(last)
            code = process.wait()
        except BaseException:
            process.kill()  # Ctrl-C: nothing is half-promoted, the proposal stays approved
            process.wait()
            raise
    common = {"proposal": proposal.id, "base": proposal.base, "data": proposal.digest, "config": proposal.config}
    if code != 0 or last.get("stage") != "done":
        reason = {
            3: Phrase("the data is not what was approved"),
            4: Phrase("row {row} is longer than [training] context_length", row=last.get("row")),
        }.get(code, Phrase("it ended with code {code}", code=code))
        bag.ledger.add(Run.model_validate({**common, "failure": reason}))
        raise LearningError(
            "The training of {ref} failed: {reason}.",
            "Its log is {log}; `habitus learn` tries again.",
            ref=proposal.id,
            reason=reason,
            log=log,
        )
    fingerprint = digest_of(work / "adapter")
    name = f"a-{proposal.id}-{fingerprint[:8]}"
    home = bag.path / "adapters" / name
    home.parent.mkdir(exist_ok=True)
    if not home.exists():
        os.replace(work / "adapter", home)
        for path in home.iterdir():
            path.chmod(0o444)
    shutil.rmtree(work / "trainer", ignore_errors=True)
    file.unlink()  # the rows stand in the ledger; words of a conversation lie in no second place
    return bag.ledger.add(
        Run.model_validate(
            {
                **common,
                "adapter": name,
                "adapter_digest": fingerprint,
                "curve": curve,
                "seconds": last["seconds"],
                "peak_mb": last["peak_mb"],
            }
        )
    )
