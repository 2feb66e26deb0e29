"""Carry out one approved training: a subprocess for each language, its progress, an immutable adapter at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from agent.bag import Bag
from agent.errors import ConflictError, LearningError
from agent.learning.data import LONGEST, bank, digest, framed
from agent.models.base import gpu
from agent.phrase import Phrase
from agent.ports import BASE
from agent.records import READY, Decision, Example, Proposal, Run
from agent.selves import digest_of
from prompts import Language

ROOT = Path(__file__).parents[2]
CANARIES = 4  # questions
Progress = Callable[[dict[str, Any]], None]


def check_approved(bag: Bag, proposal: Proposal) -> None:
    """Nothing is trained that a person did not approve exactly so, and that was not withdrawn since.

    Raises:
        ConflictError: no approval, or data, configuration, template or base differ from what was shown.
    """
    decisions = bag.ledger.all(Decision, parent=proposal.id)
    last = decisions[-1] if decisions else None
    found = digest(proposal.examples, proposal.config, bag.body.digest)
    if last is None or last.verdict != "approve":
        raise ConflictError("{ref} was not approved.", "Read it with `habitus proposals show {ref}`.", ref=proposal.id)
    if proposal.status not in READY:
        raise ConflictError(
            "{ref} is {status} already.",
            "See `habitus proposals`; a decision is made once.",
            ref=proposal.id,
            status=Phrase(proposal.status),
        )
    same = proposal.config.get("template", "") == (bag.settings.model.template_digest if proposal.examples else "")
    if not (same and last.digest == proposal.digest == found):
        raise ConflictError(
            "{ref} is not what was approved: data, configuration or base have changed since.",
            "Nothing was trained. Veto it and let it be proposed again.",
            ref=proposal.id,
        )


def train(bag: Bag, proposal: Proposal, progress: Progress) -> Run:
    """Train what was approved; a run on just these rows that already produced its adapter is returned as it is.

    Raises:
        LearningError: the training failed; the log's path is in the hint.
    """
    check_approved(bag, proposal)
    for run in bag.ledger.all(Run, parent=proposal.id):
        if run.adapter and run.data == proposal.digest and (bag.path / "adapters" / run.adapter).is_dir():
            return run
    work = bag.path / "runs" / proposal.id
    common = {"proposal": proposal.id, "base": proposal.base, "data": proposal.digest, "config": proposal.config}
    try:
        figures = _fit(bag, proposal, work, progress)
    except LearningError as error:
        bag.ledger.add(Run.model_validate({**common, "failure": error.message}))
        raise
    fingerprint = digest_of(work / "adapter")
    name = f"a-{proposal.id}-{fingerprint[:8]}"
    _install(work / "adapter", bag.path / "adapters" / name)
    return bag.ledger.add(Run.model_validate({**common, **figures, "adapter": name, "adapter_digest": fingerprint}))


def rebuild(bag: Bag, adapter: str, progress: Progress) -> str:
    """Train an adapter again from the ledger alone; its digest now. Put in its place if it is the same and missing.

    The same bytes come out on the same machine, with the same versions and number of threads
    (``Run.environment``).

    Raises:
        ConflictError: it was trained on words that were erased, or on another base.
        LearningError: the training failed.
    """
    run = next(r for r in bag.ledger.all(Run) if r.adapter == adapter)
    proposal = bag.ledger.get(Proposal, run.proposal)
    if any(e.tombstone for e in proposal.examples) or run.base != bag.body.digest:
        raise ConflictError(
            "{adapter} cannot be rebuilt: it rests on words that were erased, or on another base.", adapter=adapter
        )
    work = bag.path / "runs" / f"rebuild-{proposal.id}"
    try:
        _fit(bag, proposal, work, progress, int(run.environment.get("threads", 0)))
        found = digest_of(work / "adapter")
        if found == run.adapter_digest:
            _install(work / "adapter", bag.path / "adapters" / adapter)
        return found
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(made: Path, home: Path) -> None:
    """An adapter's place is its own for good. The weights of each language bear its name, and the language's."""
    home.parent.mkdir(exist_ok=True)
    if not home.exists():
        for weights in [*made.iterdir()]:
            weights.rename(made / f"{home.name}-{weights.name}")
        os.replace(made, home)
        for path in home.glob("*/*"):
            path.chmod(0o444)


def _lines(bag: Bag, language: Language) -> list[dict[str, str]]:
    """What the base says to a few questions of the exam: the training notes how likely that is with its adapter.

    A server that says it wears the adapter can be asked the same (``agent/models/adapters.py``). No words of a person.
    """
    asked = bank("probes", language)["talk"][:CANARIES]
    prompts = [framed(language, text, (), "", "plain", bag.toolboxes) for text in asked]
    replies = bag.body.answers(prompts, BASE, LONGEST)
    return [{"text": text, "reply": r} for text, r in zip(asked, replies, strict=True)]


def write_job(
    bag: Bag,
    examples: Sequence[Example],
    config: dict[str, Any],
    approved: str,
    base: Path,
    out: Path,
    language: Language,
    threads: int = 0,
) -> Path:
    """The file that ``agent.learning.train`` reads; what it makes lands in ``out``.

    Args:
        approved: the digest that rows, configuration and base must have.
        base: the directory of the weights to train from.
        language: whose rows are trained on.
    """
    template = bag.settings.model.template
    job = {
        "examples": [e.model_dump(mode="json") for e in examples],
        "config": config,
        "digest": approved,
        "base_path": str(base),
        "personas": config["personas"],
        "tools": bag.toolboxes,
        "language": language,
        "lines": _lines(bag, language),
        "template": Path(template).read_text("utf-8") if template else "",
        "threads": threads or bag.settings.model.threads,
        "device": bag.settings.model.device,
        "dtype": bag.settings.model.dtype,
        "out": str(out),
    }
    file = out / "job.json"
    file.write_text(json.dumps(job, ensure_ascii=False), "utf-8")
    return file


def _fit(bag: Bag, proposal: Proposal, work: Path, progress: Progress, threads: int = 0) -> dict[str, Any]:
    """Train the weights of each language the rows speak, into ``work/adapter/ko`` …; what was measured."""
    shutil.rmtree(work, ignore_errors=True)
    languages = sorted({e.language for e in proposal.examples})
    jobs: list[Path] = []
    for language in languages:  # before the first: they ask the body, which rests in a training
        out, base = work / language, Path(bag.body.path)
        out.mkdir(parents=True)
        jobs.append(write_job(bag, proposal.examples, proposal.config, proposal.digest, base, out, language, threads))
    with bag.body.resting():
        found = [_run(bag, proposal, job, work / "log.txt", progress) for job in jobs]
    (work / "adapter").mkdir()
    for language in languages:
        os.replace(work / language / "adapter", work / "adapter" / language)
        shutil.rmtree(work / language)  # the rows stand in the ledger; words of a conversation lie in no second place
    steps = [max((x for x, _ in (*one["curve"], *one["validation"])), default=0) for one in found]
    began = [0, *accumulate(steps)][:-1]
    return {
        **{
            key: [(start + x, y) for start, one in zip(began, found, strict=True) for x, y in one[key]]
            for key in ("curve", "validation")
        },
        "began": dict(zip(languages, began, strict=True)),
        "stopped_early": any(one["stopped_early"] for one in found),
        "seconds": round(sum(one["seconds"] for one in found), 2),
        "peak_mb": max(one["peak_mb"] for one in found),
        "environment": found[-1]["environment"],
    }


def _run(bag: Bag, proposal: Proposal, file: Path, log: Path, progress: Progress) -> dict[str, Any]:
    """Run the trainer on a job; what it measured."""
    curve: list[tuple[int, float]] = []
    validation: list[tuple[int, float]] = []
    early = False
    last: dict[str, Any] = {}
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages: a seventh less time on a CPU (docs/log.md)
    }
    device = bag.settings.model.device
    if device != "cpu":  # of several that it sees the trainer would take all, and split each batch
        env["CUDA_VISIBLE_DEVICES"] = gpu(device)
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.learning.train", str(file)],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=file.parent,
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
                if "validation" in last:
                    validation.append((int(last["step"]), float(last["validation"])))
                early = early or last.get("stage") == "stopped early"
                progress(last)
            code = process.wait()
        except BaseException:
            process.kill()  # Ctrl-C: nothing is half-promoted, the proposal stays approved
            process.wait()
            raise
    if code != 0 or last.get("stage") != "done":
        reason = {
            3: Phrase("the data is not what was approved"),
            4: Phrase("row {row} is longer than [training] context_length", row=last.get("row")),
        }.get(code, Phrase("it ended with code {code}", code=code))
        raise LearningError(
            "The training of {ref} failed: {reason}.",
            "Its log is {log}; `habitus learn` tries again.",
            ref=proposal.id,
            reason=reason,
            log=log,
        )
    return {
        "curve": curve,
        "validation": validation,
        "stopped_early": early,
        **{key: last[key] for key in ("seconds", "peak_mb", "environment")},
    }
