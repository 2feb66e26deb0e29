"""Results for people: plain words on a terminal, with what cannot be seen made visible."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

Json = dict[str, Any]
_MARK = {
    "waiting": "…",
    "approved": "✓",
    "vetoed": "✗",
    "running": "▶",
    "promoted": "★",
    "rejected": "✗",
    "withdrawn": "–",
}


_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\u034f")  # letters and marks that look like nothing


def visible(text: str) -> str:
    """``text`` on one line, with invisible, blank, control and direction-changing characters spelled out."""

    def shown(c: str) -> str:
        kind = unicodedata.category(c)
        hidden = (
            kind in ("Cf", "Cc", "Co", "Cs", "Zl", "Zp")
            or c in _BLANK
            or "\ufe00" <= c <= "\ufe0f"
            or (kind == "Zs" and c != " ")
        )
        return " ⏎ " if c == "\n" else f"⟨U+{ord(c):04X}⟩" if hidden else c

    return "".join(map(shown, text))


def progress(what: str, details: Json) -> None:
    """One line on stderr for each step of long work."""
    if what == "tool":
        return
    if what == "train" and "loss" in details:
        done = int(20 * details["step"] / details["of"])
        end = "\n" if details["step"] >= details["of"] else ""
        print(
            f"\r  training {'█' * done}{'░' * (20 - done)} step {details['step']}/{details['of']}  loss {details['loss']:.4f}",
            end=end,
            file=sys.stderr,
            flush=True,
        )
        return
    text = {
        "train": f"  training: {details.get('stage', 'starting')}"
        + (f" ({details['rows']} rows)" if "rows" in details else ""),
        "examine": "  the gate examines the new weights …",
        "promote": f"  {details.get('self', '')} speaks now",
    }.get(what)
    if text is None:
        arguments = details.get("arguments", {})
        said = {"judge": f"{arguments.get('kind', '')} {arguments.get('value', '')}", "propose": arguments.get("rule", arguments.get("reason", "")),
                "write": details.get("result", ""), "schedule": details.get("result", "")}.get(what, details.get("result", ""))  # fmt: skip
        text = f"  {what}: {details.get('tool', '')} {visible(str(said)).strip()}"
    print(text, file=sys.stderr, flush=True)


def mask(who: Json) -> None:
    """The mask of a self."""
    worn = who["mask"]
    for language, persona in worn["persona"].items():
        print(f"persona ({language}): {visible(persona)}")
    if worn["mood"]:
        print(f"mood: {visible(worn['mood'])}")
    for number, rule in enumerate(worn["rules"], 1):
        habit = f"  ({rule['habit']})" if rule["habit"] else ""
        print(f"{number}. [{'+'.join(rule['scope'])}] {visible(rule['text'])}{habit}")
    if not worn["rules"]:
        print("The mask holds no rules.")
    for user, reply in worn["few_shot"]:
        print(f"  e.g. {visible(user)} → {visible(reply)}")


def rumination(r: Json) -> None:
    """What a pass came to."""
    for v in r["verdicts"]:
        print(f"{v['turn_id']:>5}  {v['value']}  {v['kind']:<11} {visible(v['reason'])}")
    for ref in r["proposals"]:
        print(f"It asks to learn: {ref}. Read it with `habitus proposals show {ref}`.")
    if r["abstained"]:
        print(f"It chose to learn nothing: {visible(r['reason'])}")
    if r["diary"]:
        print(f"Diary: {visible(r['diary'])}")


def proposals(rows: list[Json]) -> None:
    """One line each."""
    for p in rows:
        print(f"{_MARK[p['status']]} {p['id']:<4} {p['status']:<9} {p['kind']:<8} {p['habit']:<4} {visible(p['rule'])}")
    if not rows:
        print("It has proposed nothing yet. Talk with it, then `habitus ruminate`.")


def proposal(p: Json) -> None:
    """Everything a person needs to judge it."""
    print(f"{p['id']}: {p['kind']} ({p['status']})   habit {p['habit']}")
    print(f"  rule      {visible(p['rule'])}")
    if p["quote"]:
        print(f"  you said  “{visible(p['quote'])}”")
    print(f"  why       {visible(p['rationale'])}")
    print(f"  scope     {', '.join(p['scope'])}    method {p['method']}")
    for t in p["evidence"]:
        origin = "" if t["source"] == "user" else f"   ! from {t['source']}, not your own words"
        print(f"  evidence  {t['turn_id']} ({t['at'][:10]}) {visible(t['user'])}{origin}")
    for kind in ("risks", "conflicts"):
        for text in p[kind]:
            print(f"  {kind[:-1]:<9} {visible(text)}")
    if p["preview"]:
        print("\n  Before and after:")
        for x in p["preview"]:
            print(
                f"    {visible(x['prompt'])}\n      now    {visible(x['before'])}\n      then   {visible(x['after'])}"
            )
    if p["examples"]:
        print(f"\n  {len(p['examples'])} examples would be trained on, these and no others:")
    for e in p["examples"]:
        where = f" from {e['source']}" if e["source"] else ""
        kept = f"  [with: {' '.join(e['rules'])}]" if e["rules"] else ""
        frame = "" if e["frame"] == "plain" else f" ({e['frame']})"
        print(
            f"  {e['n']:>4} {e['origin']}{where}{frame}  {visible(e['prompt'])} → {visible(e['completion'])}{visible(kept)}"
        )
    for rules in dict.fromkeys(tuple(e["teacher"]) for e in p["examples"] if e["habit"] == p["habit"]):
        print(f"\n  taught by the frozen base under: {visible(' · '.join(rules))}")
    for language, persona in p["config"].get("personas", {}).items():
        print(f"  persona ({language}): {visible(persona)}")
    if p["config"]:
        numbers = ", ".join(f"{k} {v}" for k, v in p["config"].items() if not isinstance(v, dict | list))
        print(f"\n  training  {numbers}")
    if p["gate"]:
        gate(p["gate"])
    print(f"  digest    {p['digest']}")


def gate(report: Json) -> None:
    """The exam's table."""
    for probe in report["probes"]:
        mark = "✓" if probe["passed"] else "✗"
        print(
            f"    {mark} {probe['name']:<12} before {probe['before']:>6.1%}  after {probe['after']:>6.1%}  needs {probe['threshold']:.0%}  of {probe['count']}  {probe['detail']}"
        )


def decided(p: Json) -> None:
    """A proposal after a decision."""
    following = {
        "approved": "`habitus learn` trains it.",
        "waiting": f"It waits for your decision: `habitus proposals show {p['id']}`.",
    }
    print(f"{p['id']} is {p['status']}. {following.get(p['status'], '')}".strip())


def learned(rows: list[Json]) -> None:
    """What training came to."""
    if not rows:
        print("Nothing is approved, so nothing was learned.")
    for r in rows:
        s = r["seconds"]
        if r.get("replaced_by"):
            print(
                f"{r['proposal']} no longer fits the weights of now; {r['replaced_by']} takes its place and waits for you."
            )
            continue
        if r["promoted"]:
            print(f"{r['proposal']} passed the gate: {r['self']} speaks now.")
        else:
            broke = ", ".join(p["name"] for p in r["gate"]["probes"] if not p["passed"])
            print(f"{r['proposal']} did not pass the gate ({broke}); {r['self']} goes on speaking.")
        gate(r["gate"])
        print(f"    train {s['train']:.1f} s, gate {s['gate']:.1f} s, swap {s['swap']:.1f} s")


def slept(r: Json) -> None:
    """What a scheduled pass came to."""
    rumination(r["ruminate"])
    learned(r["learn"])


def self_(who: Json) -> None:
    """Who speaks."""
    print(f"{who['name']}  (base {who['base'][:12]}, {who['cause']}, {who['at'][:19]})")
    for part in who["parts"]:
        print(f"  {part['habit']:<4} in {part['adapter']} × {part['weight']} ({part['stage']})")
    if not who["parts"]:
        print("  no adapters: the base itself")
    mask(who)
    print("sampling: " + ", ".join(f"{k} {v}" for k, v in who["sampling"].items() if v not in (None, [], {})))


def self_log(rows: list[Json]) -> None:
    """How it came to be."""
    for r in rows:
        print(
            f"{r['at'][:19]}  {r['name']}  {r['cause']:<22} habits {', '.join(r['habits']) or '–'}   rules {len(r['rules'])}"
        )


def forgotten(r: Json) -> None:
    """What forgetting came to."""
    print(f"{r['habit']} is let go; {r['self']} speaks now.")
    if r["gate"]:
        gate(r["gate"])
