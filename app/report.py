"""The report of one training, to be read in a minute: what and why, curves, answers, exam."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

from agent.bag import Bag
from agent.records import GateReport, Proposal, Run, Self, Speaking
from agent.settings import RANGES
from app import forms
from app.show import visible
from app.words import recorded, say

Json = dict[str, Any]
Point = tuple[int, float]  # step, loss
WIDTH, HEIGHT = 640, 240
BLUE, ORANGE = "#1d4ed8", "#c2410c"


def data(bag: Bag, ref: str) -> Json:
    """Everything the report says, from the ledger alone.

    Raises:
        NotFoundError: no such proposal.
    """
    ledger = bag.ledger
    p = ledger.get(Proposal, ref)
    runs = [r for r in ledger.all(Run, parent=ref) if r.adapter]
    gates = ledger.all(GateReport, parent=ref)
    run, gate = (runs[-1] if runs else None), (gates[-1] if gates else None)
    origins = [e.origin for e in p.examples if not e.tombstone]
    before, after = _selves(bag, ref)
    return {
        "proposal": p.id, "kind": p.kind, "status": p.status, "habit": p.habit, "rule": p.rule, "quote": p.quote,
        "why": p.rationale, "scope": list(p.scope), "rows": {o: origins.count(o) for o in ("turn", "invented", "anchor")},
        "config": {k: v for k, v in p.config.items() if not isinstance(v, dict)},
        "reasons": _reasons(p.config, run is None or bool(run.validation)),
        "run": run.model_dump(mode="json", include={"adapter", "curve", "validation", "stopped_early", "began", "seconds", "peak_mb", "environment"}) if run else None,
        "samples": [{"question": q, "before": b, "after": a} for q, b, a in gate.samples] if gate else [],
        "gate": {**forms.gate(gate), "seconds": gate.seconds} if gate else None,
        "self_before": before, "self_after": after,
    }  # fmt: skip


def write(bag: Bag, ref: str) -> None:
    """The report beside the run's log, as Markdown, JSON and a picture of the curves; nothing without a run."""
    found = data(bag, ref)
    if found["run"] is None:
        return
    folder = bag.path / "runs" / ref
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(found), "utf-8")
    (folder / "report.json").write_text(json.dumps(found, ensure_ascii=False, indent=1), "utf-8")
    (folder / "curve.svg").write_text(curve(found["run"]), "utf-8")


def _selves(bag: Bag, ref: str) -> tuple[Json | None, Json | None]:
    """Who spoke before the promotion, and who since; None for a promotion that never was."""
    trail = bag.ledger.rows(Speaking)
    for i, s in enumerate(trail):
        if s.cause == ref:
            return _brief(bag.selves.get(trail[i - 1].self_name)) if i else None, _brief(bag.selves.get(s.self_name))
    return None, None


def _brief(who: Self) -> Json:
    return {"name": who.id, "parts": [f"{p.habit} × {p.weight:g} ({p.stage})" for p in who.parts], "rules": [r.text for r in who.mask.rules]}  # fmt: skip


def _reasons(config: Json, watched: bool) -> dict[str, str]:
    """Why the numbers are what they are; ``watched``: rows were kept out."""
    if not config.get("method"):
        return {}
    low, high = RANGES["training.learning_rate"]
    rate = config["learning_rate"]
    methods = {
        "distill": say("match what the frozen base says under the rule, not only its words"),
        "sft": say("learn the words themselves"),
        "dpo": say("match what the base says under the rule, and prefer it to what was not wanted, pair by pair"),
        "kto": say("match what the base says under the rule, and weigh what is and is not wanted, each by itself"),
    }
    found = {
        "method": methods[config["method"]],
        "strategy": say("trained from the frozen base over every habit it carries: nothing is stacked on older training") if config["strategy"] == "core" else say("an adapter of its own: at once, and released by taking it off"),
        "learning_rate": say("a tiny model learns a habit only at a high rate") if rate > high else say("below the range for a Llama, {low} to {high}", low=low, high=high) if rate < low else say("inside the range for a Llama, {low} to {high}", low=low, high=high),
    }  # fmt: skip
    if config["method"] != "sft":
        times = 1 + 1.5 * config["focus"]  # an anchor counts as half changed beside what changes in it
        found["focus"] = say("tokens that the rule changes count up to {times:g} times as much", times=times)
    if watched:
        found["validation"] = say("this share of the rows is kept out, to see whether it generalises")
    return found


def markdown(r: Json) -> str:
    """The report as Markdown, in the person's language; the curve lies beside it as ``curve.svg``."""
    rows, run, gate = r["rows"], r["run"], r["gate"]
    lines = [f"# {r['proposal']}: {visible(r['rule'])}", ""]
    lines += [f"{say(r['kind'])} · {say(r['status'])} · {r['habit']} · {', '.join(r['scope'])}", ""]
    if r["quote"]:
        lines += [f"> {visible(r['quote'])}", ""]
    lines += [visible(recorded(r["why"])), ""]
    lines += [say("Rows: {turn} from your turns, {invented} invented, {anchor} that keep the rest.", **rows), ""]
    if r["reasons"]:
        lines += [f"- `{k}` {r['config'][k]}: {reason}" for k, reason in r["reasons"].items()]
        lines += [
            f"- `{k}` {v}"
            for k, v in r["config"].items()
            if k not in r["reasons"] and v != "" and not isinstance(v, list)
        ] + [""]
    if run:
        lines += [f"## {say('Training')}", "", "![](curve.svg)", ""]
        for language, losses, kept_out in _courses(run):
            told = []
            if losses:
                told += [say("Loss {first:.3f} → {last:.3f}.", first=losses[0][1], last=losses[-1][1])]
            if kept_out:
                told += [say("On rows kept out: {losses}.", losses=" → ".join(f"{x:.3f}" for _, x in kept_out))]
            if told:
                lines += [f"- {f'{language}: ' if language else ''}{' '.join(told)}"]
        if run["stopped_early"]:
            lines += [f"- {say('Stopped early: the rows kept out were getting worse.')}"]
        lines += [
            f"- {say('{seconds:.0f} s; {peak:.0f} MB at most.', seconds=run['seconds'], peak=run['peak_mb'])}",
            "",
        ]
    if r["samples"]:
        lines += [f"## {say('The same questions before and after')}", ""]
        for s in r["samples"]:
            lines += [f"- {visible(s['question'])}", f"  - {visible(s['before'])}", f"  - {visible(s['after'])}"]
        lines += [""]
    if gate:
        lines += [f"## {say('The gate')}: {'✓' if gate['passed'] else '✗'}", ""]
        lines += [
            f"| | {say('probe')} | {say('before')} | {say('after')} | {say('interval')} | {say('needs')} | |",
            "|---|---|---|---|---|---|---|",
        ]
        for q in gate["probes"]:
            mark, name, detail = "✓" if q["passed"] else "✗", recorded(q["name"]), recorded(q["detail"])
            if q["passed"] and not q["count"]:
                lines += [f"| – | {name} | | | | | {detail} |"]
                continue
            low, high = q["interval"]
            numbers = f"{q['before']:.1%} | {q['after']:.1%} | {low:.0%}–{high:.0%} | {q['threshold']:.0%}"
            lines += [f"| {mark} | {name} | {numbers} | {q['count']} {detail} |"]
        lines += [""]
    for title, who in ((say("The self before"), r["self_before"]), (say("The self after"), r["self_after"])):
        if who:
            held = [*who["parts"], *(visible(x) for x in who["rules"])]
            lines += [f"{title}: {who['name']}: {'; '.join(held) or '–'}", ""]
    return "\n".join(lines)


def _courses(run: Json) -> list[tuple[str, list[Point], list[Point]]]:
    """The loss in training and on the rows kept out of each language whose weights were trained; "" is the only one."""
    if len(run["began"]) < 2:
        return [("", run["curve"], run["validation"])]
    starts = sorted((step, language) for language, step in run["began"].items())
    return [
        (
            language,
            [p for p in run["curve"] if start < p[0] <= end],
            [p for p in run["validation"] if start < p[0] <= end],
        )
        for (start, language), (end, _) in pairwise([*starts, (math.inf, "")])
    ]


def curve(run: Json) -> str:
    """Loss in training (a line for each language) and on the rows kept out (dots), on a logarithmic axis, as SVG."""
    points = [*run["curve"], *run["validation"]]
    right = max((x for x, _ in points), default=1)
    heights = [_decades(y) for _, y in points] or [0.0]
    low = math.floor(min(heights))
    high = max(low + 1, math.ceil(max(heights)))

    def place(x: float, y: float) -> tuple[float, float]:
        return 50 + (WIDTH - 70) * x / right, HEIGHT - 30 - (HEIGHT - 50) * (_decades(y) - low) / (high - low)

    def text(x: float, y: float, told: object, colour: str = "#555") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="12" fill="{colour}">{told}</text>'

    drawn = []
    for power in range(low, high + 1):
        x, y = place(0, 10.0**power)
        drawn += [f'<path d="M{x:.1f},{y:.1f} H{WIDTH - 20}" stroke="#ddd"/>', text(4, y + 4, f"{10.0**power:g}")]
    for language, losses, _ in _courses(run):
        if losses:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in losses))
            drawn += [f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="2"/>']
            x, y = place(*losses[0])
            drawn += [text(x + 6, y - 4, language)]
    for x, y in (place(*p) for p in run["validation"]):
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{ORANGE}"/>']
    drawn += [text(46, HEIGHT - 10, 0), text(WIDTH - 40, HEIGHT - 10, right)]
    drawn += [text(200, HEIGHT - 10, f"— {say('training')}", BLUE), text(320, HEIGHT - 10, f"● {say('rows kept out')}", ORANGE)]  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{"".join(drawn)}</svg>\n'
    )


def _decades(loss: float) -> float:
    return math.log10(max(loss, 1e-4))
